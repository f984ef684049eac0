"""Admission, start, cancellation and end of requests between Triton and an engine.

Threads: Triton's calls `open`, `attach` and `cancel`; the engine's call `_answer`; the delivery's sends; one watches
deadlines and clients that left. One lock guards the requests; engine and outlets are never called under it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ax_engines import wire
from ax_engines.contract import ServingOptions
from ax_engines.triton.adaptor import Answer, Engine
from ax_engines.triton.admission import Admission, QueueFullError
from ax_engines.triton.delivery import Box, Delivery, Outlet
from ax_engines.wire import Chunk, CountTokens, EngineError, GenerateRequest, Usage

log = logging.getLogger(__name__)
WATCH_SECONDS = 0.05
POLLS_PER_TICK = 8
"""Asking Triton whether a client left costs a round trip, so only so many plain requests are asked per tick, in turn;
channels are asked at each heartbeat."""
FULL = "The model's queue is full; retry later or lower the number of concurrent requests."


@dataclass(eq=False, slots=True)
class Stream:
    """One request under way; `left` choices have not ended, `closed` once its client has been told the end."""

    request: GenerateRequest
    box: Box
    since: float
    left: int
    tickets: list[Ticket] = field(default_factory=list)
    closed: bool = False


@dataclass(eq=False, slots=True)
class Ticket:
    """One choice of a request: what takes a slot."""

    stream: Stream
    index: int
    handle: Any = None
    queued: float = 0
    answered: bool = False
    done: bool = False


@dataclass(slots=True)
class Counters:
    """Sums since the start, in the words of the wire's metric names."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_token_seconds: float = 0
    first_tokens: int = 0
    queue_seconds: float = 0
    queued: int = 0


class Service:
    """Takes requests, keeps the engine's slots filled and tells each client the end exactly once."""

    def __init__(self, engine: Engine, options: ServingOptions, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.counters = Counters()
        self._clock = clock
        self._lock = threading.Lock()
        self._admission: Admission[Ticket] = Admission(options.slots, options.queue)
        self._streams: dict[str, Stream] = {}
        self._channels: dict[str, Outlet] = {}
        self._plain: deque[Stream] = deque()
        self._delivery = Delivery(lambda: self._admission.running, self._leave)
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="count")
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()

    @property
    def running(self) -> int:
        """Choices that hold a slot."""
        return self._admission.running

    @property
    def waiting(self) -> int:
        """Choices in the queue."""
        return self._admission.waiting

    def attach(self, channel: str, outlet: Outlet) -> None:
        """Open a channel, over which requests may ask to be answered until its client leaves."""
        with self._lock:
            self._channels[channel] = outlet
        self._delivery.hello(outlet)

    def channel(self, name: str) -> Outlet | None:
        """Return an open channel."""
        return self._channels.get(name)

    def open(self, request: GenerateRequest, outlet: Outlet) -> None:
        """Take a request; its answers and its one end reach the outlet from another thread."""
        now = self._clock()
        stream = Stream(request, Box(outlet, request.key or 1), now, left=request.n)
        stream.tickets = [Ticket(stream, index) for index in range(request.n)]
        with self._lock:
            if request.id in self._streams:
                message = "A request with this id is under way."
                self._delivery.fail(stream.box, EngineError(409, message, "duplicate_request"))
                return
            try:
                started = self._admission.offer(stream.tickets, request.deadline, now)
            except QueueFullError as error:
                self._delivery.fail(stream.box, EngineError(429, FULL, "queue_full", error.retry_after))
                return
            self._streams[request.id] = stream
            if request.channel is None:
                self._plain.append(stream)
        self._start(started)

    def count(self, message: CountTokens, outlet: Outlet) -> None:
        """Count a prompt's tokens, beside the queue: it takes no slot."""

        def run() -> None:
            box = Box(outlet, message.key or 1)
            try:
                tokens = self.engine.count_tokens(message.text)
            except Exception:
                log.exception("Engine did not count tokens")
                self._delivery.fail(box, EngineError(500, "The engine failed to count tokens.", "engine_error"))
                return
            self._delivery.put(box, Chunk(0, "", 0, "stop", Usage(tokens)), True)

        self._counter.submit(run)

    def cancel(self, request_id: str) -> None:
        """Drop a request whose client has left; unknown ones change nothing."""
        with self._lock:
            stream = self._streams.get(request_id)
        if stream:
            self._end(stream, None)

    def stop(self) -> None:
        """End every request, channel and thread; the engine is the caller's to stop."""
        with self._lock:
            streams, channels = list(self._streams.values()), list(self._channels.values())
        for stream in reversed(streams):
            self._end(stream, EngineError(503, "The model is being stopped; retry.", "stopping", 1))
        for outlet in channels:
            self._delivery.close(outlet)
        self._counter.shutdown(wait=True, cancel_futures=True)
        self._stopped.set()
        self._watcher.join(timeout=5)
        self._delivery.stop()

    # --- the engine's side ---

    def _start(self, tickets: list[Ticket]) -> None:
        """Hand tickets that got a slot to the engine."""
        pending = deque(tickets)
        while pending:
            ticket = pending.popleft()
            with self._lock:
                ticket.queued = max(0.0, self._clock() - ticket.stream.since)
                self.counters.queue_seconds += ticket.queued
                self.counters.queued += 1
            try:
                handle = self.engine.submit(ticket.stream.request, ticket.index, partial(self._answer, ticket))
            except Exception:
                log.exception("Engine did not take a request")
                failure = EngineError(500, "The engine failed to take the request.", "engine_error")
                pending += self._take(ticket, failure)
                continue
            with self._lock:
                ticket.handle = handle
                gone = ticket.stream.closed and not ticket.done
            if gone:  # the client left between the slot and the handle
                self.engine.cancel(handle)

    def _answer(self, ticket: Ticket, answer: Answer) -> None:
        """Take one answer of the engine; called by the engine's threads."""
        self._start(self._take(ticket, answer))

    def _take(self, ticket: Ticket, answer: Answer) -> list[Ticket]:
        """Take one answer; return the tickets to start because of it."""
        stream = ticket.stream
        started: list[Ticket] = []
        with self._lock:
            if ticket.done:
                return []
            if isinstance(answer, EngineError) or answer.finish is not None:
                ticket.done = True
                stream.left -= 1
                started = self._admission.release(ticket, self._clock())
                if stream.left == 0:
                    self._streams.pop(stream.request.id, None)
            if isinstance(answer, Chunk):
                self._count(ticket, answer)
                if not stream.closed:
                    stream.closed = stream.left == 0
                    self._delivery.put(stream.box, answer, stream.closed)
                return started
        return started + self._close(stream, answer)

    def _count(self, ticket: Ticket, chunk: Chunk) -> None:
        counters = self.counters
        counters.generated_tokens += chunk.tokens
        if not ticket.answered and chunk.tokens:
            ticket.answered = True
            counters.first_tokens += 1
            counters.first_token_seconds += self._clock() - ticket.stream.since
        if chunk.usage:
            chunk.usage.queue_seconds = ticket.queued
            if ticket.index == 0:
                counters.prompt_tokens += chunk.usage.prompt_tokens

    # --- early ends ---

    def _end(self, stream: Stream, error: EngineError | None) -> None:
        """End a request that nobody waits for any more or that took too long."""
        self._start(self._close(stream, error or EngineError(499, "The client left.", "cancelled")))

    def _close(self, stream: Stream, error: EngineError) -> list[Ticket]:
        """Tell the client, take the request from queue and engine; return the tickets to start because of it."""
        started: list[Ticket] = []
        with self._lock:
            if not stream.closed:
                stream.closed = True
                self._delivery.fail(stream.box, error)
            for ticket in stream.tickets:
                if not ticket.done and self._admission.is_waiting(ticket):
                    ticket.done = True
                    stream.left -= 1
                    started += self._admission.release(ticket, self._clock())
            if stream.left == 0:
                self._streams.pop(stream.request.id, None)
            running = [ticket for ticket in stream.tickets if not ticket.done and ticket.handle is not None]
        for ticket in running:
            self.engine.cancel(ticket.handle)
        return started

    def _leave(self, outlet: Outlet) -> None:
        """Drop everything of a client that has left."""
        with self._lock:
            mine = [stream for stream in self._streams.values() if stream.box.outlet is outlet]
            names = [name for name, one in self._channels.items() if one is outlet]
            for name in names:
                del self._channels[name]
        for stream in reversed(mine):  # those that wait first, so that none of them gets a slot
            self._end(stream, None)
        if names:
            self._delivery.close(outlet)

    def _watch(self) -> None:
        """End what is overdue and what nobody waits for; tell every channel that the engine lives."""
        said = 0.0
        while not self._stopped.wait(WATCH_SECONDS):
            now, beat = self._clock(), time.monotonic() - said >= wire.HEARTBEAT_SECONDS
            with self._lock:
                late = [s for s in self._streams.values() if s.request.deadline and s.request.deadline <= now]
                polled = [self._plain.popleft() for _ in range(min(POLLS_PER_TICK, len(self._plain)))]
                self._plain.extend(stream for stream in polled if stream.left)
                channels = list(self._channels.values()) if beat else []
            for outlet in channels:
                said = time.monotonic()
                self._delivery.hello(outlet)
            for stream in late:
                if not stream.closed:
                    self._end(stream, EngineError(504, "The request's deadline passed.", "deadline_exceeded"))
            for outlet in [*(stream.box.outlet for stream in polled if stream.left), *channels]:
                if outlet.is_gone():
                    self._leave(outlet)
