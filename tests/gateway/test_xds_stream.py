"""The rules of delta ADS that matter, one stream at a time, without a network."""

from __future__ import annotations

from typing import Any

import pytest

from ax_gateway.protos import DELTA_REQUEST, DELTA_RESPONSE, message_class
from ax_gateway.xds import CLUSTER, ENDPOINTS, LISTENER, ROUTE, Encoded, Snapshot, _Stream


def body(name: str) -> bytes:
    any_class: Any = message_class("google.protobuf.Any")
    return bytes(any_class(type_url="type.googleapis.com/x", value=name.encode()).SerializeToString())


def snapshot(**kinds: dict[str, str]) -> Snapshot:
    names = {"clusters": CLUSTER, "endpoints": ENDPOINTS, "listeners": LISTENER, "routes": ROUTE}
    return {
        kind: {name: Encoded(version, body(name)) for name, version in kinds.get(word, {}).items()}
        for word, kind in names.items()
    }


def request(kind: str, *names: str, gone: tuple[str, ...] = (), has: dict[str, str] | None = None) -> Any:
    made: Any = message_class(DELTA_REQUEST)
    return made(
        type_url=kind,
        resource_names_subscribe=names,
        resource_names_unsubscribe=gone,
        initial_resource_versions=has or {},
    )


class Stream(_Stream):
    """A stream whose messages can be read."""

    def sent(self, found: Snapshot) -> list[tuple[str, list[str], list[str]]]:
        responses = [message_class(DELTA_RESPONSE).FromString(each) for each in self.differences(found)]
        self.last = responses
        return [
            (r.type_url, [each.name for each in r.resources], list(r.removed_resources))  # type: ignore[attr-defined]
            for r in responses
        ]

    def acknowledge(self) -> None:
        for response in self.last:
            self.taken(response.type_url, response.nonce)  # type: ignore[attr-defined]


@pytest.fixture
async def stream() -> Stream:
    return Stream()


async def test_wildcard_is_answered_even_with_nothing(stream: Stream) -> None:
    stream.note(request(CLUSTER))
    assert stream.sent(snapshot()) == [(CLUSTER, [], [])]
    assert stream.sent(snapshot()) == []


async def test_differences_only_and_vanished_names(stream: Stream) -> None:
    stream.note(request(LISTENER))
    assert stream.sent(snapshot(listeners={"a": "1", "b": "1"})) == [(LISTENER, ["a", "b"], [])]
    assert stream.sent(snapshot(listeners={"a": "2", "c": "1"})) == [(LISTENER, ["a", "c"], []), (LISTENER, [], ["b"])]


async def test_what_envoy_has_is_not_sent_again(stream: Stream) -> None:
    stream.note(request(LISTENER, has={"a": "1", "b": "1", "gone": "1"}))
    assert stream.sent(snapshot(listeners={"a": "1", "b": "2"})) == [(LISTENER, ["b"], []), (LISTENER, [], ["gone"])]


async def test_name_is_answered_whenever_it_is_asked_for(stream: Stream) -> None:
    found = snapshot(endpoints={"a": "1"})
    stream.note(request(ENDPOINTS, "a", "missing"))
    assert stream.sent(found) == [(ENDPOINTS, ["a"], ["missing"])]
    stream.note(request(ENDPOINTS, "a"))
    assert stream.sent(found) == [(ENDPOINTS, ["a"], [])]
    stream.note(request(ENDPOINTS, gone=("a",)))
    assert stream.sent(snapshot(endpoints={"a": "2"})) == []


async def test_changed_cluster_gets_its_endpoints_again(stream: Stream) -> None:
    stream.note(request(CLUSTER))
    stream.note(request(ENDPOINTS, "a"))
    stream.sent(snapshot(clusters={"a": "1"}, endpoints={"a": "1"}))
    assert stream.sent(snapshot(clusters={"a": "2"}, endpoints={"a": "1"})) == [
        (CLUSTER, ["a"], []),
        (ENDPOINTS, ["a"], []),
    ]


async def test_routes_follow_the_endpoints_of_new_clusters_and_precede_removals(stream: Stream) -> None:
    stream.note(request(CLUSTER))
    stream.note(request(ROUTE, "r"))
    stream.sent(snapshot(clusters={"a": "1"}, endpoints={"a": "1"}, routes={"r": "1"}))
    stream.note(request(ENDPOINTS, "a"))
    stream.sent(snapshot(clusters={"a": "1"}, endpoints={"a": "1"}, routes={"r": "1"}))
    stream.acknowledge()
    more = snapshot(clusters={"a": "1", "b": "1"}, endpoints={"a": "1", "b": "1"}, routes={"r": "2"})
    assert stream.sent(more) == [(CLUSTER, ["b"], [])]
    stream.note(request(ENDPOINTS, "b"))
    assert stream.sent(more) == [(ENDPOINTS, ["b"], [])]
    stream.acknowledge()
    assert stream.sent(more) == [(ROUTE, ["r"], [])]
    less = snapshot(clusters={"b": "1"}, endpoints={"b": "1"}, routes={"r": "3"})
    assert stream.sent(less) == [(ENDPOINTS, [], ["a"]), (ROUTE, ["r"], []), (CLUSTER, [], ["a"])]


async def test_unknown_types_are_ignored(stream: Stream) -> None:
    stream.note(request("type.googleapis.com/envoy.unknown"))
    assert stream.sent(snapshot(clusters={"a": "1"})) == []
