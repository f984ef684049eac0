"""The whole pod with a scripted engine: exact texts, streams, errors, queue, cancellation, the model cards' turns."""

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

from tests.engines.card import ANSWER, ASKS_BACK, QUESTION, RATE, RESULT, TOOLS
from tests.engines.serving import Pod, page, post, status, until


def script(**fields: Any) -> str:
    """Return a prompt that tells the scripted engine what to say."""
    return f"<<{json.dumps(fields, ensure_ascii=False)}>>"


def user(**fields: Any) -> list[Any]:
    """Return a chat that tells the scripted engine what to say."""
    return [{"role": "user", "content": script(**fields)}]


# --- the conversation of the model cards ---


def test_three_turns_with_tools(scripted: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    first = scripted.chat.completions.create(model="smollm2", messages=messages, tools=TOOLS).choices[0]
    assert first.message.content == "".join(ASKS_BACK)
    assert (first.message.tool_calls, first.finish_reason) == (None, "stop")

    messages += [{"role": "assistant", "content": first.message.content}, {"role": "user", "content": RATE}]
    second = scripted.chat.completions.create(model="smollm2", messages=messages, tools=TOOLS).choices[0]
    assert (second.message.content, second.finish_reason) == (None, "tool_calls")
    assert second.message.tool_calls
    [call] = second.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "calculate_discount"
    assert json.loads(call.function.arguments) == {"original_price": 57600, "discount_percentage": 15}

    messages += [
        {"role": "assistant", "content": ""},
        {"role": "tool", "tool_call_id": "random_id", "name": "calculate_discount", "content": RESULT},
    ]
    third = scripted.chat.completions.create(model="smollm2", messages=messages, tools=TOOLS).choices[0]
    assert (third.message.content, third.finish_reason) == ("".join(ANSWER), "stop")
    assert "48,960" in "".join(ANSWER)


def test_a_streamed_call_comes_in_pieces_and_leaks_no_tag(scripted: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": RATE}]
    events = list(scripted.chat.completions.create(model="smollm2", messages=messages, tools=TOOLS, stream=True))
    deltas = [event.choices[0].delta for event in events]
    assert [delta.content for delta in deltas if delta.content] == []
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert calls[0].id
    assert calls[0].function
    assert (calls[0].index, calls[0].type, calls[0].function.name) == (0, "function", "calculate_discount")
    assert [call.id for call in calls[1:]] == [None] * (len(calls) - 1)
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments) == {"original_price": 57600, "discount_percentage": 15}
    assert events[-1].choices[0].finish_reason == "tool_calls"


def test_parallel_calls_after_a_text_stay_apart(scripted: openai.OpenAI) -> None:
    call = '<tool_call>{"name": "%s", "arguments": {"n": %d}}</tool_call>'
    messages = user(say=["두 가지를 ", "봅니다.\n", call % ("a", 1), "\n", call % ("b", 2)])
    whole = scripted.chat.completions.create(model="smollm2", messages=messages, tools=TOOLS).choices[0]
    assert whole.message.content == "두 가지를 봅니다."
    assert whole.message.tool_calls
    functions = [one.function for one in whole.message.tool_calls if one.type == "function"]
    assert [(one.name, one.arguments) for one in functions] == [("a", '{"n": 1}'), ("b", '{"n": 2}')]
    assert len({one.id for one in whole.message.tool_calls}) == 2


BEGUN = ['<tool_call>{"name": "get_rate", "arguments": {"a": ', '"긴 글 ', "그리고 ", "더", '"}}</tool_call>']
WRONG = ['<tool_call>{"name": "get_rate", "arguments": {"a": ', "1,}}", "</tool_call>"]


@pytest.mark.parametrize(("say", "most", "finish"), [(BEGUN, 3, "length"), (WRONG, 9, "stop")])
def test_a_call_that_breaks_is_text_when_nothing_has_been_sent(
    scripted: openai.OpenAI, say: list[str], most: int, finish: str
) -> None:
    """A stream cannot take back what it sent: its pieces stay a call, and it ends as the engine ended."""
    asked: Any = {"model": "smollm2", "messages": user(say=["음. ", *say]), "tools": TOOLS, "max_tokens": most + 1}
    [whole] = scripted.chat.completions.create(**asked).choices
    assert (whole.message.tool_calls, whole.finish_reason) == (None, finish)
    assert whole.message.content == "음." + "".join(say[:most])
    events = list(scripted.chat.completions.create(**asked, stream=True))
    calls = [call.function for event in events for call in event.choices[0].delta.tool_calls or []]
    assert "".join(event.choices[0].delta.content or "" for event in events) == "음."
    assert [call.name for call in calls if call and call.name] == ["get_rate"]
    assert events[-1].choices[0].finish_reason == finish


def test_without_tools_tags_are_text(scripted: openai.OpenAI) -> None:
    text = '<tool_call>{"name": "a", "arguments": {}}</tool_call>'
    answer = scripted.chat.completions.create(model="smollm2", messages=user(say=[text]))
    assert answer.choices[0].message.content == text
    answer = scripted.chat.completions.create(
        model="smollm2", messages=user(say=[text]), tools=TOOLS, tool_choice="none"
    )
    assert answer.choices[0].message.content == text


def test_forced_calls(scripted: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_exchange_rate"}}
    messages = user(say=['{"base_currency"', ': "KRW"}'])
    for stream in (False, True):
        name, arguments, finish = call_of(scripted, messages, choice, stream=stream)
        assert (name, arguments, finish) == ("get_exchange_rate", '{"base_currency": "KRW"}', "stop")
    messages = user(say=['{"name": "calc', 'ulate_discount", "arguments": {"a"', ": 1}}"])
    for stream in (False, True):
        name, arguments, finish = call_of(scripted, messages, "required", stream=stream)
        assert (name, arguments, finish) == ("calculate_discount", '{"a": 1}', "tool_calls")


def call_of(scripted: openai.OpenAI, messages: Any, choice: Any, *, stream: bool) -> tuple[str, str, str]:
    """Return name, arguments and finish of the one call that is forced."""
    wanted: dict[str, Any] = {"model": "smollm2", "messages": messages, "tools": TOOLS, "tool_choice": choice}
    if not stream:
        answer = scripted.chat.completions.create(**wanted).choices[0]
        assert answer.message.content is None
        [call] = answer.message.tool_calls
        return call.function.name, call.function.arguments, answer.finish_reason
    events = list(scripted.chat.completions.create(**wanted, stream=True))
    calls = [call.function for event in events for call in event.choices[0].delta.tool_calls or []]
    assert not [event for event in events if event.choices[0].delta.content]
    arguments = "".join(call.arguments or "" for call in calls)
    return calls[0].name, arguments, events[-1].choices[0].finish_reason


# --- texts ---


def test_hangul_arrives_whole_and_in_order(scripted: openai.OpenAI) -> None:
    pieces = [chr(0xAC00 + number) for number in range(300)] + ["👩‍👩‍👧", "\n", '"', "\\"]
    events = scripted.chat.completions.create(model="smollm2", messages=user(say=pieces), stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in events) == "".join(pieces)


def test_a_hangul_stop_string_over_pieces(scripted: openai.OpenAI) -> None:
    messages = user(say=["서울은 수", "도입", "니다. 부산은"])
    answer = scripted.chat.completions.create(model="smollm2", messages=messages, stop="수도입니다")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("서울은 ", "stop")
    events = scripted.chat.completions.create(model="smollm2", messages=messages, stop=["수도입니다"], stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in events) == "서울은 "


def test_choices_of_a_stream_keep_their_index(scripted: openai.OpenAI) -> None:
    texts, finishes = ["", "", ""], {}
    pieces = [f"{number} " for number in range(20)]
    for event in scripted.chat.completions.create(model="smollm2", messages=user(say=pieces), n=3, stream=True):
        [choice] = event.choices
        texts[choice.index] += choice.delta.content or ""
        finishes[choice.index] = choice.finish_reason
    assert texts == ["".join(pieces)] * 3
    assert finishes == {0: "stop", 1: "stop", 2: "stop"}


@pytest.mark.parametrize("n", [1, 3])
def test_the_gateway_is_told_the_usage_so_far(scripted: openai.OpenAI, n: int) -> None:
    pieces = [f"{number} " for number in range(20)]
    asked: Any = {"model": "smollm2", "messages": user(say=pieces), "n": n}
    whole = scripted.chat.completions.create(**asked).usage
    events = scripted.chat.completions.create(**asked, stream=True, extra_headers={"x-ax-usage": "continuous"})
    told = []
    for event in events:
        assert event.choices, "a client that did not ask for usage gets no event without a choice"
        if event.usage:
            assert event.usage.prompt_tokens, "an estimate until the engine has counted"
            told.append(event.usage.completion_tokens)
            last = event.usage
    assert told == sorted(told)
    assert len(told) >= 2 * n
    assert whole
    assert (last.prompt_tokens, last.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)


def test_usage_counts_the_prompt_once_and_every_choice(scripted: openai.OpenAI) -> None:
    answer = scripted.completions.create(model="smollm2", prompt=script(say=["a", "b"]), n=3)
    assert answer.usage
    tokens = len(script(say=["a", "b"]).split())
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (tokens, 6)
    assert answer.usage.prompt_tokens_details
    assert answer.usage.prompt_tokens_details.cached_tokens == 1


def test_log_probabilities_of_chats(scripted: openai.OpenAI) -> None:
    wanted: Any = {"model": "smollm2", "messages": user(say=["가", "나"]), "logprobs": True, "top_logprobs": 1}
    content = scripted.chat.completions.create(**wanted).choices[0].logprobs.content
    assert [(one.token, one.logprob, one.bytes) for one in content] == [
        ("가", -0.5, list("가".encode())),
        ("나", -0.5, list("나".encode())),
    ]
    assert [len(one.top_logprobs) for one in content] == [1, 1]
    events = list(scripted.chat.completions.create(**wanted, stream=True))
    streamed = [one.token for event in events if event.choices[0].logprobs for one in event.choices[0].logprobs.content]
    assert streamed == ["가", "나"]


def test_an_echoed_prompt_comes_first(scripted: openai.OpenAI) -> None:
    prompt = script(say=["b"])
    assert scripted.completions.create(model="smollm2", prompt=prompt, echo=True).choices[0].text == prompt + "b"
    events = scripted.completions.create(model="smollm2", prompt=prompt, echo=True, stream=True)
    assert "".join(event.choices[0].text for event in events) == prompt + "b"


def test_sampling_reaches_the_engine_unchanged(scripted: openai.OpenAI) -> None:
    answer = scripted.chat.completions.create(
        model="smollm2",
        messages=user(sampling=True),
        temperature=0.25,
        seed=11,
        max_completion_tokens=9,
        logit_bias={"5": -100},
        response_format={"type": "json_object"},
        extra_body={"top_k": 3, "repetition_penalty": 1.5, "chat_template_kwargs": {"x": 1}},
    )
    got = json.loads(answer.choices[0].message.content or "")
    assert (got["temperature"], got["seed"], got["max_tokens"], got["top_k"]) == (0.25, 11, 9, 3)
    assert (got["logit_bias"], got["repetition_penalty"], got["guided"]) == ({"5": -100}, 1.5, {"json_object": True})


# --- errors ---


def test_an_error_before_the_first_token_sets_the_status(scripted: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="not like this"):
            scripted.chat.completions.create(
                model="smollm2", messages=user(say=[], error=[400, "not like this"]), stream=stream
            )


def test_an_error_after_it_is_an_event_without_done(scripted: openai.OpenAI, scripted_pod: Pod) -> None:
    messages = user(say=["a", "b"], error=[500, "it broke"], delay=0.05)
    with pytest.raises(openai.APIError, match="it broke"):
        list(scripted.chat.completions.create(model="smollm2", messages=messages, stream=True))
    body = {"model": "smollm2", "messages": messages, "stream": True}
    reply = post(f"{scripted_pod.url}/v1/chat/completions", body)
    events = reply.body.decode().strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["message"] == "it broke"
    assert "[DONE]" not in reply.body.decode()


def test_unknown_models_and_addresses(scripted: openai.OpenAI, scripted_pod: Pod) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        scripted.chat.completions.create(model="gpt-4", messages=user())
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    reply = post(f"{scripted_pod.url}/v1/embeddings", {})
    assert (reply.status, reply.json()["error"]["code"]) == (404, "unknown_url")
    assert post(f"{scripted_pod.url}/health/live", {}).status == 405


def test_a_body_of_twenty_megabytes_is_too_large(scripted_pod: Pod) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", scripted_pod.frontend_ports[0], timeout=60)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(20 * 1024**2))
    connection.endheaders()
    try:
        for _ in range(20):
            connection.send(b" " * 1024**2)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server need not read what it refuses
    try:
        response = connection.getresponse()
    finally:
        connection.close()
    assert response.status == 413
    assert status(f"{scripted_pod.url}/health/ready") == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'{"model": "smollm2", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "smollm2", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "smollm2", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b"\x00\x01\x02",
        b'{"model": "smollm2", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_bodies_that_are_none_get_a_400(scripted_pod: Pod, body: bytes) -> None:
    reply = post(f"{scripted_pod.url}/v1/chat/completions", body)
    assert reply.status == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


# --- queue and cancellation ---


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
