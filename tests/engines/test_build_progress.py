"""Percent and ETA, and the endpoint that tells them."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from ax_engines.build.progress import Tracker, served
from ax_engines.tasks import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_percent_and_eta_follow_the_rate_of_this_run() -> None:
    clock = Clock()
    tracker = Tracker("fetch", clock)
    assert tracker.snapshot() == Progress(phase="fetch", percent=0)
    tracker.expect(1000, "model")
    tracker.add(500, found=True)
    assert tracker.snapshot().eta is None, "nothing was measured yet"
    clock.now += 10
    tracker.add(100, "shard 2")
    state = tracker.snapshot()
    assert (state.percent, state.eta, state.detail) == (60.0, 40.0, "shard 2")
    tracker.add(9999)
    assert (tracker.snapshot().percent, tracker.snapshot().eta) == (100.0, 0.0)


def test_progress_that_is_reached_never_goes_back() -> None:
    tracker = Tracker("compile", Clock())
    tracker.expect(100)
    tracker.reach(40, "layer 40")
    tracker.reach(10, "layer 10")
    assert tracker.snapshot().percent == 40


def test_the_endpoint_answers_and_goes_with_the_phase() -> None:
    tracker = Tracker("publish")
    tracker.expect(4)
    tracker.add(1)
    with served(tracker, 0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=10) as answer:
            assert Progress.from_json(answer.read()).percent == 25
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
        refused.value.close()
        assert refused.value.code == 404
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=10)


def test_a_taken_port_does_not_stop_the_phase() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with served(Tracker("fetch"), taken.getsockname()[1]) as port:
            assert port == 0
