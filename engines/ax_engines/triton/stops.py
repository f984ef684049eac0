"""Stop strings in a stream of text: nothing of a stop string ever leaks, nothing else is held back for long."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Cuts a stream at the first stop string; holds back only what could still become one.

    With `include` the stop string itself is kept (vLLM's include_stop_str_in_output).
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = [stop for stop in stops if stop]
        self._include = include
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece; return what can go out and whether a stop string ended the stream."""
        if not self._stops:
            return text, False
        held = self._held + text
        found = [(at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            at, stop = min(found, key=lambda pair: (pair[0], -len(pair[1])))
            self._held = ""
            return held[: at + len(stop)] if self._include else held[:at], True
        keep = self._overlap(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def flush(self) -> str:
        """Return what was held back when the stream ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, text: str) -> int:
        """Return the length of the longest end of `text` that begins a stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
