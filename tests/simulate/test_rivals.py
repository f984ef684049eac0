"""The rivals' formulae, against the worked examples that their own documentation gives."""

import pytest

from ax_operator.simulate.scalers import Hpa, Keda, Kpa, hpa_desired, hpa_rate_limit, kpa_desired
from ax_operator.simulate.setting import Setting, View

SETTING = Setting(slots=10, max_replicas=100)


def view(now: float, running: int, ready: int, starting: int = 0, held: int = 0) -> View:
    return View(
        now=now,
        running=running,
        waiting=0,
        held=held,
        overflowed=0,
        ready=ready,
        starting=starting,
        age=0.0,
        mean_prompt=0.0,
        mean_output=0.0,
        mean_seconds=0.0,
    )


@pytest.mark.parametrize(
    ("current", "metric", "target", "desired"),
    [
        (50, 90, 75, 60),  # Kubernetes, "configurable tolerance": 50 x (90/75) = 60
        (4, 200, 100, 8),  # Kubernetes, "algorithm details": 200m at a target of 100m doubles
        (4, 50, 100, 2),  # and 50m halves
        (10, 109, 100, 10),  # within the tolerance of 10 %
        (10, 91, 100, 10),
        (10, 111, 100, 12),
    ],
)
def test_hpa_desires_what_kubernetes_documents(current: int, metric: float, target: float, desired: int) -> None:
    assert hpa_desired(current, metric, target) == desired


def test_hpa_doubles_or_adds_four_per_period() -> None:
    assert [hpa_rate_limit(replicas) for replicas in (1, 3, 4, 10)] == [5, 7, 8, 20]
    assert Hpa(SETTING).replicas(view(0, running=900, ready=3)) == 7


def test_hpa_takes_the_highest_advice_of_five_minutes_before_it_shrinks() -> None:
    hpa = Hpa(SETTING)
    assert hpa.replicas(view(0, running=64, ready=8)) == 8
    assert hpa.replicas(view(285, running=8, ready=8)) == 8
    assert hpa.replicas(view(301, running=8, ready=8)) == 1


def test_keda_wakes_at_its_poll_and_sleeps_after_its_cooldown() -> None:
    keda = Keda(SETTING)
    assert keda.replicas(view(0, running=0, ready=0)) == 0
    assert keda.replicas(view(15, running=0, ready=0, held=1)) == 0
    assert keda.replicas(view(30, running=0, ready=0, held=1)) == 1
    assert [keda.replicas(view(now, running=0, ready=1)) for now in (60, 315, 329)] == [1, 1, 1]
    assert keda.replicas(view(345, running=0, ready=1)) == 0


@pytest.mark.parametrize(
    ("concurrency", "target", "desired"),
    [
        (50, 10, 5),  # Knative's example: concurrency 10, 50 requests, 5 pods
        (100, 10 * 0.7, 15),  # with 70 % utilisation: 100 / (10 x 0.7), rounded up
    ],
)
def test_kpa_desires_what_knative_documents(concurrency: float, target: float, desired: int) -> None:
    assert kpa_desired(concurrency, target) == desired


def test_kpa_panics_at_twice_the_ready_capacity_and_does_not_shrink_in_panic() -> None:
    kpa = Kpa(SETTING)
    for now in range(0, 60, 2):
        assert kpa.replicas(view(now, running=7, ready=1)) == 1
    peak = max(kpa.replicas(view(now, running=70, ready=1)) for now in range(60, 66, 2))
    assert peak == 10
    assert all(kpa.replicas(view(now, running=7, ready=10)) >= 10 for now in range(66, 120, 2))


def test_kpa_sleeps_after_its_window_and_grace() -> None:
    kpa = Kpa(SETTING)
    kpa.replicas(view(0, running=5, ready=1))
    asleep = [now for now in range(2, 120, 2) if kpa.replicas(view(now, running=0, ready=1)) == 0]
    assert asleep[0] == 90
