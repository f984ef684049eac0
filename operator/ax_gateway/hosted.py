"""What a hosted API is to the gateway, and which addresses may never be one.

Pure. A name resolves outside (`resolve`); what it resolves to is judged here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ax_operator.api.axhostedapi import AXHostedAPISpec

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
CLUSTER_SUFFIXES = (".svc", ".svc.cluster.local")
# Beyond what Python calls link-local, loopback, multicast, unspecified and reserved: metadata services of clouds.
METADATA = (ipaddress.ip_network("fd00:ec2::254/128"), ipaddress.ip_network("100.100.100.200/32"))


class Refused(ValueError):  # noqa: N818
    """A base URL or an address that the gateway does not talk to; the message says what to change."""


@dataclass(frozen=True, slots=True)
class HostedAPI:
    """An AXHostedAPI as the gateway uses it; prices in KRW per million tokens, the budget in KRW per day."""

    name: str
    host: str
    port: int
    tls: bool
    path: str
    model: str
    secret: tuple[str, str] | None = None
    """Name and key of the Secret in the operator's namespace."""
    input_price: float = 0.0
    output_price: float = 0.0
    daily_budget: float | None = None
    max_concurrency: int | None = None
    context_length: int | None = None
    lacks: tuple[str, ...] = ()
    """Capabilities that the API is not known to have, sorted."""
    drop_fields: tuple[str, ...] = ()
    namespaces: frozenset[str] = frozenset()


CAPABILITIES = frozenset({"tools", "vision", "json_schema", "logprobs", "choices"})


def hosted_api(manifest: Mapping[str, Any], plain_http: bool = False) -> HostedAPI:
    """Read an AXHostedAPI object.

    Raises pydantic.ValidationError where its spec is not one and Refused for a base URL without TLS, unless
    `plain_http` allows that for names inside the cluster.
    """
    spec = AXHostedAPISpec.model_validate(manifest["spec"])
    url = urlsplit(spec.base_url)
    if not url.hostname:
        raise Refused("baseUrl names no host")
    if url.scheme != "https" and not (plain_http and url.hostname.endswith(CLUSTER_SUFFIXES)):
        raise Refused("baseUrl must be https; http needs the chart's hosted.plainHttp and a name that ends in .svc")
    return HostedAPI(
        name=manifest["metadata"]["name"],
        host=url.hostname,
        port=url.port or (443 if url.scheme == "https" else 80),
        tls=url.scheme == "https",
        path=url.path.rstrip("/"),
        model=spec.model,
        secret=(spec.key_secret.name, spec.key_secret.key) if spec.key_secret else None,
        input_price=spec.prices.input if spec.prices else 0.0,
        output_price=spec.prices.output if spec.prices else 0.0,
        daily_budget=spec.daily_budget,
        max_concurrency=spec.max_concurrency,
        context_length=spec.context_length,
        lacks=tuple(sorted(CAPABILITIES - set(spec.capabilities))),
        drop_fields=tuple(sorted(set(spec.drop_fields))),
        namespaces=frozenset(spec.allowed_namespaces),
    )


def allowed_addresses(found: Iterable[str], excepted: Iterable[Network] = ()) -> tuple[str, ...]:
    """Return the addresses that a hosted API may have, sorted; raises Refused when one of them may not.

    One bad address spoils the name: whoever controls it could choose. `excepted` networks are allowed, whatever
    they are.
    """
    addresses = sorted(set(found))
    for text in addresses:
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address.sixtofour or address
        if any(address in network for network in excepted if network.version == address.version):
            continue
        reserved = address.is_reserved or address.is_multicast or address.is_unspecified
        if reserved or address.is_loopback or address.is_link_local or any(address in each for each in METADATA):
            raise Refused(f"{text} is a link-local, loopback or metadata address, which no hosted API has")
    return tuple(addresses)
