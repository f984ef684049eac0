"""What pods and gateways have told about requests, and what it comes to for one model. Pure; told the time.

Nobody's silence is taken for zero: an old answer keeps its number and its age, and the plan decides what it is worth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ax_engines import wire
from ax_operator.control.questions import GatewayLoad, ModelLoad
from ax_operator.plan.scaling import Requests, known

WINDOW_SECONDS = 300.0
"""Over which the mean request is measured."""
MARK_SECONDS = 15.0
"""Between two moments from which that window may begin."""
OVERFLOW_SECONDS = (10.0, 60.0)
"""Shortest and longest time over which overflow is counted; in between, as long as a request takes."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model's requests, as far as pods and gateways told."""

    running: float
    waiting: float
    held: float
    in_flight: float
    overflowed: float
    pods_known: int
    pods_answered: int
    age: float
    """Seconds since all gateways and a majority of the pods last answered."""
    requests: Requests

    @property
    def busy(self) -> bool:
        """Whether anybody wants anything."""
        return self.running + self.waiting + self.held + self.in_flight + self.overflowed > 0


class _Mark(NamedTuple):
    """A pod's counters at one moment."""

    at: float
    gauges: Mapping[str, float]
    busy_seconds: float


@dataclass(slots=True)
class PodMeasure:
    """A serving pod's last answer, and marks of its counters within the window."""

    asked: float
    name: str = ""
    at: float | None = None
    gauges: Mapping[str, float] = field(default_factory=dict)
    _busy_seconds: float = 0.0
    """Integral of running requests over time."""
    _marks: deque[_Mark] = field(default_factory=deque)

    def answered(self, gauges: Mapping[str, float], now: float) -> None:
        """Take over an answer; counters that went back mean that the pod started anew."""
        if self.at is None or gauges[wire.METRIC_TTFT_COUNT] < self.gauges.get(wire.METRIC_TTFT_COUNT, 0.0):
            self._marks.clear()
        else:
            running = self.gauges.get(wire.METRIC_RUNNING, 0.0)
            self._busy_seconds += max(0.0, now - self.at) * (running if known(running) else 0.0)
        self.at, self.gauges = now, gauges
        if not self._marks or now - self._marks[-1].at >= MARK_SECONDS:
            self._marks.append(_Mark(now, gauges, self._busy_seconds))
        while len(self._marks) > 1 and now - self._marks[0].at > WINDOW_SECONDS:
            self._marks.popleft()

    def age(self, now: float) -> float:
        """Seconds since the last answer, or since the first question."""
        return now - (self.at if self.at is not None else self.asked)

    @property
    def requests(self) -> float:
        """Requests that run or wait, as last told."""
        return self.gauges.get(wire.METRIC_RUNNING, 0.0) + self.gauges.get(wire.METRIC_WAITING, 0.0)

    @property
    def busy_seconds(self) -> float:
        """Integral of running requests over time, within the window."""
        return self._busy_seconds - self._marks[0].busy_seconds if self._marks else 0.0

    def counted(self, name: str) -> float:
        """How far a counter went within the window."""
        first = self._marks[0].gauges if self._marks else {}
        return max(0.0, self.gauges.get(name, 0.0) - first.get(name, 0.0))


@dataclass(slots=True)
class GatewayMeasure:
    """A gateway's last answer, and when how many requests overflowed."""

    asked: float
    at: float | None = None
    load: GatewayLoad | None = None
    _overflowed: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def answered(self, load: GatewayLoad, now: float) -> None:
        """Take over an answer; a counter that went back means that the gateway started anew."""
        for name, each in load.models.items() if self.load else ():
            before = self.load.models.get(name, ModelLoad()) if self.load else each
            if each.overflowed > before.overflowed:
                self._overflowed.setdefault(name, deque()).append((now, each.overflowed - before.overflowed))
        for name, told in list(self._overflowed.items()):
            while told and now - told[0][0] > OVERFLOW_SECONDS[1]:
                told.popleft()
            if not told:
                del self._overflowed[name]
        self.load, self.at = load, now

    def overflowing(self, name: str, seconds: float, now: float) -> float:
        """Return how many overflowed requests the hosted API works on now, if one takes `seconds`.

        By Little's law: their rate over about that time, times that time. Each counts once, and for no longer.
        """
        span = min(max(seconds, OVERFLOW_SECONDS[0]), OVERFLOW_SECONDS[1])
        recent = sum(count for at, count in self._overflowed.get(name, ()) if now - at <= span)
        return recent * (seconds or 1.0) / span

    def age(self, now: float) -> float:
        """Seconds since the last answer, or since the first question."""
        return now - (self.at if self.at is not None else self.asked)


def measured(
    name: str,
    pods: Iterable[PodMeasure],
    gateways: Iterable[GatewayMeasure],
    gateways_age: float,
    now: float,
    fresh: float,
    usual: Requests | None = None,
) -> Measured:
    """Return what it comes to for the model `<namespace>/<name>`; an answer younger than `fresh` seconds counts.

    usual: the mean request when one was measured last, for as long as none is.
    """
    pods, gateways = list(pods), list(gateways)
    loads = [g.load.models.get(name, ModelLoad()) for g in gateways if g.load]
    requests = mean_request(pods)
    if not (known(requests.seconds) and requests.seconds > 0):
        requests = usual or Requests()
    ages = sorted(pod.age(now) for pod in pods)
    return Measured(
        running=sum(pod.gauges.get(wire.METRIC_RUNNING, 0.0) for pod in pods),
        waiting=sum(pod.gauges.get(wire.METRIC_WAITING, 0.0) for pod in pods),
        held=sum(load.held for load in loads),
        in_flight=sum(load.running for load in loads),
        overflowed=sum(g.overflowing(name, requests.seconds, now) for g in gateways),
        pods_known=len(pods),
        pods_answered=sum(pod.at is not None and age < fresh for pod, age in ((p, p.age(now)) for p in pods)),
        age=max(gateways_age, ages[len(ages) // 2] if ages else 0.0),
        requests=requests,
    )


def mean_request(pods: Iterable[PodMeasure]) -> Requests:
    """Return the mean request over the window, zeros where none was measured."""
    pods = list(pods)
    count = sum(pod.counted(wire.METRIC_TTFT_COUNT) for pod in pods)
    if count <= 0:
        return Requests()
    return Requests(
        prompt_tokens=sum(pod.counted(wire.METRIC_PROMPT_TOKENS) for pod in pods) / count,
        output_tokens=sum(pod.counted(wire.METRIC_GENERATED_TOKENS) for pod in pods) / count,
        seconds=sum(pod.busy_seconds for pod in pods) / count,
    )
