"""The LLM API's adaptor inside a real Triton, behind the real frontend; only TensorRT-LLM is a stand-in."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import openai
import pytest

from tests.engines.serving import Pod, page, pod, post, write_engine

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
ARGUMENTS = {"max_batch_size": 4, "kv_cache_config": {"free_gpu_memory_fraction": 0.9}}
SECONDS = 20


@pytest.fixture(scope="module")
def llm_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """A pod of the pytorch backend."""
    environment = {"AX_DRAIN_GRACE": "0", "AX_ENGINE_ADAPTOR": "llm_engine"}
    with pod(tmp_path_factory.mktemp("llm"), environment, backend="pytorch", engine_args=ARGUMENTS) as one:
        write_engine(one.store, weights=False, template=TEMPLATE)
        one.start()
        yield one


def gauge(one: Pod, name: str) -> float:
    """Return one of our series."""
    found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", page(one.metrics_url), re.MULTILINE)
    return float(found[1]) if found else -1.0


def chat(one: Pod, text: str) -> openai.Stream[openai.types.chat.ChatCompletionChunk]:
    """Begin a streamed chat."""
    client = openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0, timeout=SECONDS)
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="smollm2", messages=messages, stream=True)  # type: ignore[call-overload, no-any-return]


def test_a_chat_streams_and_counts(llm_pod: Pod) -> None:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "say:안녕하세요"}]}
    answer = post(f"{llm_pod.url}/v1/chat/completions", body).json()
    assert answer["choices"][0]["message"]["content"] == "안녕하세요"
    assert answer["usage"]["prompt_tokens"] == 5
    with chat(llm_pod, "say:오늘은 맑음") as stream:
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == "오늘은 맑음"


def test_what_the_sampler_would_ignore_is_a_400(llm_pod: Pod) -> None:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "say:a"}], "presence_penalty": 1.0}
    reply = post(f"{llm_pod.url}/v1/chat/completions", body)
    assert reply.status == 400
    assert "'presence_penalty'" in reply.json()["error"]["message"]


def test_a_client_that_leaves_frees_its_slot_and_the_cache(llm_pod: Pod) -> None:
    with chat(llm_pod, "forever:\nsay:abc ") as stream:
        next(iter(stream))
        wait_for(llm_pod, "ax_kv_cache_used_ratio", 0.1)
        wait_for(llm_pod, "ax_requests_running", 1)
        assert gauge(llm_pod, "ax_requests_waiting") == 0
    wait_for(llm_pod, "ax_requests_running", 0)
    wait_for(llm_pod, "ax_kv_cache_used_ratio", 0)


def wait_for(one: Pod, name: str, value: float) -> None:
    """Poll a series until it has the value; fails after a bound."""
    end = time.monotonic() + SECONDS
    while gauge(one, name) != value:
        assert time.monotonic() < end, (name, gauge(one, name))
        time.sleep(0.1)
