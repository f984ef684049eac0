"""The seam between the Triton model and an engine: what every engine adaptor does."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ax_engines.contract import ServingOptions
from ax_engines.wire import Chunk, EngineError, GenerateRequest

Answer = Chunk | EngineError
"""A piece of an answer; a chunk with `finish`, or an error, is the last one."""

OnAnswer = Callable[[Answer], None]

BACKENDS = {
    "llamacpp": "ax_engines.triton.engines.llamacpp",
    "tensorrt": "ax_engines.triton.engines.tensorrt",
    "pytorch": "ax_engines.triton.engines.pytorch",
    "transformers": "ax_engines.triton.engines.transformers",
}


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine knows about itself; None where it cannot tell.

    `kv_used` is a ratio from 0 to 1; `waiting` counts requests with a slot that the engine itself holds back, for
    want of memory for example.
    """

    kv_used: float | None = None
    waiting: int = 0


class Engine(Protocol):
    """An engine that generates for at most `options.slots` requests at once; admission is not its business."""

    def start(self, options: ServingOptions, folder: Path) -> None:
        """Load the artifact in `folder`; returns when requests can be taken; raises with what to change."""

    def submit(self, request: GenerateRequest, index: int, on_answer: OnAnswer) -> Any:
        """Begin choice `index` of a request and return a handle, without blocking.

        `on_answer` is called in order, from any thread: whole characters only, stop strings applied, and exactly
        one last answer, also after `cancel`.
        """

    def cancel(self, handle: Any) -> None:
        """Free the slot of a request soon; harmless when it has ended."""

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens the engine would make of a rendered prompt."""

    def stats(self) -> EngineStats:
        """Return what the engine knows about itself; cheap, called twice a second."""

    def stop(self) -> None:
        """Let go of the engine."""


def load_engine(module: str) -> Engine:
    """Return a new engine of the adaptor module, which names its class in `ENGINE`."""
    engine: Engine = importlib.import_module(module).ENGINE()
    return engine
