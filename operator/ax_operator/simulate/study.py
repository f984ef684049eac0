"""One trace, one setting, some policies: run them, set them beside the optima, and count the cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ax_operator.simulate.optimum import CELL, Schedule, optimum
from ax_operator.simulate.scalers import Hpa, Keda, Kpa, Ours, Planned
from ax_operator.simulate.setting import Outcome, Scaler, Setting
from ax_operator.simulate.trace import Trace, busy_cells
from ax_operator.simulate.world import simulate

RIVALS: dict[str, Callable[[Setting], Scaler]] = {"ours": Ours, "hpa": Hpa, "keda": Keda, "kpa": Kpa}
POLICIES = (*RIVALS, "optimum")

GPU_HOUR = 4000.0
"""KRW, the reference price of one GPU for an hour."""
HOSTED_PRICE = (1036.0, 4144.0)
"""KRW per million prompt and output tokens: set once so that hosting all of the Azure 2023 conversation trace
costs twice its on-prem optimum at the default setting, output four times as dear as input."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one policy cost and how well it served."""

    gpu_hours: float
    oracle_ratio: float
    """GPU-hours over those of the cheapest schedule that hosts nothing."""
    slo: float
    """Share of the requests that waited no longer than the setting's patience."""
    hosted_share: float
    cost: float
    """KRW."""
    cost_ratio: float
    """Cost over that of the cheapest schedule that may host."""
    scale_changes: int
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        """The published field names."""
        return {
            "gpuHours": round(self.gpu_hours, 4),
            "oracleRatio": round(self.oracle_ratio, 4),
            "slo": round(self.slo, 5),
            "hostedShare": round(self.hosted_share, 5),
            "costKRW": round(self.cost, 1),
            "costRatio": round(self.cost_ratio, 4),
            "scaleChanges": self.scale_changes,
        }


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Both optima of a trace, and the prices they were found at."""

    here: Schedule
    """The cheapest that hosts nothing."""
    mixed: Schedule
    """The cheapest that may host."""
    slot_second: float
    """KRW for a slot-second of work at the hosted API, the trace's mean."""
    setting: Setting
    """With the replicas that run at the beginning."""

    def cost(self, schedule: Schedule) -> float:
        """KRW of a schedule."""
        hours = schedule.replica_seconds / 3600
        return hours * self.setting.gpu_hour + schedule.hosted_seconds * self.slot_second


def yardstick(trace: Trace, setting: Setting, *, cold: bool = False) -> Yardstick:
    """The optima of a trace.

    A trace is a window cut out of a service that ran before. What a policy does first takes effect one cold start
    later, so unless `cold` every policy, the optimum included, begins with the replicas that the optimum needs in
    the first cold start (at least the first minute), and none pays for their start.
    """
    seconds = [setting.seconds(each.prompt, each.output) for each in trace.arrivals]
    cells = busy_cells(trace, seconds, CELL)
    first = 0
    if not cold:
        begin = optimum(cells, setting.slots, setting.cold_start)
        first = max(begin.replicas[: int(max(60.0, setting.cold_start) / CELL) + 1])
    prompt = sum(each.prompt for each in trace.arrivals)
    output = sum(each.output for each in trace.arrivals)
    slot_second = (prompt * setting.hosted_input + output * setting.hosted_output) / 1e6 / sum(seconds)
    worth = slot_second * setting.slots / (setting.gpu_hour / 3600)
    return Yardstick(
        here=optimum(cells, setting.slots, setting.cold_start, first=first),
        mixed=optimum(cells, setting.slots, setting.cold_start, worth, first),
        slot_second=slot_second,
        setting=replace(setting, first_replicas=first, max_replicas=max(setting.max_replicas, first)),
    )


def study(
    trace: Trace,
    yard: Yardstick,
    policies: Sequence[str],
    *,
    series: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Result]:
    """The result of every policy, in the order asked for.

    The optimum's GPU-hours and cost are those of its schedule; its SLO comes from replaying the schedule.
    """
    setting = yard.setting
    results: dict[str, Result] = {}
    for name in policies:
        best = yard.mixed if setting.hosted else yard.here
        scaler = Planned(best.replicas, CELL, setting) if name == "optimum" else RIVALS[name](setting)
        told = (lambda share, name=name: progress(name, share)) if progress else None
        outcome = simulate(trace, setting, scaler, series=series, progress=told)
        gpu_seconds = outcome.gpu_seconds
        hosted = outcome.hosted / outcome.requests
        cost = gpu_seconds / 3600 * setting.gpu_hour + outcome.hosted_cost
        if name == "optimum":
            gpu_seconds, cost = best.replica_seconds, yard.cost(best)
            hosted = best.hosted_seconds * yard.slot_second / _all_hosted(trace, setting)
        results[name] = Result(
            gpu_hours=gpu_seconds / 3600,
            oracle_ratio=gpu_seconds / yard.here.replica_seconds,
            slo=outcome.in_time / outcome.requests,
            hosted_share=hosted,
            cost=cost,
            cost_ratio=cost / yard.cost(yard.mixed),
            scale_changes=outcome.changes,
            outcome=outcome,
        )
    return results


def _all_hosted(trace: Trace, setting: Setting) -> float:
    cost = sum(each.prompt * setting.hosted_input + each.output * setting.hosted_output for each in trace.arrivals)
    return cost / 1e6 or 1.0
