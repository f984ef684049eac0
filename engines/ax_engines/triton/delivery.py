"""Brings answers to clients, several at once when there are many.

One thread takes everything that has come up since its last round and sends it: an idle server's token leaves at
once, and what gathers while a round is under way leaves together. Between rounds it pauses for a time that grows
with the number of requests under way, from nothing to PAUSE_LIMIT, because a response costs far more than a token.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ax_engines.wire import Chunk, EngineError, Parcel

log = logging.getLogger(__name__)
PAUSE_PER_REQUEST = 0.0001
PAUSE_LIMIT = 0.02


class Outlet(Protocol):
    """Where answers go: one request's responses or a channel's. Called from one thread at a time but `is_gone`."""

    def send(self, parcels: list[Parcel]) -> None:
        """Send what has come up; a plain request's outlet ends with its last parcel."""

    def is_gone(self) -> bool:
        """Say whether the client has left."""

    def close(self) -> None:
        """End the outlet."""


@dataclass(eq=False, slots=True)
class Box:
    """What waits to be sent of one request."""

    outlet: Outlet
    key: int
    chunks: list[Chunk] = field(default_factory=list)
    error: EngineError | None = None
    last: bool = False
    listed: bool = False


class Delivery:
    """The thread that empties the boxes."""

    def __init__(self, load: Callable[[], int], lost: Callable[[Outlet], None]) -> None:
        """`load` tells the requests under way; `lost` hears of an outlet that could not be sent to."""
        self._load = load
        self._lost = lost
        self._changed = threading.Condition()
        self._boxes: list[Box] = []
        self._closing: list[Outlet] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    def put(self, box: Box, chunk: Chunk, last: bool) -> None:
        """Send a chunk soon."""
        with self._changed:
            box.chunks.append(chunk)
            box.last = box.last or last
            self._list(box)

    def fail(self, box: Box, error: EngineError) -> None:
        """End a request with an error, after what was put before."""
        with self._changed:
            box.error, box.last = error, True
            self._list(box)

    def hello(self, outlet: Outlet) -> None:
        """Send an empty batch: the channel is open."""
        with self._changed:
            self._list(Box(outlet, 0))

    def close(self, outlet: Outlet) -> None:
        """End an outlet after what was put before."""
        with self._changed:
            self._closing.append(outlet)
            self._changed.notify()

    def stop(self) -> None:
        """Send what is left, then end the thread."""
        self._stopped.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout=5)

    def _list(self, box: Box) -> None:
        if not box.listed:
            box.listed = True
            self._boxes.append(box)
            if len(self._boxes) == 1:
                self._changed.notify()

    def _run(self) -> None:
        while self._round():
            self._stopped.wait(min(PAUSE_LIMIT, PAUSE_PER_REQUEST * self._load()))

    def _round(self) -> bool:
        """Send all that has come up, waiting for something; False at the end."""
        with self._changed:
            while not self._boxes and not self._closing:
                if self._stopped.is_set():
                    return False
                self._changed.wait()
            boxes, self._boxes = self._boxes, []
            closing, self._closing = self._closing, []
            batches: dict[Outlet, list[Parcel]] = {}
            for box in boxes:
                box.listed = False
                parcels = batches.setdefault(box.outlet, [])
                if box.key:
                    parcels.append(Parcel(box.key, box.chunks, box.error, box.last))
                    box.chunks = []
        for outlet, parcels in batches.items():
            try:
                outlet.send(parcels)
            except Exception:
                log.exception("Response could not be sent")
                self._lost(outlet)
        for outlet in closing:
            outlet.close()
        return True
