"""The delta ADS server: brings one or more Envoys to a snapshot of resources and tells what each has taken.

One gRPC stream per Envoy carries all types. Invariants: nothing is answered before the first snapshot; what an
Envoy already has (`initial_resource_versions`) is not sent again; clusters and endpoints come before the routes
that need them, and go after them; a rejected resource is logged, reported and not repeated until it changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from ax_gateway.envoy.words import TYPE_PREFIX
from ax_gateway.protos import DELTA_REQUEST, DELTA_RESPONSE, message_class

logger = logging.getLogger(__name__)

CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
EXTENSION = TYPE_PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
ORDER = (CLUSTER, ENDPOINTS, SECRET, EXTENSION, LISTENER, ROUTE)
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "DeltaAggregatedResources"
WARMING_SECONDS = 2.0
"""Routes wait this long for Envoy to take the endpoints of new clusters."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One resource: its version, and the bytes of the Any that holds it."""

    version: str
    body: bytes


Snapshot = Mapping[str, Mapping[str, Encoded]]
"""Resources by type URL and name."""


@dataclass(slots=True)
class _Kind:
    """What one stream knows about one type."""

    asked: bool = False
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    repeat: set[str] = field(default_factory=set)
    answer: bool = False

    def wanted(self, have: Mapping[str, Encoded]) -> set[str]:
        return set(have) | self.names if self.wildcard else self.names


class Server:
    """Holds the snapshot; `applied` is called with (type, name, version) of what an Envoy has taken."""

    def __init__(self, applied: Callable[[str, str, str], None] = lambda *_: None) -> None:
        self._applied = applied
        self._snapshot: Snapshot | None = None
        self._streams: set[_Stream] = set()
        self._server: grpc.aio.Server | None = None
        self.rejected: dict[str, str] = {}
        """The last reason why an Envoy refused resources of a type; gone when it takes some again."""
        self.taken: set[str] = set()
        """Types of which a connected Envoy has taken resources."""

    @property
    def connected(self) -> int:
        """Envoys that hold a stream now."""
        return len(self._streams)

    def update(self, snapshot: Snapshot) -> None:
        """Bring every Envoy to this snapshot."""
        self._snapshot = snapshot
        for stream in self._streams:
            stream.wake.set()

    async def start(self, socket: str) -> None:
        """Listen on a Unix socket."""
        # Envoy pings every few seconds to notice a dead agent; gRPC would take that for abuse and hang up.
        pings = [("grpc.http2.min_ping_interval_without_data_ms", 1000), ("grpc.http2.max_ping_strikes", 0)]
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *pings])
        method = grpc.stream_stream_rpc_method_handler(self._serve)  # without (de)serializers: bytes
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Hang up; Envoys keep what they have."""
        if self._server:
            await self._server.stop(grace=0)

    async def _serve(self, requests: AsyncIterator[bytes], context: Any) -> None:
        stream = _Stream()
        self._streams.add(stream)
        reader = asyncio.create_task(self._read(requests, stream))
        logger.info("Connected an Envoy")
        try:
            while not reader.done():
                await stream.wake.wait()
                stream.wake.clear()
                if self._snapshot is not None:
                    for message in stream.differences(self._snapshot):
                        await context.write(message)
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self.taken.clear()
            reader.cancel()
            with suppress(asyncio.CancelledError, grpc.RpcError):
                await reader
            logger.info("Lost an Envoy's connection")

    async def _read(self, requests: AsyncIterator[bytes], stream: _Stream) -> None:
        try:
            async for data in requests:
                request: Any = message_class(DELTA_REQUEST).FromString(data)
                if request.HasField("error_detail"):
                    self.rejected[request.type_url] = request.error_detail.message
                    stream.nonces.pop(request.response_nonce, None)
                    logger.error(
                        "Envoy rejected resources",
                        extra={"type": request.type_url, "reason": request.error_detail.message},
                    )
                elif request.response_nonce in stream.nonces:
                    self.rejected.pop(request.type_url, None)
                    for name, version in stream.taken(request.type_url, request.response_nonce).items():
                        self._take(request.type_url, name, version)
                for name, version in request.initial_resource_versions.items():
                    self._take(request.type_url, name, version)
                stream.note(request)
                stream.wake.set()
        finally:
            stream.wake.set()

    def _take(self, kind: str, name: str, version: str) -> None:
        self.taken.add(kind)
        self._applied(kind, name, version)


class _Stream:
    """What one Envoy subscribes to and has been sent."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.kinds = {kind: _Kind() for kind in ORDER}
        self.nonces: dict[str, dict[str, str]] = {}
        self._nonce = 0
        self._warming: set[str] = set()
        self._warm_by = 0.0

    def note(self, request: Any) -> None:
        """Keep what a request subscribes to."""
        kind = self.kinds.get(request.type_url)
        if kind is None:
            return
        subscribe = set(request.resource_names_subscribe)
        if not kind.asked:
            kind.asked = True
            kind.sent.update(request.initial_resource_versions)
            kind.wildcard = not subscribe and request.type_url in (CLUSTER, LISTENER)
            kind.answer = True
        if "*" in subscribe:
            kind.wildcard = True
            subscribe.discard("*")
        # A name is answered whenever it is asked for, also one that Envoy has: unless it said so in this request.
        kind.repeat |= {name for name in subscribe if name not in request.initial_resource_versions}
        kind.names |= subscribe
        kind.names -= set(request.resource_names_unsubscribe)
        for name in request.resource_names_unsubscribe:
            kind.sent.pop(name, None)

    def taken(self, kind: str, nonce: str) -> dict[str, str]:
        """Return what the acknowledged response held."""
        found = self.nonces.pop(nonce)
        if kind == ENDPOINTS:
            self._warming -= set(found)
        return found

    def differences(self, snapshot: Snapshot) -> list[bytes]:
        """Return the messages that bring this Envoy closer to the snapshot, in the order that is safe."""
        messages = []
        changed, gone = self._compare(CLUSTER, snapshot)
        new = {name for name in changed if name not in self.kinds[CLUSTER].sent}
        if changed or self.kinds[CLUSTER].answer:
            # A changed cluster waits for its endpoints, which Envoy does not ask for again.
            self.kinds[ENDPOINTS].repeat |= changed & self.kinds[ENDPOINTS].names
            messages.append(self._message(CLUSTER, snapshot, changed, set()))
        with_endpoints = new & set(snapshot.get(ENDPOINTS, {}))
        if with_endpoints:
            self._warming |= with_endpoints
            self._warm_by = time.monotonic() + WARMING_SECONDS
            asyncio.get_running_loop().call_later(WARMING_SECONDS + 0.01, self.wake.set)
        for kind in (ENDPOINTS, SECRET, EXTENSION):
            messages += self._send(kind, snapshot)
        opened, closed = self._compare(LISTENER, snapshot)
        if opened or self.kinds[LISTENER].answer:
            messages.append(self._message(LISTENER, snapshot, opened, set()))
        self._warming &= set(snapshot.get(ENDPOINTS, {}))
        if self._warming and time.monotonic() < self._warm_by and self.kinds[ROUTE].sent:
            return messages
        messages += self._send(ROUTE, snapshot)
        for kind, names in ((LISTENER, closed), (CLUSTER, gone)):
            if names:
                messages.append(self._message(kind, snapshot, set(), names))
        return messages

    def _send(self, kind: str, snapshot: Snapshot) -> list[bytes]:
        changed, gone = self._compare(kind, snapshot)
        if not changed and not gone and not self.kinds[kind].answer:
            return []
        return [self._message(kind, snapshot, changed, gone)]

    def _compare(self, kind: str, snapshot: Snapshot) -> tuple[set[str], set[str]]:
        state, have = self.kinds[kind], snapshot.get(kind, {})
        if not state.asked:
            return set(), set()
        wanted = state.wanted(have)
        changed = {
            name for name in wanted & have.keys() if name in state.repeat or state.sent.get(name) != have[name].version
        }
        gone = {name for name in state.sent if name not in have}
        gone |= {name for name in state.repeat if name not in have}
        return changed, gone

    def _message(self, kind: str, snapshot: Snapshot, changed: set[str], gone: set[str]) -> bytes:
        state, have = self.kinds[kind], snapshot.get(kind, {})
        self._nonce += 1
        nonce = str(self._nonce)
        response: Any = message_class(DELTA_RESPONSE)(type_url=kind, nonce=nonce)
        for name in sorted(changed):
            resource = response.resources.add(name=name, version=have[name].version)
            resource.resource.MergeFromString(have[name].body)
            state.sent[name] = have[name].version
        for name in sorted(gone):
            response.removed_resources.append(name)
            state.sent.pop(name, None)
        state.repeat -= changed | gone
        state.answer = False
        self.nonces[nonce] = {name: have[name].version for name in changed}
        return bytes(response.SerializeToString())
