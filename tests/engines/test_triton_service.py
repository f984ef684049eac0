"""Requests between Triton and an engine, without Triton: each client is told exactly one end, each slot is freed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ax_engines.contract import ServingOptions
from ax_engines.triton.service import Service
from ax_engines.wire import Chunk, EngineError, GenerateRequest, Sampling, Usage
from tests.engines.hand_engine import Box, HandEngine
from tests.engines.serving import until

OPTIONS = ServingOptions(model="d/m", engine="e", backend="llamacpp", slots=2, queue=2, context_length=10)


def request(name: str, **fields: Any) -> GenerateRequest:
    """Return a request."""
    return GenerateRequest(name, Sampling(5), prompt="p", **fields)


@pytest.fixture
def engine() -> HandEngine:
    """The engine."""
    return HandEngine()


@pytest.fixture
def service(engine: HandEngine) -> Iterator[Service]:
    """Two slots, a queue of two."""
    one = Service(engine, OPTIONS)
    yield one
    one.stop()


def finish(engine: HandEngine, name: str, text: str = "") -> None:
    """End a choice."""
    engine.begun[name](Chunk(int(name[-1]), text, 1, "stop", Usage(3, 2)))


def test_an_answer_arrives_in_order_with_one_end(engine: HandEngine, service: Service) -> None:
    box = Box()
    service.open(request("a"), box)
    for number in range(200):
        engine.begun["a/0"](Chunk(0, f"{number} "))
    finish(engine, "a/0", "end")
    until(box.ends)
    assert box.text() == "".join(f"{number} " for number in range(200)) + "end"
    assert box.ends() == [None]
    assert service.running == 0
    assert service.counters.generated_tokens == 201
    assert service.counters.prompt_tokens == 3
    assert (service.counters.first_tokens, service.counters.queued) == (1, 1)


def test_what_gathers_while_a_response_is_under_way_goes_out_together(engine: HandEngine, service: Service) -> None:
    box = Box()
    service.open(request("a"), box)
    box.block.clear()
    engine.begun["a/0"](Chunk(0, "first"))
    until(lambda: not service._delivery._boxes)
    for number in range(50):
        engine.begun["a/0"](Chunk(0, f" {number}"))
    box.block.set()
    until(lambda: box.text().endswith(" 49"))
    assert box.sends == 2


def test_many_requests_share_a_channels_responses(engine: HandEngine, service: Service) -> None:
    box = Box()
    service.attach("c", box)
    until(lambda: box.greetings)
    assert box.parcels == []
    box.block.clear()
    for key, name in enumerate("ab", start=1):
        service.open(request(name, channel="c", key=key), box)
    engine.begun["a/0"](Chunk(0, "x"))
    until(lambda: not service._delivery._boxes)
    for name in ("a/0", "b/0"):
        engine.begun[name](Chunk(0, "y"))
        finish(engine, name, "z")
    box.block.set()
    until(lambda: box.ends(1) and box.ends(2))
    assert (box.text(1), box.text(2)) == ("xyz", "yz")
    assert box.sends == 2


def test_all_choices_end_before_the_request_does(engine: HandEngine, service: Service) -> None:
    box = Box()
    service.open(request("a", n=3), box)
    assert (service.running, service.waiting) == (2, 1)
    finish(engine, "a/1", "one")
    until(lambda: box.text() == "one")
    assert box.ends() == []
    assert set(engine.begun) == {"a/0", "a/1", "a/2"}
    finish(engine, "a/0")
    finish(engine, "a/2")
    until(box.ends)
    assert box.ends() == [None]
    assert service.counters.prompt_tokens == 3


def test_an_engines_error_ends_the_request_and_its_other_choices(engine: HandEngine, service: Service) -> None:
    box = Box()
    service.open(request("a", n=2), box)
    engine.begun["a/0"](EngineError(400, "too long", "c"))
    until(box.ends)
    assert box.ends() == [EngineError(400, "too long", "c")]
    assert engine.cancelled == ["a/1"]
    until(lambda: service.running == 0)


def test_a_full_queue_turns_away_at_once(engine: HandEngine, service: Service) -> None:
    boxes = [Box() for _ in range(5)]
    for number, box in enumerate(boxes):
        service.open(request(f"r{number}"), box)
    until(boxes[4].ends)
    [error] = boxes[4].ends()
    assert error
    assert (error.status, error.code) == (429, "queue_full")
    assert error.retry_after
    assert (service.running, service.waiting) == (2, 2)


def test_a_request_that_leaves_the_queue_never_reaches_the_engine(engine: HandEngine, service: Service) -> None:
    boxes = {name: Box() for name in "abc"}
    for name, box in boxes.items():
        service.open(request(name), box)
    service.cancel("c")
    assert service.waiting == 0
    finish(engine, "a/0")
    until(boxes["a"].ends)
    assert "c/0" not in engine.begun
    assert engine.cancelled == []


def test_a_running_request_is_cancelled_and_the_next_one_starts(engine: HandEngine, service: Service) -> None:
    for name in "abc":
        service.open(request(name), Box())
    service.cancel("a")
    until(lambda: "c/0" in engine.begun)
    assert engine.cancelled == ["a/0"]
    service.cancel("a")
    assert engine.cancelled == ["a/0"]


@pytest.mark.parametrize("place", ["running", "waiting"])
def test_a_client_that_left_is_noticed(engine: HandEngine, service: Service, place: str) -> None:
    boxes = {name: Box() for name in "abc"}
    for name, box in boxes.items():
        service.open(request(name), box)
    boxes["a" if place == "running" else "c"].gone = True
    if place == "running":
        until(lambda: engine.cancelled == ["a/0"] and "c/0" in engine.begun)
    else:
        until(lambda: service.waiting == 0)
        assert engine.cancelled == []


def test_all_requests_of_a_channel_end_when_its_client_leaves(engine: HandEngine, service: Service) -> None:
    box = Box()
    service.attach("c", box)
    for key, name in enumerate("abcd", start=1):
        service.open(request(name, channel="c", key=key), box)
    box.gone = True
    until(lambda: box.closed and service.running == service.waiting == 0)
    assert sorted(engine.cancelled) == ["a/0", "b/0"]
    assert service.channel("c") is None


def test_an_outlet_that_fails_counts_as_left(engine: HandEngine, service: Service) -> None:
    box = Box()
    service.open(request("a"), box)
    box.broken = True
    engine.begun["a/0"](Chunk(0, "x"))
    until(lambda: engine.cancelled == ["a/0"])
    until(lambda: service.running == 0)


@pytest.mark.parametrize("place", ["running", "waiting"])
def test_a_deadline_holds_in_the_queue_too(engine: HandEngine, service: Service, place: str) -> None:
    boxes = {name: Box() for name in "abc"}
    late = "a" if place == "running" else "c"
    for name, box in boxes.items():
        service.open(request(name, deadline=time.time() + 0.1 if name == late else None), box)
    until(boxes[late].ends)
    [error] = boxes[late].ends()
    assert error
    assert (error.status, error.code) == (504, "deadline_exceeded")
    until(lambda: service.waiting == 0)
    assert engine.cancelled == (["a/0"] if place == "running" else [])


def test_an_engine_that_takes_nothing_frees_every_slot(engine: HandEngine, service: Service) -> None:
    service.open(request("a"), Box())
    service.open(request("b"), Box())
    boxes = [Box(), Box()]
    service.open(request("c"), boxes[0])
    service.open(request("d"), boxes[1])
    engine.broken = True
    finish(engine, "a/0")
    finish(engine, "b/0")
    for box in boxes:
        until(box.ends)
        [error] = box.ends()
        assert error
        assert error.status == 500
    assert service.running == 0


def test_two_requests_of_one_id_are_not_mixed_up(engine: HandEngine, service: Service) -> None:
    first, second = Box(), Box()
    service.open(request("a"), first)
    service.open(request("a"), second)
    until(second.ends)
    [error] = second.ends()
    assert error
    assert error.status == 409
    finish(engine, "a/0")
    until(first.ends)
    assert first.ends() == [None]


def test_stopping_tells_everybody(engine: HandEngine) -> None:
    service = Service(engine, OPTIONS)
    boxes = {name: Box() for name in "abc"}
    for name, box in boxes.items():
        service.open(request(name), box)
    channel = Box()
    service.attach("c", channel)
    service.stop()
    assert channel.closed
    for box in boxes.values():
        [error] = box.ends()
        assert error
        assert error.status == 503
