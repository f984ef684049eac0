"""The agent's own metric families; those of Envoy come from Envoy."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ax_gateway.hold import Hold
from ax_gateway.table import RouteTable
from ax_gateway.xds import Server


def exposition(table: RouteTable, hold: Hold, envoys: Server, complete: bool) -> str:
    """Return the metrics as Prometheus' text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(list(_families(table, hold, envoys, complete))))
    return generate_latest(registry).decode()


def _families(table: RouteTable, hold: Hold, envoys: Server, complete: bool) -> Iterator[Metric]:
    yield _gauge("ax_gateway_models", "Models that the gateway routes", len(table.routes))
    yield _gauge("ax_gateway_name_conflicts", "Served names that an older model holds", len(table.conflicts))
    yield _gauge("ax_gateway_world_complete", "1 when the routes are the cluster's, 0 when from disk", int(complete))
    yield _gauge("ax_gateway_envoys", "Envoys that are configured now", envoys.connected)
    rejected = GaugeMetricFamily("ax_gateway_rejected", "1 for a type that Envoy refused last", labels=["type"])
    for kind in envoys.rejected:
        rejected.add_metric([kind.rpartition(".")[2]], 1)
    yield rejected
    replicas = GaugeMetricFamily("ax_gateway_replicas", "Ready replicas", labels=["model"])
    for route in table.routes:
        replicas.add_metric([route.key], len(route.endpoints))
    yield replicas
    held = GaugeMetricFamily("ax_gateway_held_requests", "Requests that wait for a replica", labels=["model"])
    for model, count in sorted(hold.held.items()):
        held.add_metric([model], count)
    yield held
    ended = CounterMetricFamily("ax_gateway_hold", "Ended waits", labels=["model", "outcome"])
    for (model, outcome), count in sorted(hold.outcomes.items()):
        ended.add_metric([model, outcome], count)
    yield ended


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
