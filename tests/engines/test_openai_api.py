"""The whole pod with a scripted engine: exact texts, streams, usage, errors, and nothing in logs."""

from __future__ import annotations

import http.client
import json
from typing import Any

import openai
import pytest

from tests.engines.serving import Pod, post, status


def script(**fields: Any) -> str:
    """Return a prompt that tells the scripted engine what to say."""
    return f"<<{json.dumps(fields, ensure_ascii=False)}>>"


def user(**fields: Any) -> list[Any]:
    """Return a chat that tells the scripted engine what to say."""
    return [{"role": "user", "content": script(**fields)}]


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


def test_prompts_times_choices_are_bounded(scripted: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="prompts times n must not exceed 128") as error:
        scripted.completions.create(model="smollm2", prompt=["x"] * 2, n=65)
    assert error.value.param == "n"


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


def test_nothing_of_a_request_reaches_a_log(scripted_pod: Pod) -> None:
    secret = "zanzibar-marzipan"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": secret})}}
    tool = {"type": "function", "function": {"name": "f", "description": secret, "parameters": {"title": secret}}}
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{secret}"}}
    said = user(say=[f'<tool_call>{{"name": "f", "arguments": {{"a": "{secret}"}}}}</tool_call>'])
    bodies: list[tuple[int, Any]] = [
        (200, {"messages": said, "tools": [tool]}),
        (200, {"messages": [*said, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": secret}]}),
        (400, {"messages": [{"role": "user", "content": [image]}]}),
        (400, {"messages": [{"role": "user", "content": {secret: secret}}]}),
        (400, {"messages": [{"role": "user", "content": secret}], "temperature": secret}),
        (400, {"messages": [{"role": "user", "content": secret}], "tools": [tool], "tool_choice": secret}),
        (400, {"messages": user(say=[secret], error=[400, secret])}),
        (500, {"messages": user(say=[secret], error=[500, secret])}),
    ]
    for wanted, body in bodies:
        assert post(f"{scripted_pod.url}/v1/chat/completions", {"model": "smollm2", **body}).status == wanted, body
    assert post(f"{scripted_pod.url}/v1/chat/completions", f'{{"{secret}": '.encode()).status == 400
    for process in (scripted_pod.triton, scripted_pod.frontend):
        assert process
        assert "Started frontend" in process.text() or "Loaded the engine" in process.text()
        assert secret not in process.text()
