"""What the autoscaler promises, replayed: cost and waiting on real and made traces, and what may go wrong."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ax_operator.plan.staffing import erlang_replicas
from ax_operator.simulate.scalers import Ours
from ax_operator.simulate.setting import Setting, View
from ax_operator.simulate.study import HOSTED_PRICE, Result, study, yardstick
from ax_operator.simulate.trace import Trace, synthetic_trace
from ax_operator.simulate.trace_file import read_trace
from ax_operator.simulate.world import simulate

DATA = Path(__file__).parents[1] / "data"
HERE = Setting(hosted_input=HOSTED_PRICE[0], hosted_output=HOSTED_PRICE[1])
HOSTED = replace(HERE, hosted=True)


@cache
def conversation(copies: int) -> Trace:
    return read_trace(DATA / "azure-llm-2023-conv.csv.gz").scaled(copies)


def results(trace: Trace, setting: Setting, *policies: str) -> dict[str, Result]:
    return study(trace, yardstick(trace, setting), policies)


@pytest.mark.parametrize("copies", [1, 4])
def test_with_hosting_the_cost_is_near_the_optimum_and_ahead_of_the_rivals(copies: int) -> None:
    found = results(conversation(copies), HOSTED, "ours", "hpa", "keda", "kpa")
    ours = found.pop("ours")
    assert ours.cost_ratio <= 1.10
    assert ours.slo >= 0.995
    for rival in found.values():
        assert ours.cost < rival.cost
        assert ours.slo >= rival.slo


def test_a_load_that_jumps_and_stays_is_followed_for_fewer_gpus_than_hpa_needs() -> None:
    found = results(synthetic_trace("steps"), HERE, "ours", "hpa")
    assert found["ours"].oracle_ratio <= 1.6
    assert found["ours"].gpu_hours < found["hpa"].gpu_hours
    assert found["ours"].slo >= found["hpa"].slo


def test_short_bursts_are_left_to_the_hosted_api() -> None:
    ours = results(synthetic_trace("bursts"), HOSTED, "ours")["ours"]
    assert ours.cost_ratio <= 1.25
    assert ours.slo >= 0.995


@pytest.mark.parametrize("copies", [1, 4])
def test_without_hosting_waits_are_rare_at_few_gpus(copies: int) -> None:
    ours = results(conversation(copies), HERE, "ours")["ours"]
    assert ours.slo >= 0.99
    assert ours.oracle_ratio <= 1.15


@pytest.mark.parametrize("setting", [HERE, HOSTED], ids=["here", "hosted"])
@pytest.mark.parametrize("cold", [10.0, 60.0, 300.0, 600.0])
@pytest.mark.parametrize("error", [0.5, 1.0, 1.5])
def test_cold_starts_and_wrong_service_times_do_not_break_the_promise(
    setting: Setting, cold: float, error: float
) -> None:
    ours = results(conversation(1), replace(setting, cold_start=cold, seconds_error=error), "ours")["ours"]
    assert ours.slo >= 0.98
    assert ours.outcome.peak <= setting.max_replicas
    assert ours.outcome.zero_with_requests == 0


@pytest.mark.parametrize("setting", [HERE, HOSTED], ids=["here", "hosted"])
def test_a_minute_without_metrics_every_five_does_no_harm(setting: Setting) -> None:
    dark = tuple((300.0 * index, 300.0 * index + 60) for index in range(1, 11))
    ours = results(conversation(1), replace(setting, blackouts=dark), "ours")["ours"]
    assert ours.slo >= 0.98
    assert ours.outcome.zero_with_requests == 0


def test_a_small_maximum_is_never_passed() -> None:
    setting = replace(HERE, max_replicas=3, first_replicas=3)
    assert simulate(conversation(1), setting, Ours(setting)).peak == 3


def test_steady_load_settles_within_one_replica_of_erlang() -> None:
    trace = synthetic_trace("hour", 3)
    asked: list[int] = []

    class Watched(Ours):
        def replicas(self, view: View) -> int:
            asked.append(super().replicas(view))
            return asked[-1]

    seconds = [HERE.seconds(each.prompt, each.output) for each in trace.arrivals]
    mean = sum(seconds) / len(seconds)
    exact = erlang_replicas(sum(seconds) / 3600, HERE.slots, HERE.patience / mean, 0.01)
    setting = yardstick(trace, HERE).setting
    simulate(trace, setting, Watched(setting))
    settled = asked[len(asked) // 4 :]
    assert abs(sum(settled) / len(settled) - exact) <= 1
    assert max(settled) - min(settled) <= 2


def test_a_sleeping_model_with_hosting_costs_nothing_while_little_comes() -> None:
    ours = results(synthetic_trace("sparse"), HOSTED, "ours")["ours"]
    assert ours.slo == 1.0
    assert ours.gpu_hours < 0.1
