"""An engine that makes tokens at a steady pace and computes nothing: for measuring what serving costs.

Every request gets `max_tokens` tokens, each with its number and the monotonic time in nanoseconds at which it was
made (` 7@123`), `tokens_per_second` of them each second. Requests are out of step with each other, which is harder
for coalescing than the common step of a real engine's batch; with `in_step` they share one.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from pathlib import Path
from typing import Any

from ax_engines.contract import ServingOptions
from ax_engines.triton.adaptor import EngineStats, OnAnswer
from ax_engines.wire import Chunk, GenerateRequest, Usage


class Paced:
    """One request under way."""

    def __init__(self, index: int, count: int, on_answer: OnAnswer) -> None:
        self.index, self.count, self.on_answer = index, count, on_answer
        self.sent = 0
        self.cancelled = False

    def step(self) -> bool:
        """Send the next token; False after the last."""
        self.sent += 1
        last = self.sent >= self.count or self.cancelled
        finish: Any = "cancelled" if self.cancelled else "length"
        usage = Usage(1, self.sent, 0)
        text = f" {self.sent}@{time.monotonic_ns()}"
        self.on_answer(Chunk(self.index, text, 1, finish if last else None, usage if last else None))
        return not last


class PacedEngine:
    """The adaptor."""

    def start(self, options: ServingOptions, folder: Path) -> None:
        """Start the clock."""
        self._period = 1 / float(options.engine_args.get("tokens_per_second", 100))
        self._in_step = bool(options.engine_args.get("in_step"))
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Paced]] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest, index: int, on_answer: OnAnswer) -> Paced:
        """Begin; the first token comes at once, or with the next step."""
        paced = Paced(index, request.sampling.max_tokens or 100, on_answer)
        now = time.monotonic()
        first = (now // self._period + 1) * self._period if self._in_step else now
        with self._changed:
            heapq.heappush(self._heap, (first, next(self._order), paced))
            self._changed.notify()
        return paced

    def cancel(self, handle: Paced) -> None:
        """End with the next token."""
        handle.cancelled = True

    def count_tokens(self, prompt: str) -> int:
        """One token a word."""
        return len(prompt.split())

    def stats(self) -> EngineStats:
        """Nothing to tell."""
        return EngineStats()

    def stop(self) -> None:
        """Stop the clock."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._stopped:
                    return
                due, _, paced = heapq.heappop(self._heap)
            if paced.step():
                with self._changed:
                    heapq.heappush(self._heap, (due + self._period, next(self._order), paced))


ENGINE = PacedEngine
