"""The pod's queue with a scripted engine: who waits, who leaves, whose time is up; and nothing lost on the way."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import openai
import pytest

from tests.engines.serving import Pod, page, post, until


def script(**fields: Any) -> str:
    """Return a prompt that tells the scripted engine what to say."""
    return f"<<{json.dumps(fields, ensure_ascii=False)}>>"


@contextmanager
def raw_stream(pod: Pod, prompt: str, headers: dict[str, str] | None = None) -> Iterator[http.client.HTTPConnection]:
    """Send a streaming completion; leaving closes the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", pod.frontend_ports[0], timeout=60)
    body = json.dumps({"model": "smollm2", "prompt": prompt, "stream": True})
    connection.request("POST", "/v1/completions", body, headers or {})
    try:
        yield connection
    finally:
        connection.close()


def load(pod: Pod) -> tuple[float, float]:
    """Return running and waiting requests as the metrics page shows them."""
    text = page(pod.metrics_url)
    return tuple(  # type: ignore[return-value]
        float(line.rpartition(" ")[2])
        for name in ("ax_requests_running{", "ax_requests_waiting{")
        for line in text.splitlines()
        if line.startswith(name)
    )


LONG = script(say=["."] * 10_000, delay=0.05)


def test_a_full_queue_answers_429_and_leaving_makes_room(scripted_pod: Pod, scripted: openai.OpenAI) -> None:
    streams = [raw_stream(scripted_pod, LONG) for _ in range(8)]
    opened = []
    try:
        for stream in streams:
            opened.append(stream.__enter__())
        until(lambda: load(scripted_pod) == (4, 4))
        with pytest.raises(openai.RateLimitError) as error:
            scripted.completions.create(model="smollm2", prompt="x")
        assert error.value.code == "queue_full"
        assert int(error.value.response.headers["Retry-After"]) >= 1
        opened[7].close()  # it was still waiting
        until(lambda: load(scripted_pod) == (4, 3))
        opened[0].close()  # it was running: the next one starts in its place
        until(lambda: load(scripted_pod) == (4, 2))
    finally:
        for connection in opened:
            connection.close()
    until(lambda: load(scripted_pod) == (0, 0))
    assert scripted.completions.create(model="smollm2", prompt="x").choices[0].text == "ok"


def test_the_client_tries_again_when_it_was_told_when(scripted_pod: Pod) -> None:
    texts: list[str] = []

    def ask() -> None:
        with openai.OpenAI(base_url=f"{scripted_pod.url}/v1", api_key="none", max_retries=9) as client:
            texts.append(client.completions.create(model="smollm2", prompt="x").choices[0].text)

    def refused() -> str:
        lines = page(scripted_pod.metrics_url).splitlines()
        return "".join(line for line in lines if "ax_frontend_requests_total{" in line and '"429"' in line)

    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(raw_stream(scripted_pod, LONG))
        until(lambda: load(scripted_pod) == (4, 4))
        before = refused()
        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: refused() != before)
    thread.join(60)
    assert texts == ["ok"]
    until(lambda: load(scripted_pod) == (0, 0))


def test_who_waits_gets_the_slot_of_who_left_soon(scripted_pod: Pod) -> None:
    """The aim is 200 ms; the bound is ten times that."""
    with ExitStack() as stack:
        running = [stack.enter_context(raw_stream(scripted_pod, LONG)) for _ in range(4)]
        answers = [connection.getresponse() for connection in running]
        waiting = stack.enter_context(raw_stream(scripted_pod, "x"))
        until(lambda: load(scripted_pod) == (4, 1))
        left = time.monotonic()
        answers[0].close()
        running[0].close()
        assert waiting.getresponse().read().startswith(b"data: ")
        assert time.monotonic() - left < 2
    until(lambda: load(scripted_pod) == (0, 0))


def test_who_leaves_while_waiting_frees_the_place_soon(scripted_pod: Pod) -> None:
    """The aim is 200 ms; the bound is ten times that. Who is admitted now ends with 504, not with 429."""

    def place() -> int:
        body, headers = {"model": "smollm2", "prompt": "x"}, {"x-envoy-expected-rq-timeout-ms": "1"}
        return post(f"{scripted_pod.url}/v1/completions", body, headers).status

    with ExitStack() as stack:
        opened = [stack.enter_context(raw_stream(scripted_pod, LONG)) for _ in range(8)]
        until(lambda: load(scripted_pod) == (4, 4))
        assert place() == 429
        left = time.monotonic()
        opened[7].close()
        until(lambda: place() == 504)
        assert time.monotonic() - left < 2
    until(lambda: load(scripted_pod) == (0, 0))


def test_leaving_frees_the_slot_at_once(scripted_pod: Pod, scripted: openai.OpenAI) -> None:
    """Eight times more requests than slots, each left after its first token: with slots not freed it would hang."""
    started = time.monotonic()
    for _ in range(32):
        events = scripted.completions.create(model="smollm2", prompt=LONG, stream=True)
        next(iter(events))
        events.close()
    assert time.monotonic() - started < 60
    until(lambda: load(scripted_pod) == (0, 0))


def test_a_deadline_ends_a_request_that_waits(scripted_pod: Pod) -> None:
    streams = [raw_stream(scripted_pod, LONG) for _ in range(4)]
    opened = [stream.__enter__() for stream in streams]
    try:
        until(lambda: load(scripted_pod) == (4, 0))
        headers = {"x-envoy-expected-rq-timeout-ms": "300"}
        reply = post(f"{scripted_pod.url}/v1/completions", {"model": "smollm2", "prompt": "x"}, headers)
        assert (reply.status, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    finally:
        for connection in opened:
            connection.close()
    until(lambda: load(scripted_pod) == (0, 0))


def test_many_streams_at_once_lose_and_mix_nothing(scripted_pod: Pod, scripted: openai.OpenAI) -> None:
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        prompt = script(say=[f"{number}:{at} " for at in range(200)], delay=0.001)
        while number not in texts:
            try:
                events = scripted.completions.create(model="smollm2", prompt=prompt, stream=True)
                texts[number] = "".join(event.choices[0].text for event in events)
            except openai.RateLimitError:
                time.sleep(0.05)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: "".join(f"{number}:{at} " for at in range(200)) for number in range(16)}


def test_nothing_is_lost_when_the_channel_is_opened_again(scripted: openai.OpenAI) -> None:
    """The model ends its channel after 1,000 responses, because Triton keeps something of each until then."""
    pieces = [f"{number} " for number in range(1000)]
    responses = 0
    for _ in range(20):
        events = scripted.completions.create(model="smollm2", prompt=script(say=pieces, delay=0.001), stream=True)
        texts = [event.choices[0].text for event in events]
        assert "".join(texts) == "".join(pieces)
        responses += len(texts)
        if responses > 2500:
            return
    raise AssertionError(f"only {responses} responses were needed")
