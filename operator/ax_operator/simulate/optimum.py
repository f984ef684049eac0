"""The cheapest schedules with full knowledge, exact on a grid of ten seconds.

Demand of a cell is the mean of busy slots if every request were served at once. Cut into layers of one
replica, the problem falls apart: the cost of a cell is convex in the number of replicas, so the layers can be
solved alone, each by dynamic programming over two states (on, off), and the layers' answers are nested.
A start costs one cold start of a GPU; a running cell costs a cell; an idle layer costs what the hosted API asks
for its work, or is forbidden where there is none. Waiting within a cell is free to the optimum and it drains
for nothing, so it is a bound that no policy which serves on time can be expected to reach.
"""

from dataclasses import dataclass
from math import inf

CELL = 10.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Replicas per cell, and what they and the hosted API cost in replica-seconds."""

    replicas: tuple[int, ...]
    starts: int
    replica_seconds: float
    hosted_seconds: float
    """Hosted work, in slot-seconds."""


def optimum(cells: list[float], slots: int, cold_start: float, worth: float = inf, first: int = 0) -> Schedule:
    """The cheapest schedule for the demand `cells`.

    worth: hosted cost of a full layer's work over the cost of a replica; infinite where nothing is hosted.
    first: replicas that run at the beginning and need no start.
    """
    layers = int(max(cells) / slots) + 1
    replicas = [0] * len(cells)
    starts, hosted = 0, 0.0
    for layer in range(layers):
        use = [min(1.0, max(0.0, cell / slots - layer)) for cell in cells]
        running = _layer(use, cold_start, worth, layer < first)
        before = layer < first
        for index, on in enumerate(running):
            replicas[index] += on
            starts += on and not before
            before = on
            if not on:
                hosted += use[index] * slots * CELL
    return Schedule(tuple(replicas), starts, sum(replicas) * CELL + starts * cold_start, hosted)


def _layer(use: list[float], cold_start: float, worth: float, first: bool) -> list[bool]:
    on, off = (0.0, 0.0) if first else (inf, 0.0)
    came: list[tuple[bool, bool]] = []
    for share in use:
        idle = 0.0 if share <= 1e-9 else worth * share * CELL
        from_on_to_off, from_off_to_on = on < off, off + cold_start < on
        on, off = (
            min(on, off + cold_start) + CELL,
            min(on, off) + idle,
        )
        came.append((not from_off_to_on, from_on_to_off))
    state = on < off
    states = []
    for kept_on, stopped in reversed(came):
        states.append(state)
        state = kept_on if state else stopped
    return states[::-1]
