"""What a simulation is given, what a policy under test sees and answers, and what comes out."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Setting:
    """The engine, the SLO, the hosted API and what goes wrong; the same for every policy."""

    slots: int = 8
    prefill: float = 8000.0
    """Prompt tokens per second."""
    token_ms: float = 25.0
    cold_start: float = 60.0
    patience: float = 2.0
    hosted: bool = False
    overflow_wait: float = 1.5
    """With hosted: seconds that a request queues here before the hosted API takes it."""
    gpu_hour: float = 4000.0
    hosted_input: float = 0.0
    hosted_output: float = 0.0
    max_replicas: int = 64
    first_replicas: int = 0
    blackouts: tuple[tuple[float, float], ...] = ()
    """(from, to) seconds in which no metrics arrive."""
    seconds_error: float = 1.0
    """Factor on the service time that the autoscaler is told."""

    def seconds(self, prompt: int, output: int) -> float:
        """Service time of a request in its slot."""
        return max(0.001, prompt / self.prefill + output * self.token_ms / 1000)


@dataclass(slots=True)
class View:
    """What an autoscaler may see at a tick."""

    now: float
    running: int
    waiting: int
    """Queued while a replica is ready."""
    held: int
    """Queued while none is."""
    overflowed: int
    ready: int
    starting: int
    age: float
    """Seconds since metrics last arrived; while above zero the counts are zero and mean nothing."""
    mean_prompt: float
    mean_output: float
    mean_seconds: float


class Scaler(Protocol):
    """A policy under test."""

    period: float
    """Seconds between ticks."""

    def replicas(self, view: View) -> int:
        """Replicas from now on."""


@dataclass(slots=True)
class Outcome:
    """What one policy did with one trace."""

    gpu_seconds: float = 0.0
    """Per replica of one GPU."""
    requests: int = 0
    in_time: int = 0
    hosted: int = 0
    hosted_cost: float = 0.0
    changes: int = 0
    peak: int = 0
    zero_with_requests: int = 0
    series: list[tuple[float, int, int, int, int]] | None = None
    """(seconds, demand, replicas paid for, queue, at the hosted API), every ten seconds."""
