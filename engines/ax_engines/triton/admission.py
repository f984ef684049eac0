"""Who generates, who waits, who is turned away. Pure: time comes as an argument, the caller holds a lock.

Triton hands a decoupled model every request at once and an engine's own queue cannot be cancelled, so this queue
stands in front: it is bounded, first come first served, and tells the true number of waiting requests.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFullError(Exception):
    """No room to wait; `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full, retry in {retry_after} s")
        self.retry_after = retry_after


class Admission(Generic[T]):
    """Slots and the queue before them. A ticket is whatever the caller wants started, one per slot."""

    def __init__(self, slots: int, queue: int) -> None:
        self.slots = slots
        self.queue = queue
        self._running: dict[T, float] = {}
        self._waiting: OrderedDict[T, float | None] = OrderedDict()
        self._service_seconds = 1.0

    @property
    def running(self) -> int:
        """Tickets that hold a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Tickets in the queue."""
        return len(self._waiting)

    def offer(self, tickets: Sequence[T], deadline: float | None, now: float) -> list[T]:
        """Take all tickets of a request or none; return those to start now.

        Raises QueueFullError when those without a free slot do not fit into the queue.
        """
        free = 0 if self._waiting else self.slots - len(self._running)
        if len(tickets) - free > self.queue - len(self._waiting):
            raise QueueFullError(self.retry_after())
        self._waiting.update((ticket, deadline) for ticket in tickets)
        return self._fill(now)

    def release(self, ticket: T, now: float) -> list[T]:
        """Give a ticket's slot or place back; return the tickets to start now. Unknown tickets change nothing."""
        started = self._running.pop(ticket, None)
        if started is not None:
            self._service_seconds += 0.2 * (now - started - self._service_seconds)
        self._waiting.pop(ticket, None)
        return self._fill(now)

    def is_waiting(self, ticket: T) -> bool:
        """Say whether a ticket is still in the queue."""
        return ticket in self._waiting

    def overdue(self, now: float) -> list[T]:
        """Return the waiting tickets whose deadline has passed; they stay until released."""
        return [ticket for ticket, deadline in self._waiting.items() if deadline is not None and deadline <= now]

    def retry_after(self) -> int:
        """Return in how many seconds the queue will have moved by about half, from 1 to 60."""
        seconds = self._service_seconds * (len(self._waiting) + 1) / self.slots / 2
        return max(1, min(60, math.ceil(seconds)))

    def _fill(self, now: float) -> list[T]:
        started = []
        while self._waiting and len(self._running) < self.slots:
            ticket, _ = self._waiting.popitem(last=False)
            self._running[ticket] = now
            started.append(ticket)
        return started
