"""What holds for every history of loads, however wrong the numbers; AX_SOAK=1 tries twenty times as many."""

import json
import os
from math import inf, nan

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ax_operator.plan.autoscale import decide
from ax_operator.plan.scaling import Load, Memory, Policy, Prices, Requests

SOAK = os.environ.get("AX_SOAK") == "1"
pytestmark = [pytest.mark.soak] if SOAK else []
many = settings(
    max_examples=10_000 if SOAK else 500,
    deadline=None,
    derandomize=not SOAK,
    suppress_health_check=[HealthCheck.too_slow],
)

wrong = st.sampled_from([nan, inf, -inf, -1.0, -0.0, 1e308, 5e-324])
gauge = st.one_of(st.integers(0, 200).map(float), wrong)
sound = st.integers(0, 200).map(float)
count = st.integers(-3, 70)


def loads(value: st.SearchStrategy[float]) -> st.SearchStrategy[Load]:
    return st.builds(
        Load,
        running=value,
        waiting=value,
        held=value,
        in_flight=value,
        overflowed=value,
        ready=count,
        starting=count,
        pods_known=count,
        pods_answered=count,
        metrics_age=st.one_of(st.just(0.0), st.floats(0, 120), value),
        free_gpus=st.one_of(st.none(), st.integers(-5, 100)),
        requests=st.builds(Requests, value, value, value),
    )


policies = st.builds(
    Policy,
    min_replicas=count,
    max_replicas=st.one_of(count, st.integers(-1, 20_000)),
    slots=st.integers(-1, 64),
    target=st.one_of(st.none(), gauge),
    scale_to_zero_after=st.one_of(st.none(), gauge),
    cold_start=gauge,
    stabilisation=st.one_of(st.none(), gauge),
    patience=gauge,
    gpus_per_replica=st.integers(-1, 16),
    hosted=st.booleans(),
    prices=st.one_of(st.none(), st.builds(Prices, gauge, gauge, gauge)),
)
steps = st.one_of(st.floats(0, 10), st.floats(-1e6, 1e6), wrong)
histories = st.lists(st.tuples(loads(gauge), steps), min_size=1, max_size=12)


def in_flight(load: Load) -> float:
    return sum(value for value in (load.running, load.waiting, load.held, load.in_flight) if 0 < value < inf)


@many
@given(policies, histories)
def test_every_history_stays_within_the_limits(policy: Policy, history: list[tuple[Load, float]]) -> None:
    memory, now = Memory(), 0.0
    for load, step in history:
        now += step
        decision = decide(load, policy, memory, now)
        assert policy.min_replicas <= decision.replicas <= policy.max_replicas
        assert decision.replicas <= decision.wanted <= policy.max_replicas
        assert len(decision.why) < 300
        assert "\n" not in decision.why
        running = min(policy.max_replicas, max(0, load.ready) + max(0, load.starting))
        if decision.replicas == 0 and policy.max_replicas > 0 and (load.free_gpus is None or running > 0):
            assert in_flight(load) == 0
        if not 0 <= load.metrics_age <= 10 and load.free_gpus is None:
            assert decision.replicas >= running
        memory = decision.memory
        stored = json.dumps(memory.to_json(), allow_nan=False)
        assert len(stored) < 4000
        assert Memory.from_json(json.loads(stored)) == memory


@many
@given(
    st.lists(st.tuples(loads(sound), st.floats(0, 10)), min_size=1, max_size=10),
    st.integers(0, 5),
    st.integers(0, 12),
    st.booleans(),
)
def test_the_same_history_gives_the_same_decisions_and_a_clock_offset_changes_nothing(
    history: list[tuple[Load, float]], least: int, most: int, hosted: bool
) -> None:
    policy = Policy(min_replicas=least, max_replicas=most, hosted=hosted, prices=Prices(4000, 1036, 4144))

    def replicas(begin: float) -> list[int]:
        memory, now, answers = Memory(), begin, []
        for load, step in history:
            now += round(step * 4) / 4
            decision = decide(load, policy, memory, now)
            memory = decision.memory
            answers.append(decision.replicas)
        return answers

    assert replicas(0.0) == replicas(0.0) == replicas(1_048_576.0)
