"""Bodies that nobody expects: each gets an answer in the API's shape, and both processes live on."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engines.card import TOOLS
from tests.engines.serving import Pod

SOAK = os.environ.get("AX_SOAK") == "1"
TIMES = 10 if SOAK else 1
pytestmark = [pytest.mark.soak] if SOAK else []
QUIET = settings(
    deadline=None,
    derandomize=not SOAK,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbers = st.integers(-(2**70), 2**70) | st.integers(-2, 40) | st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(max_size=20) | st.sampled_from(
    ["", "auto", "required", "user", "\x00", "한글", "<tool_call>", "json_object"]
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool"]) | anything},
        optional={"content": texts | anything, "tool_calls": anything, "name": anything, "tool_call_id": anything},
    ),
    min_size=1,
    max_size=3,
)
SAMPLING = {
    "n": st.integers(1, 3) | anything,
    "max_tokens": st.integers(1, 4) | anything,
    "temperature": st.floats(0, 2) | anything,
    "top_p": st.floats(0, 1) | anything,
    "top_k": st.integers(-1, 2**40) | anything,
    "min_p": st.floats(0, 1) | anything,
    "seed": st.integers(-(2**63), 2**63 - 1) | anything,
    "stop": texts | st.lists(texts, max_size=3) | anything,
    "presence_penalty": st.floats(-2, 2) | anything,
    "frequency_penalty": st.floats(-2, 2) | anything,
    "repetition_penalty": st.floats(0.01, 10) | anything,
    "logit_bias": st.dictionaries(st.integers(0, 49_151).map(str), st.floats(-100, 100), max_size=3) | anything,
    "ignore_eos": st.booleans() | anything,
    "stream": st.booleans() | anything,
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | anything,
    "user": anything,
    "unknown": anything,
}
CHAT: dict[str, Any] = SAMPLING | {
    "logprobs": st.booleans() | anything,
    "top_logprobs": st.integers(0, 20) | anything,
    "tools": st.just(TOOLS) | anything,
    "tool_choice": st.sampled_from(["auto", "none", "required"]) | anything,
    "response_format": st.just({"type": "json_object"}) | anything,
    "chat_template_kwargs": anything,
    "add_generation_prompt": anything,
    "continue_final_message": anything,
    "guided_json": anything,
}
COMPLETION: dict[str, Any] = SAMPLING | {
    "logprobs": st.integers(0, 20) | anything,
    "echo": st.booleans() | anything,
    "suffix": anything,
    "best_of": anything,
}
schemas = st.recursive(
    st.sampled_from(
        [
            {},
            {"type": "string"},
            {"type": "integer"},
            {"type": "boolean"},
            {"enum": ["a", "나"]},
            {"const": 1},
            {"type": "x"},
        ]
    )
    | st.fixed_dictionaries(
        {"type": st.just("string"), "pattern": st.sampled_from(["^[a-z]{2}$", "(", "(?=a)b", "[가-힣]+"])}
    )
    | st.fixed_dictionaries({"$ref": st.sampled_from(["#", "#/x", "#/properties/a", "http://127.0.0.1:1/x"])}),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.integers(-1, 3)})
        | st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(texts, inner, max_size=2)})
        | st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=2)})
        | st.fixed_dictionaries({"not": inner})
    ),
    max_leaves=5,
)


def some(fields: dict[str, Any], most: int) -> st.SearchStrategy[dict[str, Any]]:
    """Return a few of the fields, so that a body is not refused for its first one every time."""
    return st.lists(st.sampled_from(sorted(fields)), max_size=most, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )


def ask(pod: Pod, path: str, body: object) -> int:
    """Post a body; return the status after looking at the answer's shape."""
    connection = http.client.HTTPConnection("127.0.0.1", pod.frontend_ports[0], timeout=60)
    try:
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.status != 200:
        error = json.loads(data)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
    elif response.getheader("Content-Type", "").startswith("text/event-stream"):
        assert data.endswith(b"data: [DONE]\n\n") or b'data: {"error"' in data
    else:
        assert json.loads(data)["choices"]
    return response.status


@settings(QUIET, max_examples=300 * TIMES)
@given(some(CHAT, 4), messages)
def test_any_chat_gets_an_answer(scripted_pod: Pod, fields: dict[str, Any], chat: list[Any]) -> None:
    body = {"model": "smollm2", "messages": chat, **fields}
    assert ask(scripted_pod, "/v1/chat/completions", body) in (200, 400, 429)


@settings(QUIET, max_examples=150 * TIMES)
@given(
    some(COMPLETION, 4), texts | st.lists(texts, max_size=3) | st.lists(st.integers(0, 50_000), max_size=3) | anything
)
def test_any_completion_gets_an_answer(scripted_pod: Pod, fields: dict[str, Any], prompt: Any) -> None:
    body = {"model": "smollm2", "prompt": prompt, **fields}
    assert ask(scripted_pod, "/v1/completions", body) in (200, 400, 429)


@settings(QUIET, max_examples=150 * TIMES)
@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_get_a_400(scripted_pod: Pod, body: bytes) -> None:
    assert ask(scripted_pod, "/v1/chat/completions", body) == 400


@settings(QUIET, max_examples=60 * TIMES)
@given(some({name: value for name, value in SAMPLING.items() if name not in ("max_tokens", "n")}, 4), st.integers(0, 5))
def test_the_real_engine_survives_any_sampling(model_pod: Pod, fields: dict[str, Any], logprobs: int) -> None:
    stub = model_pod.stub()
    body = {"model": "smollm2", "prompt": "안녕", "max_tokens": 2, "logprobs": logprobs, **fields}
    assert ask(model_pod, "/v1/completions", body) in (200, 400)
    assert model_pod.stub() == stub


@settings(QUIET, max_examples=60 * TIMES)
@given(schemas)
def test_the_real_engine_survives_any_schema(model_pod: Pod, schema: dict[str, Any]) -> None:
    stub = model_pod.stub()
    body = {"model": "smollm2", "prompt": "JSON:", "max_tokens": 2, "guided_json": schema}
    assert ask(model_pod, "/v1/completions", body) in (200, 400)
    assert model_pod.stub() == stub
