"""What is asked of a model right now, from gauges alone, every request counted once."""

from typing import NamedTuple

from ax_operator.plan.scaling import Load, Memory, Policy, known

STALE_AFTER = 10.0
"""Seconds without metrics after which nothing is taken away."""
_SMOOTHED = 8.0
"""Seconds over which the growth of the queue is smoothed."""
_CLEARED_IN = 30.0
"""Seconds in which a queue should be gone once there is room."""


class Asked(NamedTuple):
    """One look at a model, understood."""

    here: float
    """Requests that are here or should be: held, waiting, running."""
    demand: float
    """`here`, and what is hosted for lack of room."""
    busy: float
    """Slots that would be busy if there were enough: the offered load. A queue that piles up counts by how
    fast it grows (growth times service time), not by how long it already is."""
    queue: float
    """Part of `here` for which no slot is ready."""
    growth: float
    """Smoothed growth of `queue` per second."""
    blind: bool
    """Metrics are missing; the rest is the last known or what little is seen, whichever is more."""


def asked_for(load: Load, policy: Policy, memory: Memory, step: float) -> Asked:
    """What `load` says, `step` seconds after the look that `memory` holds."""
    running, here, hosted, blind = _counted(load)
    demand = here + hosted
    if blind:
        demand = max(demand, memory.demand)
        return Asked(here, demand, max(demand, memory.recent), memory.queue, memory.growth, blind)
    room = max(running, max(0, load.ready) * policy.slots)
    queue = max(0.0, here - room)
    growth = memory.growth
    if step > 0 and memory.last is not None:
        growth += (queue - memory.queue - growth * step) / (_SMOOTHED + step)
    seconds = load.requests.seconds
    if not (known(seconds) and seconds > 0):
        return Asked(here, demand, demand, queue, growth, blind)
    offered = min(here, room) + seconds * growth + queue * min(1.0, seconds / _CLEARED_IN)
    return Asked(here, demand, max(0.0, offered) + hosted, queue, growth, blind)


def _counted(load: Load) -> tuple[float, float, float, bool]:
    """(requests running, requests here, requests hosted for lack of room, whether metrics are missing)."""
    running, waiting, held, in_flight = load.running, load.waiting, load.held, load.in_flight
    hosted = load.overflowed
    blind = not 0 <= load.metrics_age <= STALE_AFTER
    if not (known(running) and known(waiting) and known(held) and known(in_flight) and known(hosted)):
        running, waiting, held, in_flight, hosted = (
            value if known(value) else 0.0 for value in (running, waiting, held, in_flight, hosted)
        )
        blind = True
    if load.pods_known > load.pods_answered:
        # A silent pod is as busy as the others, for all we know.
        if load.pods_answered > 0:
            running *= load.pods_known / load.pods_answered
            waiting *= load.pods_known / load.pods_answered
        blind = blind or 2 * load.pods_answered < load.pods_known
    return running, held + max(in_flight, running + waiting), hosted, blind
