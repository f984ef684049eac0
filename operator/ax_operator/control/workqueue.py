"""A queue of keys that are worked off by a few workers, each key by one worker at a time.

`Backlog` is the mechanism, pure and told the time; `WorkQueue` runs it on an event loop. Invariants:

- Adding a key that waits changes nothing but, perhaps, makes it due earlier: any number of triggers collapse.
- A key added while it is worked on is worked on once more afterwards, so that no trigger is lost.
- A key added `first` goes before all that waits, however long that waits: somebody stands at the door.
- Work that raises is logged with its traceback and tried again, each time after twice as long, at most
  `LONGEST` seconds, with jitter; a new trigger does not wait for that.
- Work may return seconds after which it wants to be called again.
- Stopping starts nothing new and waits for what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

FIRST = 0.5
LONGEST = 300.0
STUCK_AFTER = 600.0
"""Seconds after which a single piece of work counts as hung, and the process as dead."""


class Backlog(Generic[K]):
    """Which keys are due when, which are being worked on, and how often each has failed in a row."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._running: dict[K, float] = {}
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: K, now: float, after: float = 0.0, *, first: bool = False) -> None:
        """Make the key due `after` seconds from now, or before all others, or leave it where it is due earlier."""
        at = -math.inf if first else now + max(0.0, after)
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            if key not in self._running:
                heapq.heappush(self._heap, (at, next(self._order), key))

    def take(self, now: float) -> K | None:
        """Return the key that is due first, now being worked on, or None."""
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == at and key not in self._running:
                del self._due[key]
                self._running[key] = now
                return key
        return None

    def done(self, key: K, now: float, again: float | None = None) -> None:
        """The work on the key ended well; `again` makes it due anew, as a trigger meanwhile has done anyhow."""
        self._failures.pop(key, None)
        self._ended(key, now, again)

    def failed(self, key: K, now: float) -> float:
        """The work on the key failed; return the seconds until it is due again."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(LONGEST, FIRST * 2.0 ** min(count - 1, 20)) * (0.5 + 0.5 * self._jitter())
        self._ended(key, now, delay)
        return delay

    def _ended(self, key: K, now: float, again: float | None) -> None:
        del self._running[key]
        if key in self._due:  # a trigger came meanwhile
            heapq.heappush(self._heap, (self._due[key], next(self._order), key))
        if again is not None:
            self.add(key, now, again)

    def failures(self, key: K) -> int:
        """How often the work on the key has failed in a row."""
        return self._failures.get(key, 0)

    @property
    def running(self) -> int:
        """How many keys are being worked on."""
        return len(self._running)

    def longest(self, now: float) -> float:
        """Seconds that the oldest work still going on has taken."""
        return now - min(self._running.values(), default=now)

    def next_in(self, now: float) -> float | None:
        """Seconds until something is due; 0 if something is; None if nothing waits."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._due.get(key) == at and key not in self._running:
                return max(0.0, at - now)
            heapq.heappop(self._heap)
        return None


class WorkQueue(Generic[K]):
    """A backlog with workers; `work(key)` returns seconds after which it wants to be called again, or None.

    expected: errors that need no traceback in the log, such as those of a server that is away.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        *,
        workers: int = 8,
        expected: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._workers = workers
        self._expected = expected
        self._clock = clock
        self.backlog: Backlog[K] = Backlog(jitter)
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._stopping = False

    def add(self, key: K, after: float = 0.0, *, first: bool = False) -> None:
        """Have the key worked on, `after` seconds from now, or before all others."""
        self.backlog.add(key, self._clock(), after, first=first)
        self._wake.set()

    def start(self) -> None:
        """Begin to work."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="work queue")

    async def stop(self, grace: float) -> None:
        """Start nothing new, wait up to `grace` seconds for what runs, then cancel it."""
        self._stopping = True
        self._wake.set()
        if self._dispatcher:
            await asyncio.wait([self._dispatcher])
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                logger.warning("Cancelled work that did not end in time", extra={"work": task.get_name()})
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def alive(self) -> bool:
        """Whether keys are still handed out and no work hangs."""
        dispatched = self._dispatcher is not None and not self._dispatcher.done()
        return dispatched and self.backlog.longest(self._clock()) < STUCK_AFTER

    async def _dispatch(self) -> None:
        while not self._stopping:
            self._wake.clear()
            while self.backlog.running < self._workers and (key := self.backlog.take(self._clock())) is not None:
                task = asyncio.create_task(self._one(key), name=str(key))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            busy = self.backlog.running >= self._workers
            delay = None if busy else self.backlog.next_in(self._clock())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)

    async def _one(self, key: K) -> None:
        try:
            again = await self._work(key)
        except self._expected as error:
            delay = self.backlog.failed(key, self._clock())
            extra = {"key": key, "error": str(error), "retry_seconds": round(delay, 1)}
            logger.warning("Failed and will try again", extra=extra)
        except Exception:
            delay = self.backlog.failed(key, self._clock())
            logger.exception("Failed by a bug and will try again", extra={"key": key, "retry_seconds": round(delay, 1)})
        else:
            self.backlog.done(key, self._clock(), again)
        finally:
            self._wake.set()
