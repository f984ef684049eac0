"""Counts a phase's progress and answers for it at `GET /progress`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ax_engines.contract import PhaseName
from ax_engines.tasks import Progress

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0


class Tracker:
    """Work done of work known, from any thread; the unit (bytes, steps) is the phase's own.

    What was done before this process started (a resumed download) counts as done but not for the rate.
    """

    def __init__(self, phase: PhaseName, clock: Callable[[], float] = time.monotonic) -> None:
        self._phase: PhaseName = phase
        self._clock = clock
        self._lock = threading.Lock()
        self._total = 0.0
        self._done = 0.0
        self._found = 0.0
        self._started = self._logged = clock()
        self._detail = ""

    def expect(self, total: float, detail: str = "") -> None:
        """Start anew with `total` units ahead."""
        with self._lock:
            self._total, self._done, self._found, self._detail = total, 0.0, 0.0, detail
            self._started = self._clock()

    def add(self, units: float, detail: str | None = None, found: bool = False) -> None:
        """Count units as done; `found` ones were done by an earlier run."""
        with self._lock:
            self._done += units
            self._found += units if found else 0
            self._detail = self._detail if detail is None else detail
        self._log()

    def reach(self, done: float, detail: str) -> None:
        """Set the units done, which never go back."""
        with self._lock:
            self._done = max(self._done, done)
            self._detail = detail
        self._log()

    def _log(self) -> None:
        now = self._clock()
        with self._lock:
            if now - self._logged < LOG_SECONDS:
                return
            self._logged = now
        state = self.snapshot()
        eta = "unknown" if state.eta is None else f"{state.eta:.0f}s"
        logger.info(
            "Made progress",
            extra={"phase": state.phase, "percent": state.percent, "eta": eta, "detail": state.detail},
        )

    def snapshot(self) -> Progress:
        """Return percent and the seconds that are left at the rate so far."""
        with self._lock:
            share = min(self._done / self._total, 1.0) if self._total else 0.0
            fresh = self._done - self._found
            left = max(self._total - self._done, 0.0)
            eta = (self._clock() - self._started) * left / fresh if fresh > 0 and self._total else None
            return Progress(
                phase=self._phase,
                percent=round(share * 100, 1),
                eta=None if eta is None else round(eta, 1),
                detail=self._detail[:200],
            )


@contextmanager
def served(tracker: Tracker, port: int) -> Iterator[int]:
    """Answer `GET /progress` while the block runs; yields the port, 0 if it could not be opened.

    A phase goes on without its progress being visible: that is worth a warning, not a failed build.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            found = self.path == "/progress"
            body = tracker.snapshot().to_json().encode() if found else b"see /progress\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json" if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: a poll every few seconds would bury the phase's own lines."""

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        logger.warning("Could not serve progress", extra={"port": port, "error": error})
        yield 0
        return
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
