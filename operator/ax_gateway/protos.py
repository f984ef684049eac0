"""Envoy's message types: JSON-shaped dicts become protobuf bytes, by a descriptor set and without generated code.

The set is made by `descriptors/main.go`. An unknown field or a wrong type in a dict raises
google.protobuf.json_format.ParseError, which names it, at every depth of Any-typed configuration.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

DELTA_REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"
DELTA_RESPONSE = "envoy.service.discovery.v3.DeltaDiscoveryResponse"


@cache
def pool() -> DescriptorPool:
    """Return the pool of every type in the set; built once, in about 60 ms."""
    found = DescriptorPool()
    data = files("ax_gateway.descriptors").joinpath("envoy.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(data).file:
        found.AddSerializedFile(file.SerializeToString())
    return found


@cache
def message_class(name: str) -> type[Message]:
    """Return the class of a message by its full name; raises KeyError for one that is not in the set."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def to_any(resource: dict[str, Any]) -> bytes:
    """Return a resource, a dict with "@type", as the bytes of a google.protobuf.Any."""
    packed = message_class("google.protobuf.Any")()
    json_format.ParseDict(resource, packed, descriptor_pool=pool())
    return packed.SerializeToString(deterministic=True)


def to_message(name: str, fields: dict[str, Any]) -> Message:
    """Return a message of the named type with these fields."""
    return json_format.ParseDict(fields, message_class(name)(), descriptor_pool=pool())
