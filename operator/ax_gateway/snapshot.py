"""A RouteTable and what surrounds it as the resources that Envoy is sent; what stayed the same is not made again.

Pure but for its memory of the last snapshot. At a thousand models one changed endpoint costs one small resource.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ax_gateway import xds
from ax_gateway.envoy import access, clusters, gates, listener, routes
from ax_gateway.envoy.words import (
    CERTIFICATE,
    KEYS_FILTER,
    LISTENER,
    RATES_FILTER,
    ROUTES,
    TRUSTED,
    TYPE_PREFIX,
    Resource,
    gate,
    hosted_cluster,
    hosted_key,
    on_prem_cluster,
    stay_cluster,
)
from ax_gateway.hosted import HostedAPI
from ax_gateway.keys import Client
from ax_gateway.protos import message_class, to_any, to_message
from ax_gateway.table import Route, RouteTable

Encoded = dict[str, xds.Encoded]
Certificate = tuple[str, str]
"""The PEM texts of a certificate chain and its private key."""
ON_MATCH = "xds.type.matcher.v3.Matcher.OnMatch"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the pod decides and no object changes: addresses, ports, bounds and how long anything may take."""

    address: str
    port: int
    hold_port: int
    front: listener.Front = field(default_factory=listener.Front)
    held: int = 1000
    patience: routes.Patience = field(default_factory=routes.Patience)
    outside: gates.Outside = field(default_factory=gates.Outside)


@dataclass(frozen=True, slots=True)
class WayOut:
    """A hosted API with the addresses it was found at and its key."""

    api: HostedAPI
    addresses: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around the routes: the clients' certificate, hosted APIs, clients and what the accounts say of them."""

    certificate: Certificate | None = field(default=None, repr=False)
    ways_out: tuple[WayOut, ...] = ()
    clients: tuple[Client, ...] = ()
    verdicts: routes.Verdicts = field(default_factory=routes.Verdicts)
    proxy: tuple[str, int] | None = None
    trusted: str = field(default="", repr=False)


def encoded(resource: Resource) -> xds.Encoded:
    """Return a resource with its version, which is a hash of its content."""
    return xds.Encoded(_version(resource), to_any(resource))


class Snapshots:
    """Builds one snapshot after the other, keeping what stayed the same."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._kept: dict[tuple[str, str], tuple[Any, Any]] = {}
        self._last: dict[tuple[str, str], tuple[Any, Any]] = {}
        self._listener = encoded(listener.listener(shape.address, shape.port, shape.front))

    def build(self, table: RouteTable, around: Surroundings) -> xds.Snapshot:
        """Return the snapshot of a table; without a certificate a TLS listener waits for one."""
        self._last, self._kept = self._kept, {}
        return {
            xds.CLUSTER: dict(self._clusters(table, around)),
            xds.ENDPOINTS: dict(self._endpoints(table, around)),
            xds.SECRET: dict(self._secrets(around)),
            xds.EXTENSION: self._keep("access", "", around.clients, partial(self._access, around.clients)),
            xds.LISTENER: dict(self._listeners(around)),
            xds.ROUTE: {ROUTES: self._routes(table, around)},
        }

    def _clusters(self, table: RouteTable, around: Surroundings) -> Iterator[tuple[str, xds.Encoded]]:
        shape, gateways = self._shape, self._shape.outside.gateways
        for found in table.routes:
            sticky = found.model.sticky
            make = partial(_one, clusters.on_prem, found.key, shape.held, sticky)
            yield on_prem_cluster(found.key), self._keep("cluster", found.key, sticky, make)
            if found.hosted_meanwhile:
                make = partial(_one, clusters.stay, found.key, shape.held, sticky)
                yield stay_cluster(found.key), self._keep("stay", found.key, sticky, make)
            if found.hosted:
                pair = partial(_each, clusters.both, found.key, found.hosted.name, shape.held, sticky)
                yield from self._keep("both", found.key, (found.hosted.name, sticky), pair).items()
        for way in around.ways_out:
            name = way.api.name
            make = partial(_one, gates.gate_cluster, way.api, gateways)
            yield gate(name), self._keep("gate", name, way.api, make)
            make = partial(_one, gates.api_cluster, way.api, around.proxy)
            yield hosted_cluster(name), self._keep("api", name, (way.api, around.proxy), make)

    def _endpoints(self, table: RouteTable, around: Surroundings) -> Iterator[tuple[str, xds.Encoded]]:
        for found in table.routes:
            make = partial(_one, clusters.assignment, found, self._shape.hold_port)
            source = (found.endpoints, found.hosted_meanwhile)
            yield on_prem_cluster(found.key), self._keep("endpoints", found.key, source, make)
            if found.hosted_meanwhile:
                make = partial(_one, clusters.stay_assignment, found, self._shape.hold_port)
                yield stay_cluster(found.key), self._keep("staying", found.key, found.endpoints, make)
        for way in around.ways_out:
            make = partial(_one, gates.api_assignment, way.api, way.addresses)
            yield hosted_cluster(way.api.name), self._keep("addresses", way.api.name, way, make)

    def _secrets(self, around: Surroundings) -> Iterator[tuple[str, xds.Encoded]]:
        if around.certificate:
            yield CERTIFICATE, encoded(listener.certificate(*around.certificate))
        if around.trusted:
            make = partial(_one, gates.trusted_secret, around.trusted)
            yield TRUSTED, self._keep("trusted", "", around.trusted, make)
        for way in around.ways_out:
            if way.key:
                yield hosted_key(way.api.name), encoded(gates.key_secret(way.api.name, way.key))

    def _listeners(self, around: Surroundings) -> Iterator[tuple[str, xds.Encoded]]:
        yield LISTENER, self._listener
        for way in around.ways_out:
            with_key = way.api.secret is not None
            make = partial(_one, gates.gate_listener, way.api, self._shape.outside, with_key)
            yield gate(way.api.name), self._keep("listener", way.api.name, way.api, make)

    def _access(self, clients: tuple[Client, ...]) -> Encoded:
        if not self._shape.front.keys:
            return {}
        rates = access.rates(clients, self._shape.outside.gateways)
        return {KEYS_FILTER: encoded(access.keys(clients)), RATES_FILTER: encoded(rates)}

    def _routes(self, table: RouteTable, around: Surroundings) -> xds.Encoded:
        limited = [client for client in around.clients if client.policy.models is not None]
        sources, entries = [], []
        for found in table.routes:
            allowed = _allowed(found, limited)
            # Which replicas there are is the endpoints' matter.
            source = (found.model, found.names, found.hosted, found.limit, bool(found.endpoints), allowed)
            sources.append(source)
            entries.append(self._keep("route", found.key, source, partial(self._entry, found, allowed)))
        make = partial(self._assembled, table, around.verdicts, entries)
        kept: xds.Encoded = self._keep("routes", "", (sources, around.verdicts), make)
        return kept

    def _assembled(self, table: RouteTable, verdicts: routes.Verdicts, entries: list[tuple[str, Any]]) -> xds.Encoded:
        """Encode the route configuration around parsed entries: parsing all of them anew takes a third of a second."""
        shape = self._shape
        frame = routes.route_configuration(table, {}, shape.outside.gateways, verdicts, shape.front.accounts)
        message: Any = to_message(frame["@type"].removeprefix(TYPE_PREFIX), _without_type(frame))
        digest = hashlib.sha256(_json(frame).encode())
        cases = message.virtual_hosts[0].matcher.matcher_list.matchers
        by_model = next(case for case in cases if case.on_match.HasField("matcher")).on_match.matcher
        for found, (version, entry) in zip(table.routes, entries, strict=True):
            for name in found.names:
                digest.update(f"{name}={version};".encode())
                by_model.matcher_tree.exact_match_map.map[name].CopyFrom(entry)
        packed: Any = message_class("google.protobuf.Any")()
        packed.Pack(message, TYPE_PREFIX.rstrip("/"), deterministic=True)
        return xds.Encoded(digest.hexdigest()[:16], packed.SerializeToString())

    def _entry(self, found: Route, allowed: tuple[str, ...] | None) -> tuple[str, Any]:
        fields = routes.on_match(found, self._shape.patience, allowed)
        return _version(fields), to_message(ON_MATCH, fields)

    def _keep(self, kind: str, key: str, source: Any, make: Callable[[], Any]) -> Any:
        old = self._last.get((kind, key))
        value = old[1] if old and old[0] == source else make()
        self._kept[kind, key] = (source, value)
        return value


def _allowed(found: Route, limited: list[Client]) -> tuple[str, ...] | None:
    if not limited:
        return None
    names = set(found.names)
    return tuple(sorted(client.tag for client in limited if names & set(client.policy.models or ())))


def _one(make: Callable[..., Resource], *of: Any) -> xds.Encoded:
    return encoded(make(*of))


def _each(make: Callable[..., list[Resource]], *of: Any) -> Encoded:
    return {resource["name"]: encoded(resource) for resource in make(*of)}


def _without_type(resource: Resource) -> Resource:
    return {key: value for key, value in resource.items() if key != "@type"}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _version(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()[:16]
