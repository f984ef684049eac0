"""The queue on an event loop: single flight, collapse, errors that stay visible, a stop that loses nothing."""

import asyncio
import logging
from collections import Counter

import pytest

from ax_operator.control.workqueue import STUCK_AFTER, WorkQueue


class Bench:
    """Work that can be held up, and counts what happens."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most_at_once = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failures: list[Exception] = []
        self.again: float | None = None
        self._changed = asyncio.Event()

    async def work(self, key: str) -> float | None:
        self.begun[key] += 1
        self.at_once[key] += 1
        assert self.at_once[key] == 1
        self.most_at_once = max(self.most_at_once, self.at_once.total())
        self._changed.set()
        try:
            await self.open.wait()
            if self.failures:
                raise self.failures.pop()
            self.ended[key] += 1
            return self.again
        finally:
            self.at_once[key] -= 1
            self._changed.set()

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def bench():
    return Bench()


def queue_of(bench: Bench, **kwargs) -> WorkQueue[str]:
    queue: WorkQueue[str] = WorkQueue(bench.work, jitter=lambda: 0.0, **kwargs)
    queue.start()
    return queue


async def test_one_key_is_worked_on_by_one_worker_and_many_keys_by_many(bench):
    queue = queue_of(bench, workers=3)
    bench.open.clear()
    for key in "aabbccddaa":
        queue.add(key)
    await bench.until(lambda: bench.begun.total() == 3)
    queue.add("a")
    bench.open.set()
    await bench.until(lambda: bench.ended == {"a": 2, "b": 1, "c": 1, "d": 1})
    assert bench.most_at_once == 3
    await queue.stop(1)


async def test_a_bug_is_logged_with_its_traceback_and_tried_again(bench, caplog):
    bench.failures = [ZeroDivisionError("oh")]
    queue = queue_of(bench)
    queue.add("a")
    await bench.until(lambda: bench.ended["a"] == 1)
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError
    await queue.stop(1)


async def test_an_expected_error_is_tried_again_without_a_traceback(bench, caplog):
    bench.failures = [ConnectionError("away")]
    queue = queue_of(bench, expected=(ConnectionError,))
    queue.add("a")
    await bench.until(lambda: bench.ended["a"] == 1)
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert record.exc_info is None
    assert record.error == "away"
    await queue.stop(1)


async def test_work_is_called_again_when_it_asks(bench):
    bench.again = 0.0
    queue = queue_of(bench)
    queue.add("a")
    await bench.until(lambda: bench.ended["a"] >= 3)
    await queue.stop(1)


async def test_stopping_finishes_what_runs_and_starts_nothing(bench):
    queue = queue_of(bench, workers=1)
    bench.open.clear()
    queue.add("a")
    queue.add("b")
    await bench.until(lambda: bench.begun["a"] == 1)
    stopping = asyncio.create_task(queue.stop(10))
    await asyncio.sleep(0)
    bench.open.set()
    await stopping
    assert bench.ended == {"a": 1}
    assert bench.begun["b"] == 0
    assert not queue.alive


async def test_stopping_cancels_what_does_not_end(bench, caplog):
    queue = queue_of(bench)
    bench.open.clear()
    queue.add("a")
    await bench.until(lambda: bench.begun["a"] == 1)
    await queue.stop(0.01)
    assert bench.at_once["a"] == 0
    assert "Cancelled work" in caplog.text


async def test_work_that_hangs_makes_the_queue_count_as_dead(bench):
    now = 0.0
    queue = queue_of(bench, clock=lambda: now)
    bench.open.clear()
    queue.add("a")
    await bench.until(lambda: bench.begun["a"] == 1)
    assert queue.alive
    now = STUCK_AFTER + 1
    assert not queue.alive
    bench.open.set()
    await bench.until(lambda: bench.ended["a"] == 1)
    await queue.stop(1)
