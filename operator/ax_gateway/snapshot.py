"""A RouteTable as the resources that Envoy is sent; what did not change is neither built nor encoded again.

Pure but for its memory of the last snapshot. At a thousand models one changed endpoint costs one small resource.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ax_gateway import xds
from ax_gateway.envoy import clusters, listener, routes
from ax_gateway.envoy.words import CERTIFICATE, LISTENER, ROUTES, Resource, on_prem_cluster
from ax_gateway.protos import TYPE_PREFIX, message_class, to_any, to_message
from ax_gateway.table import Route, RouteTable

Certificate = tuple[str, str]
"""The PEM texts of a certificate chain and its private key."""
ON_MATCH = "xds.type.matcher.v3.Matcher.OnMatch"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the pod decides and no object changes: addresses, ports, the waiting places."""

    address: str
    port: int
    hold_port: int
    tls: bool = False
    held: int = 1000


def encoded(resource: Resource) -> xds.Encoded:
    """Return a resource with its version, which is a hash of its content."""
    return xds.Encoded(_version(resource), to_any(resource))


class Snapshots:
    """Builds one snapshot after the other, keeping what stayed the same."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._kept: dict[tuple[str, str], tuple[Any, Any]] = {}
        fixed = listener.listener(shape.address, shape.port, tls=shape.tls)
        self._listener = encoded(fixed)

    def build(self, table: RouteTable, certificate: Certificate | None = None) -> xds.Snapshot:
        """Return the snapshot of a table; without a certificate a TLS listener waits for one."""
        cluster, endpoints = {}, {}
        kept, self._kept = self._kept, {}
        for route in table.routes:
            name = on_prem_cluster(route.key)
            cluster[name] = self._keep(kept, "cluster", route.key, None, partial(self._cluster, route.key))
            endpoints[name] = self._keep(kept, "endpoints", route.key, route.endpoints, partial(self._eds, route))
        return {
            xds.CLUSTER: cluster,
            xds.ENDPOINTS: endpoints,
            xds.SECRET: {CERTIFICATE: encoded(listener.certificate(*certificate))} if certificate else {},
            xds.LISTENER: {LISTENER: self._listener},
            xds.ROUTE: {ROUTES: self._routes(table, kept)},
        }

    def _cluster(self, key: str) -> xds.Encoded:
        return encoded(clusters.on_prem(key, self._shape.held))

    def _eds(self, route: Route) -> xds.Encoded:
        return encoded(clusters.assignment(route, self._shape.hold_port))

    def _routes(self, table: RouteTable, kept: dict[tuple[str, str], tuple[Any, Any]]) -> xds.Encoded:
        """Encode the route configuration around parsed entries: parsing all of them anew takes a third of a second."""
        frame = routes.route_configuration(table, entries={})
        message: Any = to_message(frame["@type"].removeprefix(TYPE_PREFIX), _without_type(frame))
        digest = hashlib.sha256(_json(frame).encode())
        by_model = message.virtual_hosts[0].matcher.matcher_list.matchers[0].on_match.matcher
        for route in table.routes:
            version, entry = self._keep(kept, "route", route.key, route, partial(_entry, route))
            for name in route.names:
                digest.update(f"{name}={version};".encode())
                by_model.matcher_tree.exact_match_map.map[name].CopyFrom(entry)
        packed: Any = message_class("google.protobuf.Any")()
        packed.Pack(message, TYPE_PREFIX.rstrip("/"), deterministic=True)
        return xds.Encoded(digest.hexdigest()[:16], packed.SerializeToString())

    def _keep(
        self, kept: dict[tuple[str, str], tuple[Any, Any]], kind: str, key: str, source: Any, make: Callable[[], Any]
    ) -> Any:
        old = kept.get((kind, key))
        value = old[1] if old and old[0] == source else make()
        self._kept[kind, key] = (source, value)
        return value


def _entry(route: Route) -> tuple[str, Any]:
    fields = routes.on_match(route)
    return _version(fields), to_message(ON_MATCH, fields)


def _without_type(resource: Resource) -> Resource:
    return {key: value for key, value in resource.items() if key != "@type"}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _version(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()[:16]
