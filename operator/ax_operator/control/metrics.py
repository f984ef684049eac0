"""The operator's own time series, in a registry of their own; nothing else spells their names."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BUILD_BUCKETS = (10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0)


class Metrics:
    """What is counted, and how to say it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "ax_operator_reconciles", "Reconciles by kind and result.", ["kind", "result"], registry=self.registry
        )
        self.seconds = Histogram(
            "ax_operator_reconcile_seconds",
            "Duration of a reconcile.",
            ["kind"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.writes = Counter(
            "ax_operator_writes", "Requests that changed the cluster.", ["verb", "kind"], registry=self.registry
        )
        self.depth = Gauge(
            "ax_operator_queue_depth", "Keys that wait for a worker or for their time.", registry=self.registry
        )
        self.running = Gauge("ax_operator_reconciles_running", "Reconciles that run now.", registry=self.registry)
        self.models = Gauge(
            "ax_operator_models",
            "AXModels by condition and status.",
            ["condition", "status"],
            registry=self.registry,
        )
        self.builds = Counter(
            "ax_operator_builds",
            "Builds that ended, by result and reason.",
            ["result", "reason"],
            registry=self.registry,
        )
        self.build_seconds = Histogram(
            "ax_operator_build_seconds",
            "Duration of builds that ended.",
            ["result"],
            buckets=BUILD_BUCKETS,
            registry=self.registry,
        )
        self.repairs = Counter(
            "ax_operator_missed_changes",
            "Objects that a complete list found and the watch had missed.",
            ["kind"],
            registry=self.registry,
        )
        self.scrapes = Counter(
            "ax_operator_scrapes",
            "Questions to pods, by what was asked and result.",
            ["what", "result"],
            registry=self.registry,
        )

    def render(self) -> bytes:
        """Return the series in Prometheus' text format."""
        return generate_latest(self.registry)

    def count_models(self, models: Iterable[Mapping[str, Any]]) -> None:
        """Set the gauge of models by condition from their statuses; conditions that vanished go to zero."""
        tally: Tally[tuple[str, str]] = Tally()
        for model in models:
            for condition in (model.get("status") or {}).get("conditions") or ():
                tally[condition["type"], condition["status"]] += 1
        self.models.clear()
        for (condition, status), count in tally.items():
            self.models.labels(condition, status).set(count)
