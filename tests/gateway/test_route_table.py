"""Who answers for which name: the pure table that gateway and operator share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ax_gateway.hosted import HostedAPI
from ax_gateway.table import (
    Circumstances,
    Conflict,
    Endpoint,
    ModelRoute,
    Replicas,
    model_route,
    replicas_by_model,
    route_table,
)
from ax_operator.api.names import MODEL, SLOTS

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
API = HostedAPI("api", "h", 443, True, "/v1", "ax4", namespaces=frozenset({"a"}))


def model(name: str, namespace: str = "a", created: str = OLD, *served: str) -> ModelRoute:
    return ModelRoute(namespace, name, created, served)


def piece(name: str, *endpoints: dict[str, Any], **fields: Any) -> dict[str, Any]:
    ports = [{"name": "metrics", "port": 8001}, {"name": "http", "port": 8000}]
    labels = {MODEL: "m", SLOTS: "8"}
    base = {"metadata": {"namespace": "a", "name": name, "labels": labels}, "addressType": "IPv4", "ports": ports}
    return base | {"endpoints": list(endpoints)} | fields


def at(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions}


def test_own_name_always_works_and_bare_names_where_listed() -> None:
    table = route_table([model("m", "a", OLD, "bare"), model("m", "b", OLD, "other")], {}, frozenset({"a"}))
    assert [route.names for route in table.routes] == [("a/m", "bare"), ("b/m",)]
    assert table.names == ("a/m", "b/m", "bare")
    assert route_table([model("m", "b", OLD, "other")], {}, "*").names == ("b/m", "other")


def test_older_model_keeps_a_name_then_the_first_by_key() -> None:
    table = route_table([model("z", "a", OLD, "x"), model("b", "a", NEW, "x"), model("a", "a", NEW, "x")], {}, "*")
    assert {route.key: route.names for route in table.routes}["a/z"] == ("a/z", "x")
    assert table.conflicts == (Conflict("a/a", "x", "a/z"), Conflict("a/b", "x", "a/z"))


def test_nobody_takes_another_model_s_own_name() -> None:
    table = route_table([model("m", "a", OLD, "b/m", "a/m"), model("m", "b", NEW)], {}, "*")
    assert {route.key: route.names for route in table.routes} == {"a/m": ("a/m",), "b/m": ("b/m",)}
    assert table.conflicts == (Conflict("a/m", "b/m", "b/m"),)


names = st.text(st.sampled_from("ab/-._Z0"), min_size=1, max_size=4)


wishes = st.builds(ModelRoute, names, names, st.sampled_from([OLD, NEW]), st.lists(names, max_size=4).map(tuple))


@given(st.lists(wishes, max_size=6, unique_by=lambda found: found.key), st.randoms())
def test_each_name_leads_to_one_model_whatever_the_order(models: list[ModelRoute], random: Any) -> None:
    table = route_table(models, {}, "*")
    assert len(set(table.names)) == len(table.names)
    for route in table.routes:
        assert route.key in route.names
        lost = {conflict.served_name for conflict in table.conflicts if conflict.model == route.key}
        assert set(route.model.served_names) | {route.key} == set(route.names) | lost
    random.shuffle(models)
    assert route_table(models, {}, "*") == table


def test_ready_replicas_are_counted_once() -> None:
    found = replicas_by_model(
        [
            piece("1", at("10.0.0.1", ready=True), at("10.0.0.2", ready=False), {"addresses": ["10.0.0.3"]}),
            piece("2", at("10.0.0.1", ready=True), at("10.0.0.4", ready=True, terminating=True)),
            piece("3", at("fd00::1", ready=True), addressType="IPv6"),
            piece("4", at("name.example", ready=True), addressType="FQDN"),
            piece("5", at("10.0.0.9", ready=True), ports=[{"name": "metrics", "port": 1}]),
            piece("6", at("10.0.0.8", ready=True), metadata={"namespace": "a", "name": "6", "labels": None}),
            piece("7", endpoints=None),
        ]
    )
    addresses = ("10.0.0.1", "10.0.0.3", "fd00::1")
    assert found == {"a/m": Replicas(tuple(Endpoint(address, 8000) for address in addresses), 8)}


def test_hosted_api_needs_permission_and_a_reason() -> None:
    wish = ModelRoute("a", "m", residency="Any", hosted="api")
    assert route_table([wish], {}, apis={"api": API}).routes[0].hosted == API
    refused = {
        "NotFound": route_table([wish], {}, apis={}),
        "NotAllowed": route_table([replace(wish, namespace="b")], {}, apis={"api": API}),
        "Closed": route_table([wish], {}, apis={"api": API}, now=Circumstances(closed={"api": "spent"})),
    }
    for reason, table in refused.items():
        assert [refusal.reason for refusal in table.refusals] == [reason]
        assert table.routes[0].hosted is None
    for quiet in (replace(wish, residency="OnPrem"), replace(wish, policy="OnPremOnly"), replace(wish, hosted=None)):
        table = route_table([quiet], {}, apis={"api": API})
        assert (table.routes[0].hosted, table.refusals) == (None, ())


@pytest.mark.parametrize(
    ("slots", "ready", "gateways", "max_wait", "seconds", "limit"),
    [(8, 2, 1, 0, 10, 16), (8, 2, 3, 0, 10, 6), (8, 2, 1, 5, 10, 24), (8, 0, 1, 0, 10, 1), (None, 2, 1, 0, 10, None)],
)
def test_limit_is_this_gateway_s_share(
    slots: int | None, ready: int, gateways: int, max_wait: float, seconds: float, limit: int | None
) -> None:
    wish = ModelRoute("a", "m", residency="Any", hosted="api", max_wait=max_wait)
    found = Replicas(tuple(Endpoint("10.0.0.1", 8000 + n) for n in range(ready)), slots)
    now = Circumstances(gateways, service_seconds={"a/m": seconds})
    assert route_table([wish], {"a/m": found}, apis={"api": API}, now=now).routes[0].limit == limit


def test_axmodel_is_read_with_its_defaults() -> None:
    metadata = {"namespace": "a", "name": "m", "creationTimestamp": OLD}
    found = model_route({"metadata": metadata, "spec": {"model": "A.X-4.0"}})
    assert found == ModelRoute("a", "m", OLD)
    routing = {"servedNames": ["x"], "holdTimeout": "2m", "overflow": {"maxWait": "3s"}, "whileUnavailable": "Reject"}
    found = model_route({"metadata": metadata, "spec": {"model": "A.X-4.0", "routing": routing}})
    assert (found.served_names, found.hold_timeout, found.max_wait) == (("x",), 120, 3)
    with pytest.raises(ValidationError):
        model_route({"metadata": metadata, "spec": {"model": "A.X-4.0", "routing": {"policy": "Whatever"}}})
