"""The transformers backend for real, on a CPU: tiny random models of real architectures in a Triton each.

What a model says in a batch, whoever else is in it, is compared with what transformers' own `generate` says alone.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.engines.pictures import data_url, encoded, image_part, picture
from tests.engines.serving import Pod, Reply, page, pod, post
from tests.engines.tiny_pods import CONTEXT, KINDS, SLOTS, START_SECONDS, tiny_models, tiny_pods, write_artifact

pytestmark = pytest.mark.e2e
SECONDS = 60


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pod]]:
    """A pod of each kind; they start side by side."""
    with tiny_pods(tmp_path_factory) as started:
        yield started


def reference(kind: str) -> list[dict[str, Any]]:
    """Return what transformers itself says."""
    cases: list[dict[str, Any]] = json.loads((tiny_models() / "reference.json").read_text())[kind]
    return cases


def chat(one: Pod, content: Any, **fields: Any) -> Reply:
    """Ask a chat."""
    messages = [{"role": "user", "content": content}]
    return post(f"{one.url}/v1/chat/completions", {"model": "tiny", "messages": messages, **fields}, seconds=SECONDS)


def said(reply: Reply) -> str:
    """Return the text of an answer."""
    assert reply.status == 200, reply.body
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


def series(one: Pod, name: str) -> float:
    """Return one of our series."""
    found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", page(one.metrics_url), re.MULTILINE)
    assert found, name
    return float(found[1])


def wait_for(one: Pod, name: str, value: float) -> None:
    """Poll a series until it has the value; fails after a bound."""
    end = time.monotonic() + SECONDS
    while series(one, name) != value:
        assert time.monotonic() < end, (name, series(one, name))
        time.sleep(0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_choice_says_the_same_in_a_batch_as_alone(pods: dict[str, Pod], kind: str) -> None:
    cases = reference(kind) * 3

    def ask(case: dict[str, Any]) -> None:
        parts = [*map(image_part, case["images"]), {"type": "text", "text": case["content"]}]
        reply = chat(
            pods[kind],
            parts if case["images"] else case["content"],
            temperature=0,
            max_tokens=len(case["tokens"]),
            logprobs=True,
            top_logprobs=2,
        )
        assert said(reply) == case["text"]
        usage = reply.json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (case["prompt_tokens"], len(case["tokens"]))
        rows = reply.json()["choices"][0]["logprobs"]["content"]
        assert [row["logprob"] for row in rows] == pytest.approx(case["logprobs"], abs=1e-3)
        assert all(row["top_logprobs"][0]["token"] == row["token"] for row in rows)

    with ThreadPoolExecutor(len(cases)) as pool:
        for done in [pool.submit(ask, case) for case in cases]:
            done.result()
    wait_for(pods[kind], "ax_requests_running", 0)


def test_a_client_that_leaves_frees_its_slot(pods: dict[str, Pod]) -> None:
    one = pods["qwen2"]
    left = threading.Event()

    def leave() -> None:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "ignore_eos": True, "stream": True}
        with subprocess.Popen(
            ["curl", "-sN", f"{one.url}/v1/chat/completions", "-d", json.dumps(body)], stdout=subprocess.PIPE
        ) as client:
            assert client.stdout
            client.stdout.readline()
            left.wait(SECONDS)
            client.terminate()

    with ThreadPoolExecutor(SLOTS) as pool:
        clients = [pool.submit(leave) for _ in range(SLOTS)]
        end = time.monotonic() + SECONDS
        while series(one, "ax_kv_cache_used_ratio") == 0:
            assert time.monotonic() < end
        left.set()
        for client in clients:
            client.result()
    wait_for(one, "ax_requests_running", 0)
    wait_for(one, "ax_kv_cache_used_ratio", 0)
    case = reference("qwen2")[0]
    assert said(chat(one, case["content"], temperature=0, max_tokens=24)) == case["text"]


def test_sampling_does_what_it_says(pods: dict[str, Pod]) -> None:
    one, case = pods["llama"], reference("llama")[0]
    text, first = case["text"], case["tokens"][0]

    def say(**fields: Any) -> str:
        return said(chat(one, case["content"], **{"max_tokens": 24, "temperature": 0, **fields}))

    assert say(stop=text[5:7]) == text[:5]
    assert say(stop=text[5:7], include_stop_str_in_output=True) == text[:7]
    assert say(temperature=1.5, top_k=1) == text
    assert say(temperature=1.5, top_p=0) == text
    assert say(temperature=1.5, min_p=1) == text
    assert say(logit_bias={str(first): -100})[:1] != text[:1]
    assert say(logit_bias={str(first): 100}) == text[0] * 24
    assert say(logit_bias={str(first): 100}, frequency_penalty=2, max_tokens=8) == text[0] * 8
    assert say(stop_token_ids=[case["tokens"][2]]) == text[:2]
    assert len(say(stop_token_ids=[case["tokens"][2]], min_tokens=9)) >= 9
    seeded = [say(temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]
    reply = chat(one, case["content"], temperature=1.5, n=3, seed=1, max_tokens=24)
    texts = [choice["message"]["content"] for choice in reply.json()["choices"]]
    assert len(set(texts)) == 3
    assert texts[0] == seeded[0]


def test_penalties_push_repeated_tokens_down(pods: dict[str, Pod]) -> None:
    case = reference("llama")[0]
    bias = {str(case["tokens"][0]): 8}
    said_so = []
    for fields in ({}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"repetition_penalty": 10.0}):
        text = said(chat(pods["llama"], case["content"], temperature=0, max_tokens=24, logit_bias=bias, **fields))
        said_so.append(text.count(case["text"][0]))
    plain, *penalized = said_so
    assert all(count < plain for count in penalized), said_so


def form(*names: str) -> dict[str, Any]:
    """Return the form of an object with a truth value for each name."""
    properties = {name: {"type": "boolean"} for name in names}
    schema = {"type": "object", "properties": properties, "required": [*names], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(("kind", "names"), [("llama", ("a", "b")), ("qwen2_vl", ("맞음", "색"))])
def test_an_answer_keeps_its_form(pods: dict[str, Pod], kind: str, names: tuple[str, ...]) -> None:
    answer = json.loads(said(chat(pods[kind], "어때?", response_format=form(*names), temperature=1)))
    assert set(answer) == set(names)
    assert all(isinstance(value, bool) for value in answer.values())
    answer = json.loads(said(chat(pods[kind], "어때?", guided_json={"const": 7}, temperature=0)))
    assert answer == 7


def test_a_form_that_cannot_be_kept_is_a_400_and_harms_nobody(pods: dict[str, Pod]) -> None:
    one, case = pods["llama"], reference("llama")[0]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(chat, one, case["content"], temperature=0, max_tokens=24)
        reply = chat(one, "어때?", guided_json={"type": "nothing"})
        assert reply.status == 400, reply.body
        reply = chat(one, "어때?", guided_json={"const": "맞음"})
        assert reply.status == 400, reply.body
        assert "has no token" in reply.json()["error"]["message"]
        assert said(other.result()) == case["text"]


def test_a_large_picture_costs_what_the_processor_makes_of_it(pods: dict[str, Pod]) -> None:
    one = pods["qwen2_vl"]

    def cost(*urls: str) -> int:
        reply = chat(one, [*map(image_part, urls), {"type": "text", "text": "?"}], max_tokens=1)
        assert reply.status == 200, reply.body
        count: int = reply.json()["usage"]["prompt_tokens"]
        return count

    none, small = cost(), cost(picture(28, 28))
    large = cost(picture(4000, 3000, "JPEG"))
    assert small == none + 3
    assert none + 3 < large <= none + 2 + 12
    assert cost(picture(28, 28, "WEBP"), picture(28, 28)) == none + 6
    noise = io.BytesIO()
    Image.frombytes("RGB", (1600, 1600), os.urandom(1600 * 1600 * 3)).save(noise, "PNG", compress_level=0)
    assert cost(*[data_url(noise.getvalue())] * 3) > none + 30


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (data_url(encoded(64, 64)[:-60]), "an image cannot be decoded"),
        (picture(3000, 3), "do not fit the prompt"),
        ("https://example.com/a.png", "fetches no addresses"),
    ],
)
def test_what_cannot_be_seen_is_a_400(pods: dict[str, Pod], url: str, reason: str) -> None:
    reply = chat(pods["qwen2_vl"], [image_part(url)], max_tokens=4)
    assert reply.status == 400, reply.body
    assert reason in reply.json()["error"]["message"]


def test_places_without_images_are_a_400(pods: dict[str, Pod]) -> None:
    content = [image_part(picture()), {"type": "text", "text": "<|vision_start|><|image_pad|><|vision_end|>"}]
    reply = chat(pods["qwen2_vl"], content, max_tokens=4)
    assert reply.status == 400, reply.body


def test_text_models_see_nothing_and_long_prompts_are_refused(pods: dict[str, Pod]) -> None:
    reply = chat(pods["llama"], [image_part(picture())])
    assert (reply.status, reply.json()["error"]["param"]) == (400, "messages[0].content[0]")
    reply = chat(pods["llama"], "a" * 600)
    assert (reply.status, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    answer = chat(pods["llama"], "a", ignore_eos=True, temperature=0).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == CONTEXT


def test_log_probabilities_are_of_the_model_alone(pods: dict[str, Pod]) -> None:
    case = reference("llama")[1]
    fields = {"temperature": 0, "max_tokens": 4, "logprobs": True}
    reply = chat(pods["llama"], case["content"], logit_bias={str(case["tokens"][0]): 100}, **fields)
    rows = reply.json()["choices"][0]["logprobs"]["content"]
    assert rows[0]["logprob"] == pytest.approx(case["logprobs"][0], abs=1e-3)
    assert all(math.isfinite(row["logprob"]) for row in rows)


def test_a_model_that_cannot_be_loaded_ends_with_one_sentence(pods: dict[str, Pod], tmp_path: Path) -> None:
    good = pods["llama"]
    with pod(tmp_path, good.env, **json.loads(good.options.model_dump_json())) as one:
        write_artifact(one.store, "llama")
        (one.store / "llama-0123456789" / "model.safetensors").unlink()
        triton = one.start_triton()
        assert triton.popen.wait(START_SECONDS) != 0
        assert "transformers could not load the model llama-0123456789: " in triton.text()
        assert "no file named model.safetensors" in triton.text()
