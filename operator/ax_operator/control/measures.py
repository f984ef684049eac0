"""What pods and gateways have told about requests, and what it comes to for one model. Pure; told the time.

Nobody's silence is taken for zero: an old answer keeps its number and its age, and the plan decides what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ax_engines import wire
from ax_operator.control.questions import GatewayLoad, ModelLoad
from ax_operator.plan.scaling import Requests

WINDOW_SECONDS = 300.0
"""Over which the mean request is measured."""


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


@dataclass(slots=True)
class PodMeasure:
    """A serving pod's last answer, and the first of the window."""

    asked: float
    at: float | None = None
    gauges: Mapping[str, float] = field(default_factory=dict)
    _since: float = 0.0
    _first: Mapping[str, float] = field(default_factory=dict)
    busy_seconds: float = 0.0
    """Integral of running requests over time, within the window."""

    def answered(self, gauges: Mapping[str, float], now: float) -> None:
        """Take over an answer; counters that went back mean that the pod started anew."""
        restarted = gauges[wire.METRIC_TTFT_COUNT] < self.gauges.get(wire.METRIC_TTFT_COUNT, 0.0)
        if self.at is None or restarted or now - self._since > WINDOW_SECONDS:
            self._since, self._first, self.busy_seconds = now, gauges, 0.0
        else:
            self.busy_seconds += (now - self.at) * self.gauges.get(wire.METRIC_RUNNING, 0.0)
        self.at, self.gauges = now, gauges

    def age(self, now: float) -> float:
        """Seconds since the last answer, or since the first question."""
        return now - (self.at if self.at is not None else self.asked)

    def counted(self, name: str) -> float:
        """How far a counter went within the window."""
        return max(0.0, self.gauges.get(name, 0.0) - self._first.get(name, 0.0))


@dataclass(slots=True)
class GatewayMeasure:
    """A gateway's last answer."""

    asked: float
    at: float | None = None
    load: GatewayLoad | None = None
    overflow_rates: dict[str, float] = field(default_factory=dict)
    """Requests per second that went elsewhere for want of room, between the last two answers."""

    def answered(self, load: GatewayLoad, now: float) -> None:
        """Take over an answer."""
        before, seconds = self.load, now - (self.at if self.at is not None else now)
        self.overflow_rates = {}
        if before is not None and seconds > 0:
            for name, each in load.models.items():
                more = each.overflowed - before.models.get(name, ModelLoad()).overflowed
                if more > 0:
                    self.overflow_rates[name] = more / seconds
        self.load, self.at = load, now

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
) -> Measured:
    """Return what it comes to for the model `<namespace>/<name>`; an answer younger than `fresh` seconds counts."""
    pods, gateways = list(pods), list(gateways)
    loads = [g.load.models.get(name, ModelLoad()) for g in gateways if g.load]
    requests = mean_request(pods)
    ages = sorted(pod.age(now) for pod in pods)
    return Measured(
        running=sum(pod.gauges.get(wire.METRIC_RUNNING, 0.0) for pod in pods),
        waiting=sum(pod.gauges.get(wire.METRIC_WAITING, 0.0) for pod in pods),
        held=sum(load.held for load in loads),
        in_flight=sum(load.running for load in loads),
        overflowed=sum(g.overflow_rates.get(name, 0.0) for g in gateways) * (requests.seconds or 1.0),
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
