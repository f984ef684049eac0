"""The operator's own time series, in a registry of their own; nothing else spells their names."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ax_operator.plan.scaling import Decision, Rule

MODEL_DEMAND = "ax_operator_model_demand_requests"
"""What others scale by: `examples/hpa.yaml` and `examples/keda.yaml` name it."""
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

        model = ["namespace", "model"]
        self.demand = Gauge(
            MODEL_DEMAND,
            "Requests of a model that want a slot now: held, waiting, running, or hosted for want of room.",
            model,
            registry=self.registry,
        )
        self.wanted = Gauge(
            "ax_operator_model_wanted_replicas",
            "Replicas that a model's demand calls for, were its GPU pool large enough.",
            model,
            registry=self.registry,
        )
        self.rule = Gauge(
            "ax_operator_model_scaling_rule",
            "1 for the rule that settled the last decision on a model's replicas.",
            [*model, "rule"],
            registry=self.registry,
        )
        self.scalings = Counter(
            "ax_operator_model_scalings",
            "Decisions that changed a model's replicas, by direction and rule.",
            [*model, "direction", "rule"],
            registry=self.registry,
        )

    def decided(self, namespace: str, model: str, decision: Decision, before: int | None) -> None:
        """Set a model's gauges to a decision; before: the replicas of the previous one."""
        self.demand.labels(namespace, model).set(decision.demand)
        self.wanted.labels(namespace, model).set(decision.wanted)
        for rule in get_args(Rule):
            self.rule.labels(namespace, model, rule).set(rule == decision.rule)
        if before is not None and before != decision.replicas:
            direction = "up" if decision.replicas > before else "down"
            self.scalings.labels(namespace, model, direction, decision.rule).inc()

    def undecided(self, namespace: str, model: str) -> None:
        """Drop the series of a model that is gone."""
        self.demand.remove(namespace, model)
        self.wanted.remove(namespace, model)
        for rule in get_args(Rule):
            self.rule.remove(namespace, model, rule)
            for direction in ("up", "down"):
                self.scalings.remove(namespace, model, direction, rule)

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
