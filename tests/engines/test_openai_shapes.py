"""Golden requests and answers: the shapes that OpenAI and vLLM document, byte for byte but for ids and times."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.engines.card import TOOLS
from tests.engines.serving import Pod, page, post


def script(**fields: Any) -> str:
    """Return a prompt that tells the scripted engine what to say."""
    return f"<<{json.dumps(fields, ensure_ascii=False)}>>"


def chat(**fields: Any) -> list[Any]:
    """Return a chat that tells the scripted engine what to say."""
    return [{"role": "user", "content": script(**fields)}]


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """Return a usage; the scripted engine finds one token cached."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


CHAT = {"id": "chatcmpl-…", "object": "chat.completion", "created": 0, "model": "smollm2"}
CHUNK = {**CHAT, "object": "chat.completion.chunk"}
TEXT = {"id": "cmpl-…", "object": "text_completion", "created": 0, "model": "smollm2"}
SAY = {"say": ["안녕", "!"]}
CALL = {"say": ['<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>']}
CALLED = {"id": "call_…", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def message(content: str | None, **more: Any) -> dict[str, Any]:
    """Return a chat's answer."""
    return {"role": "assistant", "content": content, "refusal": None, **more}


def token(text: str) -> dict[str, Any]:
    """Return a token with the scripted engine's made-up probability."""
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode())}


def logprobs(*texts: str) -> dict[str, Any]:
    """Return the log probabilities of a chat's tokens."""
    return {"content": [token(text) | {"top_logprobs": [token(text)]} for text in texts], "refusal": None}


def choice(**fields: Any) -> dict[str, Any]:
    """Return a choice."""
    return {"index": 0, "logprobs": None, "finish_reason": "stop", **fields}


WHOLE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": chat(**SAY)},
        {**CHAT, "choices": [choice(message=message("안녕!"))], "usage": usage(5, 2)},
    ),
    "chat of two choices": (
        "/v1/chat/completions",
        {"messages": chat(**SAY), "n": 2},
        {**CHAT, "choices": [choice(index=n, message=message("안녕!")) for n in range(2)], "usage": usage(5, 4)},
    ),
    "chat cut off": (
        "/v1/chat/completions",
        {"messages": chat(**SAY), "max_completion_tokens": 1},
        {**CHAT, "choices": [choice(message=message("안녕"), finish_reason="length")], "usage": usage(5, 1)},
    ),
    "chat with log probabilities": (
        "/v1/chat/completions",
        {"messages": chat(**SAY), "logprobs": True, "top_logprobs": 1},
        {
            **CHAT,
            "choices": [choice(message=message("안녕!"), logprobs=logprobs("안녕", "!"))],
            "usage": usage(5, 2),
        },
    ),
    "tool call": (
        "/v1/chat/completions",
        {"messages": chat(**CALL), "tools": TOOLS},
        {
            **CHAT,
            "choices": [choice(message=message(None, tool_calls=[CALLED]), finish_reason="tool_calls")],
            "usage": usage(69, 1),
        },
    ),
    "completion": (
        "/v1/completions",
        {"prompt": script(**SAY)},
        {**TEXT, "choices": [choice(text="안녕!")], "usage": usage(3, 2)},
    ),
    "completion with log probabilities": (
        "/v1/completions",
        {"prompt": script(**SAY), "logprobs": 1},
        {
            **TEXT,
            "choices": [
                choice(
                    text="안녕!",
                    logprobs={
                        "tokens": ["안녕", "!"],
                        "token_logprobs": [-0.5, -0.5],
                        "top_logprobs": [{"안녕": -0.5}, {"!": -0.5}],
                        "text_offset": [0, 2],
                    },
                )
            ],
            "usage": usage(3, 2),
        },
    ),
    "tokens of a text": ("/tokenize", {"prompt": "하나 둘 셋"}, {"count": 3, "max_model_len": 1024}),
}
ONE = {"say": ["안녕!"]}
STREAMS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": chat(**ONE), "stream_options": {"include_usage": True}},
        [
            {**CHUNK, "choices": [delta], "usage": None}
            for delta in (
                choice(delta={"role": "assistant", "content": ""}, finish_reason=None),
                choice(delta={"content": "안녕!"}, finish_reason=None),
                choice(delta={}),
            )
        ]
        + [{**CHUNK, "choices": [], "usage": usage(4, 1)}],
    ),
    "tool call": (
        "/v1/chat/completions",
        {"messages": chat(**CALL), "tools": TOOLS},
        [
            {**CHUNK, "choices": [choice(delta=delta, finish_reason=None)]}
            for delta in (
                {"role": "assistant", "content": ""},
                {"tool_calls": [{"index": 0, **CALLED, "function": {"name": "f", "arguments": ""}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
            )
        ]
        + [{**CHUNK, "choices": [choice(delta={}, finish_reason="tool_calls")]}],
    ),
    "completion": (
        "/v1/completions",
        {"prompt": script(**SAY), "max_tokens": 1},
        [{**TEXT, "choices": [choice(text="안녕", finish_reason="length")]}],
    ),
}
MODEL = {
    "id": "smollm2",
    "object": "model",
    "created": 0,
    "owned_by": "demo",
    "root": "smollm2-0123456789",
    "parent": None,
    "max_model_len": 1024,
}
ERRORS: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "a wrong field": (
        {"messages": chat(), "temperature": 3},
        400,
        {
            "message": "Invalid value for 'temperature': input should be less than or equal to 2.",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_value",
        },
    ),
    "an unknown model": (
        {"model": "gpt-4", "messages": chat()},
        404,
        {
            "message": "The model 'gpt-4' does not exist; this server has demo/smollm2, smollm2.",
            "type": "not_found_error",
            "param": "model",
            "code": "model_not_found",
        },
    ),
}


def fixed(text: str) -> Any:
    """Return JSON with ids and times made equal."""
    text = re.sub(r'"(chatcmpl-|cmpl-|call_)[0-9a-f]+"', r'"\1…"', text)
    return json.loads(re.sub(r'"created":\d+', '"created":0', text))


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer(scripted_pod: Pod, name: str) -> None:
    path, body, answer = WHOLE[name]
    reply = post(scripted_pod.url + path, {"model": "smollm2", **body})
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert fixed(reply.body.decode()) == answer


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(scripted_pod: Pod, name: str) -> None:
    path, body, events = STREAMS[name]
    reply = post(scripted_pod.url + path, {"model": "smollm2", "stream": True, **body})
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    *told, done, end = reply.body.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert [fixed(event.removeprefix("data: ")) for event in told] == events


@pytest.mark.parametrize("name", ERRORS)
def test_an_error(scripted_pod: Pod, name: str) -> None:
    body, status, error = ERRORS[name]
    reply = post(f"{scripted_pod.url}/v1/chat/completions", {"model": "smollm2", **body})
    assert (reply.status, reply.json()) == (status, {"error": error})


def test_models(scripted_pod: Pod) -> None:
    listed = fixed(page(f"{scripted_pod.url}/v1/models"))
    assert listed == {"object": "list", "data": [{**MODEL, "id": "demo/smollm2"}, MODEL]}
    assert fixed(page(f"{scripted_pod.url}/v1/models/smollm2")) == MODEL
