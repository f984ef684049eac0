"""What the autoscaler decides in situations that a person can check by hand."""

import json

import pytest

from ax_operator.plan.autoscale import decide
from ax_operator.plan.pool import Claim, shares
from ax_operator.plan.scaling import Decision, Load, Memory, Policy, Prices, Requests
from ax_operator.plan.staffing import erlang_replicas, staffed_replicas

MEAN = Requests(prompt_tokens=1155, output_tokens=211, seconds=5.4)
DEAR = Prices(gpu_hour=4000, hosted_input=1036, hosted_output=4144)


def busy(requests: float, ready: int, **more: object) -> Load:
    """A load of running requests that pods and gateways agree on."""
    base = Load(running=requests, in_flight=requests, ready=ready, pods_known=ready, pods_answered=ready, requests=MEAN)
    return Load(**{name: getattr(base, name) for name in base.__slots__} | more)


def run(
    load: Load, policy: Policy, seconds: float, memory: Memory = Memory(), start: float = 0.0, follow: bool = True
) -> Decision:
    """The last decision of a steady load, asked every two seconds, replicas ready as decided."""
    decision = decide(load, policy, memory, start)
    for tick in range(1, int(seconds / 2) + 1):
        ready = decision.replicas if follow else load.ready
        now = Load(
            **{name: getattr(load, name) for name in load.__slots__}
            | {"ready": ready, "pods_known": ready, "pods_answered": ready if load.pods_answered else 0}
        )
        decision = decide(now, policy, decision.memory, start + 2.0 * tick)
    return decision


def test_a_held_request_wakes_a_model_at_once() -> None:
    decision = decide(Load(held=1), Policy(max_replicas=4), Memory(), 0.0)
    assert decision.replicas == 1


def test_nothing_wakes_a_sleeping_model_without_requests() -> None:
    assert run(Load(), Policy(max_replicas=4), 600).replicas == 0


def test_no_request_is_counted_twice() -> None:
    seen_twice = Load(running=6, waiting=2, in_flight=8, held=3, overflowed=5, ready=1, pods_known=1, pods_answered=1)
    assert decide(seen_twice, Policy(max_replicas=9), Memory(), 0.0).demand == 8 + 3 + 5


def test_a_silent_pod_is_as_busy_as_the_others() -> None:
    load = Load(running=8, ready=4, pods_known=4, pods_answered=2)
    assert decide(load, Policy(max_replicas=9), Memory(), 0.0).demand == 16


@pytest.mark.parametrize("load", [1.0, 5.0, 29.0, 35.5, 142.0])
def test_spare_capacity_is_erlangs(load: float) -> None:
    patience = 2 / 6.4
    exact = erlang_replicas(load, 8, patience, 0.01)
    assert abs(staffed_replicas(load, load**0.5, 8, 1000, patience, 0.01) - exact) <= 1


def test_a_queue_that_piles_up_is_sized_by_its_growth_not_its_length() -> None:
    policy = Policy(min_replicas=1, max_replicas=64, cold_start=300)
    memory, decision = Memory(), None
    for tick in range(60):
        # Three requests a second come in, 8 slots serve 1.5 of them: 16 slots would do.
        queue = 1.5 * 2 * tick
        load = Load(
            running=8, waiting=queue, in_flight=8 + queue, ready=1, pods_known=1, pods_answered=1, requests=MEAN
        )
        decision = decide(load, policy, memory, 2.0 * tick)
        memory = decision.memory
    assert decision is not None
    assert decision.demand > 180
    assert 3 <= decision.replicas <= 10


def test_a_jump_beyond_all_that_was_seen_is_followed_at_once_and_teaches_no_caution() -> None:
    policy = Policy(min_replicas=1, max_replicas=64, cold_start=60)
    memory = Memory()
    for tick in range(1800):  # an hour of noise that does not last
        memory = decide(busy(25 + (7 if tick % 20 < 10 else -7), 5), policy, memory, 2.0 * tick).memory
    assert memory.history.persistence < 0.3
    before = memory.caution
    for tick in range(1800, 1830):  # then 75 slots' worth of arrivals on 40 slots, for as long as a start takes
        load = busy(40, 5, waiting=13.0 * (tick - 1799), in_flight=40 + 13.0 * (tick - 1799))
        decision = decide(load, policy, memory, 2.0 * tick)
        memory = decision.memory
        assert tick < 1810 or 9 <= decision.replicas <= 20
    assert memory.caution < before + 0.3  # a minute of such misses is worth three quarters


def test_the_last_replica_stays_while_waking_would_cost_more_and_goes_then() -> None:
    policy = Policy(max_replicas=4, cold_start=60, slots=8)
    served = run(busy(3, 1), policy, 300)
    quiet = run(busy(0, 1), policy, 120, served.memory, start=302.0)
    assert quiet.replicas == 1
    assert "idle" in quiet.why
    assert run(busy(0, 1), policy, 400, served.memory, start=302.0).replicas == 0


def test_the_user_may_say_when_to_sleep() -> None:
    policy = Policy(max_replicas=4, scale_to_zero_after=20)
    served = run(busy(3, 1), policy, 300)
    assert run(busy(0, 1), policy, 16, served.memory, start=302.0).replicas == 1
    assert run(busy(0, 1), policy, 30, served.memory, start=302.0).replicas == 0


def test_a_fresh_memory_takes_nothing_away_for_one_window() -> None:
    policy = Policy(max_replicas=8, cold_start=60)
    assert run(busy(1, 6), policy, 100, follow=False).replicas == 6
    assert run(busy(1, 6), policy, 300, follow=False).replicas < 6


@pytest.mark.parametrize("hosted", [False, True])
def test_missing_metrics_take_nothing_away(hosted: bool) -> None:
    policy = Policy(max_replicas=8, hosted=hosted, prices=DEAR)
    served = run(busy(30, 5), policy, 1200)
    dark = Load(ready=served.replicas, pods_known=served.replicas, metrics_age=60.0, requests=MEAN)
    decision = run(dark, policy, 3600, served.memory, start=1202.0)
    assert decision.replicas >= served.replicas >= 4
    assert "when last seen" in decision.why


def test_a_leap_of_the_clock_neither_sleeps_nor_scales() -> None:
    policy = Policy(max_replicas=8, cold_start=60)
    served = run(busy(30, 5), policy, 1200)
    for leap in (-1e9, 1e9, float("nan"), float("inf")):
        after = decide(busy(0, served.replicas), policy, served.memory, leap)
        assert after.replicas == served.replicas


def test_dear_hosting_starts_replicas_and_cheap_hosting_leaves_them_off() -> None:
    load = Load(overflowed=40, requests=MEAN)
    dear = run(load, Policy(max_replicas=8, hosted=True, prices=DEAR), 1200)
    cheap = run(load, Policy(max_replicas=8, hosted=True, prices=Prices(4000, 10, 40)), 1200)
    assert (dear.replicas, cheap.replicas) == (5, 0)
    assert dear.priced
    assert cheap.priced


@pytest.mark.parametrize(
    ("prices", "requests"),
    [(None, MEAN), (Prices(0, 1036, 4144), MEAN), (Prices(4000, 0, 0), MEAN), (DEAR, Requests())],
)
def test_without_a_price_the_rule_of_waiting_holds(prices: Prices | None, requests: Requests) -> None:
    load = Load(overflowed=40, requests=requests)
    decision = run(load, Policy(max_replicas=8, hosted=True, prices=prices), 600)
    assert not decision.priced
    assert decision.replicas >= 5


def test_a_short_pool_limits_and_is_remembered() -> None:
    decision = run(busy(60, 2, free_gpus=2), Policy(max_replicas=20, gpus_per_replica=2), 60, follow=False)
    assert decision.replicas == 3
    assert decision.wanted > 3
    assert decision.memory.short == pytest.approx(60, abs=2)
    assert "room for 3" in decision.why


def test_the_oldest_claim_on_a_pool_comes_first_and_is_not_starved_by_small_ones() -> None:
    claims = [Claim("new", 3, 1, None), Claim("old", 2, 4, -10.0), Claim("small", 1, 1, 50.0)]
    assert shares(claims, 9) == {"old": 8, "small": 1, "new": 0}
    assert shares(claims, 6) == {"old": 4, "small": 0, "new": 0}
    assert sum(shares(claims, 100).values()) == 12


def test_a_target_replaces_staffing() -> None:
    assert run(busy(30, 5), Policy(max_replicas=20, target=2.0), 600).replicas == 15


def test_contradictions_are_settled_for_fewer_gpus() -> None:
    policy = Policy(min_replicas=9, max_replicas=2, slots=0, target=0, cold_start=float("nan"), gpus_per_replica=-1)
    assert (policy.min_replicas, policy.max_replicas, policy.slots, policy.target) == (2, 2, 1, None)
    assert policy.cold_start > 0
    assert policy.gpus_per_replica == 1


def test_memory_survives_json_and_rubbish_is_a_fresh_start() -> None:
    memory = run(busy(30, 5), Policy(max_replicas=64, hosted=True, prices=DEAR), 600).memory
    stored = json.loads(json.dumps(memory.to_json()))
    assert Memory.from_json(stored) == memory
    for rubbish in (None, [], {}, stored | {"age": "x"}, stored | {"accounts": [-1.0]}, stored | {"history": [1]}):
        assert Memory.from_json(rubbish) == Memory()


def test_the_wait_for_gpus_begins_with_the_look_that_finds_the_pool_too_small():
    idle = decide(Load(free_gpus=0), Policy(max_replicas=2), Memory(), 0.0).memory
    begun = decide(Load(held=1, free_gpus=0), Policy(max_replicas=2), idle, 50.0).memory
    assert 0 < begun.short < 1
    assert decide(Load(held=1, free_gpus=0), Policy(max_replicas=2), begun, 52.0).memory.short == pytest.approx(
        2, abs=0.1
    )
    assert decide(Load(held=1, free_gpus=1), Policy(max_replicas=2), begun, 52.0).memory.short == 0
