"""The agent's own metric families; those of Envoy come from Envoy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ax_gateway.bookkeeping import Bookkeeper
from ax_gateway.hold import Hold
from ax_gateway.table import RouteTable
from ax_gateway.xds import Server

HISTOGRAMS = {"time_to_first_byte": 1e3, "time_between_tokens": 1e6}
"""Envoy's histograms of ours and how many of their units make a second."""
_SAMPLE = re.compile(r"^envoy_ax_(\w+?)_(bucket|sum|count)\{(.*)\} (\S+)$")
_BOUND = re.compile(r'le="([0-9.e+]+)"')


def exposition(table: RouteTable, hold: Hold, envoys: Server, books: Bookkeeper, complete: bool) -> str:
    """Return the metrics as Prometheus' text."""
    registry = CollectorRegistry(auto_describe=False)
    families = [*_families(table, hold, envoys, complete), *_accounts(books)]
    registry.register(_Collected(families))
    return generate_latest(registry).decode()


def of_envoy(text: str) -> str:
    """Return Envoy's metrics: counters of ours are left to the accounts, histograms of ours come in seconds."""
    return "".join(f"{line}\n" for line in map(_translated, text.splitlines()) if line)


def _translated(line: str) -> str:
    if not line.startswith(("envoy_ax_", "# TYPE envoy_ax_")):
        return line
    if line.startswith("#"):
        name, kind = line.removeprefix("# TYPE envoy_ax_").split()
        return f"# TYPE ax_gateway_{name}_seconds {kind}" if name in HISTOGRAMS else ""
    match = _SAMPLE.match(line)
    if not match or match[1] not in HISTOGRAMS:
        return ""
    name, part, labels, value = match.groups()
    unit = HISTOGRAMS[name]
    labels = _BOUND.sub(lambda bound: f'le="{float(bound[1]) / unit:g}"', labels).replace('by="', 'backend="')
    return f"ax_gateway_{name}_seconds_{part}{{{labels}}} {float(value) / unit if part == 'sum' else value}"


def _accounts(books: Bookkeeper) -> Iterator[Metric]:
    labels = ["model", "backend", "client", "code", "way"]
    requests = CounterMetricFamily("ax_gateway_requests", "Requests by how they went", labels=labels)
    for key, count in sorted(books.accounts.requests.items()):
        requests.add_metric(list(key), count)
    yield requests
    for kind, sums in (("prompt", books.accounts.prompt_tokens), ("completion", books.accounts.completion_tokens)):
        tokens = CounterMetricFamily(
            f"ax_gateway_{kind}_tokens", f"Tokens of the {kind}, as told in answers", labels=labels[:3]
        )
        for who, count in sorted(sums.items()):
            tokens.add_metric(list(who), count)
        yield tokens
    money = CounterMetricFamily("ax_gateway_krw", "KRW spent by this gateway", labels=["api", "model", "client"])
    for purchase, spent in sorted(books.bought.items()):
        money.add_metric(list(purchase), spent.krw)
    yield money
    today = GaugeMetricFamily("ax_gateway_krw_today", "KRW spent since midnight in Seoul", labels=["api"])
    closed = GaugeMetricFamily("ax_gateway_budget_closed", "1 for an API whose budget closed it", labels=["api"])
    for api in books.apis:
        today.add_metric([api], books.ledger.spent_on(api))
        closed.add_metric([api], int(api in books.closed))
    yield today
    yield closed
    blocked = GaugeMetricFamily("ax_gateway_blocked_clients", "Clients that used up their tokens per minute")
    blocked.add_metric([], len(books.verdicts.blocked))
    yield blocked


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
