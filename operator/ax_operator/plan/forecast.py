"""What demand will be when a replica asked for now is ready: a forecast that learns how far to trust the moment.

Over one lead time (cold start and a service time) demand either lasts or falls back to its mean. How much of a
deviation lasts is the correlation of demand with itself one lead time ago, learned from cell means. So

    expected  = mean + persistence * (now - mean)          (first-order autoregression)
    variance  = variance of demand * (1 - persistence^2)

Persistent load (a busy morning) is followed; noise and bursts shorter than the lead time are not chased, they
only widen the variance, which is what spare capacity is computed from. With no history, all is persistent.
"""

from math import sqrt
from typing import NamedTuple

CELLS_PER_LEAD = 2
_PRIOR_CELLS = 8.0
_SHORTEST_MEMORY = 2400.0


class History(NamedTuple):
    """Running statistics of the demand; bounded, JSON-ready as a flat list of numbers."""

    seconds: float = 0.0
    """Observed."""
    mean: float = 0.0
    variance: float = 0.0
    """Of samples."""
    cell_sum: float = 0.0
    """Slot-seconds of the unfinished cell."""
    cell_seconds: float = 0.0
    cells: float = 0.0
    """Cells that have had a partner one lead time earlier."""
    cell_variance: float = 0.0
    covariance: float = 0.0
    past: tuple[float, ...] = ()
    """Means of the last cells, oldest first; at most CELLS_PER_LEAD."""

    @property
    def persistence(self) -> float:
        """Share of a deviation from the mean that lasts for one lead time, in [0, 1]."""
        weight = self.cells / (self.cells + _PRIOR_CELLS)
        if self.cell_variance <= 0:
            return 1.0
        measured = min(1.0, max(0.0, self.covariance / self.cell_variance))
        return 1 + weight * (measured - 1)


NO_HISTORY = History()


def memory_of(lead: float) -> float:
    """Seconds over which statistics are kept: long against a lead time, short against a day."""
    return max(_SHORTEST_MEMORY, 20 * lead)


def observed(history: History, demand: float, step: float, lead: float) -> History:
    """The history after `demand` slots were wanted for `step` seconds."""
    if step <= 0:
        return history if history.seconds > 0 else history._replace(mean=demand)
    seconds, mean, variance, cell_sum, cell_seconds, cells, cell_variance, covariance, past = history
    memory = memory_of(lead)
    seconds = min(seconds + step, memory)
    weight = step / seconds
    apart = demand - mean
    before = mean
    mean += weight * apart
    variance = (1 - weight) * (variance + weight * apart * apart)
    cell_sum += demand * step
    cell_seconds += step
    if cell_seconds * CELLS_PER_LEAD >= lead:
        cell = cell_sum / cell_seconds
        if len(past) >= CELLS_PER_LEAD:
            cells += 1
            weight = max(1 / cells, cell_seconds / memory)
            apart = cell - before
            cell_variance += weight * (apart * apart - cell_variance)
            covariance += weight * (apart * (past[0] - before) - covariance)
        past = (*past[1 - CELLS_PER_LEAD :], cell) if len(past) >= CELLS_PER_LEAD else (*past, cell)
        cell_sum = cell_seconds = 0.0
    return History(seconds, mean, variance, cell_sum, cell_seconds, cells, cell_variance, covariance, past)


class Expected(NamedTuple):
    """The demand one lead time from now."""

    mean: float
    variance: float

    @property
    def deviation(self) -> float:
        """Its standard deviation; arrivals vary at least as Poisson's do."""
        return sqrt(max(self.mean, self.variance))


def expected(history: History, demand: float) -> Expected:
    """What comes after the demand of this moment."""
    lasts = history.persistence
    mean = max(0.0, history.mean + lasts * (demand - history.mean))
    return Expected(mean, history.variance * (1 - lasts * lasts))
