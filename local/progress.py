"""Says what a long step is doing, how far it is and how long it took.

On a terminal one line is redrawn; elsewhere a step has one line when it starts and one when it ends. All of it
goes to stderr, so that stdout carries only what a caller asked for.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Step:
    """One running step; `at` says how far it is."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.detail = ""
        self.started = time.monotonic()

    def at(self, detail: str) -> None:
        """Replace what is shown behind the title, such as `120/900`."""
        self.detail = detail

    def line(self) -> str:
        """Return the step as one line with the seconds since it began."""
        middle = f"  {self.detail}" if self.detail else ""
        return f"{self.title}{middle}  {time.monotonic() - self.started:.1f} s"


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Show a step while the block runs; a block that raises is shown as failed."""
    running = Step(title)
    finished = threading.Event()
    painter = threading.Thread(target=_paint, args=(running, finished), daemon=True)
    terminal = sys.stderr.isatty()
    if terminal:
        painter.start()
    else:
        say(f"{title} ...")
    mark = "failed"
    try:
        yield running
        mark = "done"
    finally:
        finished.set()
        if terminal:
            painter.join()
            sys.stderr.write("\r\x1b[K")
        say(f"{running.line()}  {mark}")


def say(text: str) -> None:
    """Write one line for the person who waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _paint(running: Step, finished: threading.Event) -> None:
    while not finished.wait(0.2):
        sys.stderr.write("\r\x1b[K" + running.line())
        sys.stderr.flush()
