"""Generators of Envoy resources: every name is safe in them, and what stays the same stays the same bytes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import ParseError
from hypothesis import given, settings
from hypothesis import strategies as st

from ax_gateway import xds
from ax_gateway.envoy.lua import Choice, choose, literal
from ax_gateway.envoy.routes import Verdicts
from ax_gateway.envoy.words import on_prem_cluster, stat_name, typed
from ax_gateway.hosted import HostedAPI
from ax_gateway.keys import Client, KeyPolicy
from ax_gateway.protos import to_any
from ax_gateway.snapshot import Shape, Snapshots, Surroundings, WayOut
from ax_gateway.table import Endpoint, ModelRoute, Replicas, RouteTable, route_table

SHAPE = Shape("127.0.0.1", 8080, 8082)
hostile = st.text(
    st.sampled_from(list("ab/.-_\"'\\]}%$`\n\r\t\0;#<>{[é한😀")) | st.characters(exclude_categories=["Cs"]), min_size=1
)


@given(hostile)
def test_lua_literal_is_the_text_and_nothing_else(text: str) -> None:
    found = literal(text)
    assert re.fullmatch(r'"([0-9A-Za-z]|\\[0-9]{3})*"', found)
    plain = re.sub(rb"\\([0-9]{3})", lambda digits: bytes([int(digits[1])]), found[1:-1].encode())
    assert plain.decode() == text


@given(st.dictionaries(hostile, st.builds(Choice, hostile, hostile, hostile, st.integers(-1, 9), hostile, st.just(-1))))
def test_lua_table_has_one_line_and_no_stray_text(choices: dict[str, Choice]) -> None:
    table = choose(choices, ["client"]).split("\n")[0]
    assert table.startswith("local MODELS = {")
    assert re.fullmatch(
        r"local MODELS = \{(\[S\]=\{S,S,S,-?\d,S,-1\},?)*\}", re.sub(r'"([0-9A-Za-z]|\\[0-9]{3})*"', "S", table)
    )


@settings(max_examples=60)
@given(hostile, hostile, hostile, st.booleans())
def test_hostile_names_make_valid_resources(name: str, served: str, other: str, drop: bool) -> None:
    api = HostedAPI(
        name, "h.example", 443, True, "/v1", other, lacks=("tools",), drop_fields=("a",) if drop else (),
        namespaces=frozenset({"ns"}),
    )  # fmt: skip
    wish = ModelRoute("ns", name, served_names=(served,), residency="Any", hosted=name)
    client = Client(name=served, keys=("k" * 32,), policy=KeyPolicy(models=(served[:320],)))
    table = route_table([wish], {f"ns/{name}": Replicas((Endpoint("10.0.0.1", 1),), 4)}, "*", {name: api})
    around = Surroundings(
        ways_out=(WayOut(api, ("10.0.0.2",), other),), clients=(client,), verdicts=Verdicts(frozenset({client.tag}))
    )
    snapshot = Snapshots(replace(SHAPE, front=replace(SHAPE.front, keys=True))).build(table, around)
    assert on_prem_cluster(f"ns/{name}") in snapshot[xds.CLUSTER]
    assert all(each.body for kind in snapshot.values() for each in kind.values())


@given(st.text(st.sampled_from("ab-."), min_size=1), st.text(st.sampled_from("ab-."), min_size=1))
def test_two_models_share_no_statistics(one: str, two: str) -> None:
    found = {stat_name(on_prem_cluster(f"ns/{name}")) for name in (one, two)}
    assert len(found) == len({one, two})
    assert not any("." in name for name in found)


def test_unknown_field_is_an_error_that_names_it() -> None:
    with pytest.raises(ParseError, match="connect_timeouts"):
        to_any(typed("envoy.config.cluster.v3.Cluster", name="x", connect_timeouts="1s"))


def _table(endpoints: int = 1, count: int = 3) -> RouteTable:
    models = [ModelRoute("ns", f"m{n}", served_names=(f"bare{n}",)) for n in range(count)]
    found = {f"ns/m{n}": Replicas(tuple(Endpoint("10.0.0.1", 1 + e) for e in range(endpoints))) for n in range(count)}
    return route_table(models, found, "*")


def test_same_table_is_the_same_snapshot() -> None:
    one, two = Snapshots(SHAPE), Snapshots(SHAPE)
    first = one.build(_table(), Surroundings())
    assert one.build(_table(), Surroundings()) == first
    assert versions(two.build(_table(), Surroundings())) == versions(first)


def test_endpoints_change_nothing_but_endpoints() -> None:
    snapshots = Snapshots(SHAPE)
    first, second = snapshots.build(_table(1), Surroundings()), snapshots.build(_table(2), Surroundings())
    assert {kind for kind in first if first[kind] != second[kind]} == {xds.ENDPOINTS}


API = HostedAPI("api", "h", 443, True, "/v1", "m", namespaces=frozenset({"ns"}))
lives = st.tuples(
    st.builds(
        ModelRoute,
        namespace=st.just("ns"),
        name=st.sampled_from(["m0", "m1"]),
        served_names=st.sampled_from([(), ("bare",)]),
        policy=st.sampled_from(["OnPremFirst", "HostedFirst", "HostedOnly"]),
        while_unavailable=st.sampled_from(["Hosted", "Hold", "Reject"]),
        hold_timeout=st.sampled_from([5.0, 50.0]),
        residency=st.sampled_from(["OnPrem", "Any"]),
        hosted=st.just("api"),
        sticky=st.booleans(),
    ),
    st.builds(Replicas, st.integers(0, 2).map(lambda n: tuple(Endpoint("10.0.0.1", 1 + e) for e in range(n)))),
    st.sampled_from([HostedAPI("other", "h", 443, True, "/v1", "m"), API, replace(API, lacks=("tools",))]),
    st.sampled_from([(), (Client(name="c", keys=("k",), policy=KeyPolicy(models=("bare",))),)]),
    st.sampled_from([Verdicts(), Verdicts(frozenset({"-l:c"}))]),
)


@settings(max_examples=50)
@given(st.lists(lives, min_size=2, max_size=4))
def test_what_was_kept_is_what_would_be_made_anew(steps: list[Any]) -> None:
    snapshots = Snapshots(SHAPE)
    for model, replicas, api, clients, verdicts in steps:
        table = route_table([model], {model.key: replicas}, "*", {api.name: api})
        around = Surroundings(ways_out=(WayOut(api),), clients=clients, verdicts=verdicts)
        assert versions(snapshots.build(table, around)) == versions(Snapshots(SHAPE).build(table, around))


def versions(snapshot: xds.Snapshot) -> dict[str, dict[str, str]]:
    return {kind: {name: each.version for name, each in found.items()} for kind, found in snapshot.items()}


def test_cluster_depends_on_the_name_alone() -> None:
    """A cluster that changes would forget what is in flight."""
    snapshots = Snapshots(SHAPE)
    plain = snapshots.build(_table(), Surroundings())[xds.CLUSTER]
    wish = ModelRoute("ns", "m0", residency="Any", hosted="api", policy="HostedFirst", hold_timeout=9, max_wait=7)
    table = route_table([wish], {"ns/m0": Replicas((), 4)}, "*", {"api": API})
    other = snapshots.build(table, Surroundings(ways_out=(WayOut(API),)))[xds.CLUSTER]
    assert other["onprem_ns/m0"] == plain["onprem_ns/m0"]


def test_secrets_are_not_in_a_representation() -> None:
    key = "secret-" * 8
    around = Surroundings(("chain", key), (WayOut(HostedAPI("a", "h", 1, True, "", "m"), (), key),), trusted=key)
    client = Client(name="c", keys=(key,))
    assert key not in repr(around) + repr(client)
    assert json.loads(client.to_json())["keys"] == [key]
