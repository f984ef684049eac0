"""An engine whose answers a test gives by hand, and an outlet that keeps what becomes of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ax_engines.contract import ServingOptions
from ax_engines.triton.adaptor import EngineStats, OnAnswer
from ax_engines.wire import Chunk, EngineError, GenerateRequest, Parcel, Usage, decode_batch, encode_batch


class HandEngine:
    """An engine whose every answer a test gives by hand."""

    def __init__(self) -> None:
        self.begun: dict[str, OnAnswer] = {}
        self.cancelled: list[str] = []
        self.broken = False

    def start(self, options: ServingOptions, folder: Path) -> None:
        """Nothing to load."""

    def submit(self, request: GenerateRequest, index: int, on_answer: OnAnswer) -> Any:
        """Keep the way back."""
        if self.broken:
            raise RuntimeError("out of order")
        self.begun[f"{request.id}/{index}"] = on_answer
        return f"{request.id}/{index}"

    def cancel(self, handle: Any) -> None:
        """Remember it and end, as an engine does."""
        self.cancelled.append(handle)
        self.begun[handle](Chunk(int(handle[-1]), "", 0, "cancelled", Usage(1, 1)))

    def count_tokens(self, prompt: str) -> int:
        """One."""
        return 1

    def stats(self) -> EngineStats:
        """Nothing."""
        return EngineStats()

    def stop(self) -> None:
        """Nothing to free."""


class Box:
    """An outlet that keeps what it gets."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []
        self.sends = 0
        self.greetings = 0
        """Empty batches: the channel is open, or the engine lives, which is said at any time."""
        self.gone = False
        self.closed = False
        self.broken = False
        self.block = threading.Event()
        self.block.set()

    def send(self, parcels: list[Parcel]) -> None:
        """Keep them."""
        assert not parcels or self.block.wait(10)
        if self.broken:
            raise ConnectionError("nobody there")
        self.sends += bool(parcels)
        self.greetings += not parcels
        self.parcels += decode_batch(encode_batch(parcels))

    def is_gone(self) -> bool:
        """As the test wants."""
        return self.gone

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def text(self, key: int = 1) -> str:
        """Return the text of a request."""
        return "".join(chunk.text for parcel in self.parcels if parcel.key == key for chunk in parcel.chunks)

    def ends(self, key: int = 1) -> list[EngineError | None]:
        """Return the ends that a request was told."""
        return [parcel.error for parcel in self.parcels if parcel.key == key and parcel.last]
