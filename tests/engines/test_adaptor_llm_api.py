"""Requests of the tensorrt and pytorch adaptors on a stand-in for TensorRT-LLM, which checks them against the facts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ax_engines.triton.adaptor import BACKENDS, load_engine
from ax_engines.triton.engines.llm_api import LlmApiEngine
from ax_engines.triton.engines.pytorch import PYTORCH
from ax_engines.wire import Chunk, GenerateRequest, Sampling
from tests.engines.stand_in_llm import GREEDY, SECONDS, Answers, artifact, ask, serving


@pytest.fixture(params=["tensorrt", "pytorch"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, packages: None) -> Iterator[LlmApiEngine]:
    """An engine of each backend."""
    one = load_engine(BACKENDS[request.param])
    assert isinstance(one, LlmApiEngine)
    one.start(serving(request.param), artifact(tmp_path / "engine", request.param))
    yield one
    one.stop()


@pytest.fixture
def pytorch(tmp_path: Path, packages: None) -> Iterator[LlmApiEngine]:
    """An engine of the pytorch backend."""
    one = LlmApiEngine(PYTORCH)
    one.start(serving("pytorch"), artifact(tmp_path / "engine", "pytorch"))
    yield one
    one.stop()


def asked(engine: LlmApiEngine) -> dict[str, Any]:
    """Return the sampling fields that the library was given last."""
    given: dict[str, Any] = engine._llm.asked[-1].given
    return given


def test_an_answer_comes_in_whole_characters_with_counts(engine: LlmApiEngine) -> None:
    answers = ask(engine, "say:안녕하세요, 에이닷!")
    last = answers.last()
    assert answers.text == "안녕하세요, 에이닷!"
    assert all("\ufffd" not in chunk.text for chunk in answers.all if isinstance(chunk, Chunk))
    assert len(answers.all) > 5
    pieces = len("안녕하세요, 에이닷!".encode()) // 2 + 1
    assert last.finish == "stop"
    assert (last.usage.completion_tokens, last.usage.cached_tokens) == (pieces, 1)
    assert last.usage.prompt_tokens == engine.count_tokens("say:안녕하세요, 에이닷!")
    assert sum(chunk.tokens for chunk in answers.all if isinstance(chunk, Chunk)) == pieces


def test_bytes_that_never_become_a_character_are_told_at_the_end(engine: LlmApiEngine) -> None:
    answers = ask(engine, "say:가나", Sampling(2, temperature=0))
    assert answers.last().finish == "length"
    assert answers.text == "가\ufffd"


def test_a_stop_string_cuts_the_answer_and_aborts_the_request(engine: LlmApiEngine) -> None:
    answers = ask(engine, "forever:\nsay:하나 둘 셋 ", Sampling(0, temperature=0, stop=("둘 셋",)))
    assert answers.last().finish == "stop"
    assert answers.text == "하나 "
    until(lambda: engine._llm.aborted == [1] and not engine._llm.active)


def test_a_cancelled_request_is_aborted_and_ends_once(engine: LlmApiEngine) -> None:
    answers = Answers()
    handle = engine.submit(GenerateRequest("one", GREEDY, prompt="forever:\nsay:abc"), 0, answers)
    answers.wait_for(lambda: len(answers.all) > 3)
    began = time.monotonic()
    engine.cancel(handle)
    assert answers.last().finish == "cancelled"
    assert time.monotonic() - began < 2.0
    until(lambda: engine._llm.aborted == [1] and not engine._llm.active)
    engine.cancel(handle)
    assert sum(1 for answer in answers.all if isinstance(answer, Chunk) and answer.finish) == 1


def test_many_requests_run_side_by_side_each_with_its_own_text(engine: LlmApiEngine) -> None:
    answers = [ask(engine, f"say:대답 {number} 끝") for number in range(30)]
    for number, one in enumerate(answers):
        assert one.last().finish == "stop"
        assert one.text == f"대답 {number} 끝"


def test_a_prompt_that_does_not_fit_is_refused_with_its_size(engine: LlmApiEngine) -> None:
    error = ask(engine, "word" * 1000).last()
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert "context is 1000 tokens; the prompt has 1000." in error.message
    error = ask(engine, "word" * 990, Sampling(11)).last()
    assert "the prompt has 990 and 11 were asked" in error.message
    assert ask(engine, "").last().code == "invalid_prompt"


def test_token_ids_go_to_the_library_as_they_are(engine: LlmApiEngine) -> None:
    tokens = tuple(engine._tokenize("say:ids"))
    answers = Answers()
    engine.submit(GenerateRequest("one", GREEDY, token_ids=tokens), 0, answers)
    assert answers.last().usage.prompt_tokens == len(tokens)
    assert answers.text == "ids"


def test_a_plain_text_begins_as_the_tokenizer_begins_texts(engine: LlmApiEngine) -> None:
    plain = ask(engine, "say:ids").last().usage.prompt_tokens
    assert ask(engine, "say:ids", special=True).last().usage.prompt_tokens == plain + 1


@pytest.mark.parametrize(
    ("sampling", "fields"),
    [
        (Sampling(7, temperature=0, seed=3), {"top_k": 1, "max_tokens": 7}),
        (Sampling(7, top_p=0), {"top_k": 1, "max_tokens": 7}),
        (
            Sampling(7, temperature=0.5, top_p=0.9, top_k=-1, seed=3),
            {"temperature": 0.5, "top_p": 0.9, "top_k": 0, "seed": 5, "max_tokens": 7},
        ),
        (Sampling(7, seed=-1), {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1, "max_tokens": 7}),
        (
            Sampling(7, temperature=0, ignore_eos=True, min_tokens=4, stop_token_ids=(5, 6), stop=("x",)),
            {"top_k": 1, "max_tokens": 7, "ignore_eos": True, "min_tokens": 4, "stop_token_ids": [5, 6]},
        ),
        (
            Sampling(7, temperature=0, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0),
            {"top_k": 1, "max_tokens": 7, "repetition_penalty": 1.0},
        ),
        (
            Sampling(7, temperature=0, logit_bias={"3": 5.0}),
            {"top_k": 1, "max_tokens": 7, "embedding_bias": [0.0] * 3 + [5.0] + [0.0] * 12},
        ),
    ],
)
def test_sampling_reaches_the_library_in_its_own_words(
    engine: LlmApiEngine, sampling: Sampling, fields: dict[str, Any]
) -> None:
    assert ask(engine, "say:a", sampling, index=2).last().finish == "stop"
    assert asked(engine) == {"ignore_eos": False, "add_special_tokens": False, **fields}


def test_without_a_limit_the_answer_may_fill_the_context_and_draws_anew(engine: LlmApiEngine) -> None:
    seeds = set()
    for _ in range(2):
        assert ask(engine, "say:a", Sampling(0)).last().finish == "stop"
        given = asked(engine)
        assert given["max_tokens"] == 1000 - engine.count_tokens("say:a")
        assert not engine._llm.asked[-1].greedy
        seeds.add(given["seed"])
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("guided", "given"),
    [({"json": {"type": "object"}}, {"json": {"type": "object"}}), ({"json_object": True}, {"json_object": True})],
)
def test_a_form_of_the_answer_is_guided_decoding(
    engine: LlmApiEngine, guided: dict[str, Any], given: dict[str, Any]
) -> None:
    assert ask(engine, "say:{}", guided=guided).last().finish == "stop"
    assert asked(engine)["guided_decoding"].given == given


def test_log_probabilities_come_with_their_text_from_pytorch_and_are_refused_by_engines(engine: LlmApiEngine) -> None:
    answers = ask(engine, "say:abcd", Sampling(0, temperature=0, logprobs=2))
    last = answers.last()
    if engine._flavour.name == "tensorrt":
        assert (last.status, last.code) == (400, "unsupported")
        assert "'logprobs'" in last.message
        return
    rows = [row for chunk in answers.all if isinstance(chunk, Chunk) for row in chunk.logprobs or []]
    assert [(row["token"], row["logprob"], row["bytes"]) for row in rows] == [
        ("ab", -0.5, [97, 98]),
        ("cd", -0.5, [99, 100]),
    ]
    assert [len(row["top_logprobs"]) for row in rows] == [2, 2]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0, presence_penalty=0.5),
        Sampling(0, frequency_penalty=-0.5),
        Sampling(0, repetition_penalty=1.1),
        Sampling(0, min_p=0.1),
    ],
)
def test_what_the_pytorch_sampler_would_ignore_is_refused(pytorch: LlmApiEngine, sampling: Sampling) -> None:
    error = ask(pytorch, "say:a", sampling).last()
    assert (error.status, error.code) == (400, "unsupported")
    [field] = [name for name in ("presence_penalty", "frequency_penalty", "repetition_penalty", "min_p")
               if getattr(sampling, name) is not None]  # fmt: skip
    assert f"'{field}'" in error.message


def test_the_older_sampler_takes_penalties(tmp_path: Path, packages: None) -> None:
    one = LlmApiEngine(PYTORCH)
    one.start(serving("pytorch", sampler_type="TRTLLMSampler"), artifact(tmp_path / "engine", "pytorch"))
    assert ask(one, "say:a", Sampling(0, temperature=0, presence_penalty=0.5, min_p=0.1)).last().finish == "stop"
    assert (asked(one)["presence_penalty"], asked(one)["min_p"]) == (0.5, 0.1)
    one.stop()


def test_images_are_refused(engine: LlmApiEngine) -> None:
    error = ask(engine, "say:a", images=("data:image/png;base64,AA==",)).last()
    assert (error.status, error.code) == (400, "unsupported")


def test_a_refusal_of_the_library_is_a_400_and_a_failure_a_500(engine: LlmApiEngine) -> None:
    error = ask(engine, "fail:the schema has a loop").last()
    assert (error.status, error.message) == (400, "The engine refused the request: the schema has a loop")
    answers = ask(engine, "say:abc\nbreak:CUDA error")
    assert (answers.last().status, answers.last().message) == (500, "The engine failed.")
    assert ask(engine, "say:still here").last().finish == "stop"


def test_other_ends_have_names(engine: LlmApiEngine) -> None:
    assert ask(engine, "say:a\nfinish:timeout").last().status == 504
    assert ask(engine, "say:a\nfinish:cancelled").last().finish == "cancelled"


def test_the_cache_in_use_is_seen_while_it_works_and_none_when_idle(engine: LlmApiEngine) -> None:
    assert engine.stats().kv_used is None
    answers = Answers()
    handle = engine.submit(GenerateRequest("one", GREEDY, prompt="forever:\nsay:abc"), 0, answers)
    until(lambda: engine.stats().kv_used == 0.1)
    assert engine.stats().waiting == 0
    engine.cancel(handle)
    answers.last()
    until(lambda: engine.stats().kv_used == 0.0)


def until(true: Callable[[], bool]) -> None:
    """Poll until it is true; fails after a bound."""
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
