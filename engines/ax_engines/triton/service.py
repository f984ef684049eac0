"""Admission, delivery and cancellation of requests between Triton and an engine.

Threads: Triton's calls `open`; the engine's call `_answer`; one thread delivers; one watches deadlines and clients
that left. One lock guards the admission and the streams; engine and sinks are never called under it.

Delivery coalesces by itself: what an engine makes of one stream while the deliverer is busy goes out together, so
an idle server adds no delay and a busy one sends fewer and larger responses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from ax_engines.contract import ServingOptions
from ax_engines.triton.adaptor import Answer, Engine
from ax_engines.triton.admission import Admission, QueueFullError
from ax_engines.wire import Chunk, EngineError, GenerateRequest

log = logging.getLogger(__name__)
WATCH_SECONDS = 0.05
POLLS_PER_TICK = 8
"""Asking Triton whether a client left costs a round trip, so only so many streams are asked per tick, in turn."""


class Sink(Protocol):
    """Where one request's answers go; every method is called from one thread at a time."""

    def send(self, chunks: list[Chunk], final: bool) -> None:
        """Send chunks as one response; `final` ends the request."""

    def fail(self, error: EngineError) -> None:
        """End the request with an error."""

    def is_cancelled(self) -> bool:
        """Say whether the client has left."""


@dataclass(eq=False, slots=True)
class Stream:
    """One request under way: its sink, what waits to be sent, and how many choices have not ended."""

    request: GenerateRequest
    sink: Sink
    since: float
    left: int
    tickets: list[Ticket] = field(default_factory=list)
    outbox: list[Chunk] = field(default_factory=list)
    error: EngineError | None = None
    dirty: bool = False
    ended: bool = False
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class Ticket:
    """One choice of a request: what takes a slot."""

    stream: Stream
    index: int
    handle: Any = None
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
    """Takes requests, keeps the engine's slots filled and the clients served."""

    def __init__(self, engine: Engine, options: ServingOptions, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.counters = Counters()
        self._clock = clock
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._admission: Admission[Ticket] = Admission(options.slots, options.queue)
        self._streams: dict[str, Stream] = {}
        self._dirty: deque[Stream] = deque()
        self._polls: deque[Stream] = deque()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._deliver, name="deliver", daemon=True),
            threading.Thread(target=self._watch, name="watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """Choices that hold a slot."""
        return self._admission.running

    @property
    def waiting(self) -> int:
        """Choices in the queue."""
        return self._admission.waiting

    def open(self, request: GenerateRequest, sink: Sink) -> None:
        """Take a request; its answers and its one end reach the sink from other threads."""
        now = self._clock()
        stream = Stream(request, sink, now, left=request.n)
        stream.tickets = [Ticket(stream, index) for index in range(request.n)]
        with self._lock:
            try:
                started = self._admission.offer(stream.tickets, request.deadline, now)
            except QueueFullError as error:
                message = "The model's queue is full; retry later or lower the number of concurrent requests."
                self._fail(stream, EngineError(429, message, "queue_full", error.retry_after))
                return
            self._streams[request.id] = stream
            self._polls.append(stream)
        self._start(started)

    def cancel(self, request_id: str) -> None:
        """Drop a request whose client has left; unknown ones change nothing."""
        with self._lock:
            stream = self._streams.get(request_id)
        if stream:
            self._drop(stream, None)

    def stop(self) -> None:
        """End every request and both threads; the engine is the caller's to stop."""
        with self._lock:
            streams = list(self._streams.values())
        for stream in streams:
            self._drop(stream, EngineError(503, "The model is being stopped; retry.", "stopping", 1))
        self._stopped.set()
        with self._work:
            self._work.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    # --- engine's side ---

    def _start(self, tickets: list[Ticket]) -> None:
        """Hand tickets that got a slot to the engine."""
        pending = deque(tickets)
        while pending:
            ticket = pending.popleft()
            now = self._clock()
            self.counters.queue_seconds += max(0.0, now - ticket.stream.since)
            self.counters.queued += 1
            try:
                answer = partial(self._answer, ticket)
                handle = self.engine.submit(ticket.stream.request, ticket.index, answer)
            except Exception:
                log.exception("Engine refused a request")
                self._answer(ticket, EngineError(500, "The engine failed to take the request.", "engine_error"))
                continue
            with self._lock:
                ticket.handle = handle
                cancel = ticket.stream.cancelled and not ticket.done
            if cancel:  # the client left between the slot and the handle
                self.engine.cancel(handle)

    def _answer(self, ticket: Ticket, answer: Answer) -> None:
        """Take one answer of the engine; called by the engine's threads."""
        started: list[Ticket] = []
        others: list[Ticket] = []
        with self._lock:
            if ticket.done:
                return
            stream = ticket.stream
            last = isinstance(answer, EngineError) or answer.finish is not None
            if last:
                ticket.done = True
                stream.left -= 1
                started = self._admission.release(ticket, self._clock())
            if isinstance(answer, EngineError):
                others = self._close(stream, answer)
            else:
                self._count(ticket, answer)
                if not stream.cancelled:
                    stream.outbox.append(answer)
                    stream.ended = stream.ended or stream.left == 0
                    self._mark(stream)
                elif stream.left == 0:
                    self._forget(stream)
        self._cancel(others)
        self._start(started)

    def _count(self, ticket: Ticket, chunk: Chunk) -> None:
        counters = self.counters
        counters.generated_tokens += chunk.tokens
        if not ticket.answered and (chunk.tokens or chunk.text):
            ticket.answered = True
            counters.first_tokens += 1
            counters.first_token_seconds += self._clock() - ticket.stream.since
        if chunk.usage and ticket.index == 0:
            counters.prompt_tokens += chunk.usage.prompt_tokens

    # --- ends ---

    def _drop(self, stream: Stream, error: EngineError | None) -> None:
        """End a stream early, wherever it is; without an error its client is simply gone."""
        with self._lock:
            if stream.ended or stream.cancelled:
                return
            others = self._close(stream, error or EngineError(499, "The client left.", "cancelled"))
            started: list[Ticket] = []
            for ticket in stream.tickets:
                if not ticket.done and self._admission.is_waiting(ticket):
                    ticket.done = True
                    stream.left -= 1
                    started += self._admission.release(ticket, self._clock())
        self._cancel(others)
        self._start(started)

    def _close(self, stream: Stream, error: EngineError) -> list[Ticket]:
        """Mark a stream failed; return the tickets that the engine must be told to cancel."""
        if not stream.cancelled and not stream.ended:
            stream.cancelled = True
            self._fail(stream, error)
        return [ticket for ticket in stream.tickets if not ticket.done and ticket.handle is not None]

    def _cancel(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self.engine.cancel(ticket.handle)

    def _fail(self, stream: Stream, error: EngineError) -> None:
        stream.error = error
        stream.ended = True
        self._mark(stream)

    def _forget(self, stream: Stream) -> None:
        if self._streams.get(stream.request.id) is stream:
            del self._streams[stream.request.id]

    # --- delivery ---

    def _mark(self, stream: Stream) -> None:
        if not stream.dirty:
            stream.dirty = True
            self._dirty.append(stream)
            self._work.notify()

    def _deliver(self) -> None:
        while True:
            with self._work:
                while not self._dirty:
                    if self._stopped.is_set():
                        return
                    self._work.wait()
                stream = self._dirty.popleft()
                stream.dirty = False
                chunks, stream.outbox = stream.outbox, []
                error, ended = stream.error, stream.ended
                if ended:
                    self._forget(stream)
            try:
                if chunks:
                    stream.sink.send(chunks, ended and error is None)
                if error:
                    stream.sink.fail(error)
            except Exception:
                log.exception("Response could not be sent")
                self._drop(stream, None)

    # --- watch ---

    def _watch(self) -> None:
        while not self._stopped.wait(WATCH_SECONDS):
            now = self._clock()
            with self._lock:
                late = [s for s in self._streams.values() if s.request.deadline and s.request.deadline <= now]
                asked = []
                for _ in range(min(POLLS_PER_TICK, len(self._polls))):
                    stream = self._polls.popleft()
                    if not stream.ended:
                        asked.append(stream)
                        self._polls.append(stream)
            for stream in late:
                self._drop(stream, EngineError(504, "The request's deadline passed.", "deadline_exceeded"))
            for stream in asked:
                if stream.sink.is_cancelled():
                    self._drop(stream, None)
