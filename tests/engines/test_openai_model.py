"""The official client against the whole pod with the real model."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

import openai
import pytest

from tests.engines.card import QUESTION, RATE, RESULT, TOOLS
from tests.engines.serving import Pod, page, post, until

CAPITAL: Any = [{"role": "user", "content": "What is the capital of Korea?"}]


def test_a_question_is_answered_with_exact_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=CAPITAL, temperature=0)
    [choice] = answer.choices
    assert choice.message.content == "The capital of Korea is Seoul."
    assert (choice.message.role, choice.finish_reason, choice.logprobs) == ("assistant", "stop", None)
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (16, 8, 24)
    assert answer.model == "smollm2"


def test_a_stream_says_the_same_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    events = list(
        client.chat.completions.create(
            model="demo/smollm2", messages=CAPITAL, temperature=0, stream=True, stream_options=options
        )
    )
    deltas = [event.choices[0].delta for event in events if event.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "The capital of Korea is Seoul."
    assert len({event.id for event in events}) == 1
    finishes = [event.choices[0].finish_reason for event in events if event.choices]
    assert finishes[-1] == "stop"
    assert set(finishes[:-1]) == {None}
    assert [event.usage is not None for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].choices == []
    assert events[-1].usage
    assert events[-1].usage.total_tokens == 24


def test_without_max_tokens_an_answer_goes_on_to_the_end_of_the_context(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2", prompt=[504] * 980, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (44, 1024)


def test_a_prompt_larger_than_the_context_is_refused_with_both_sizes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": "hi " * 3000}])
    assert error.value.code == "context_length_exceeded"
    assert "context is 1024 tokens; the prompt has 3" in error.value.message
    with pytest.raises(openai.BadRequestError, match="the prompt has 16 and 2000 were asked for the answer"):
        client.chat.completions.create(model="smollm2", messages=CAPITAL, max_tokens=2000)


def test_several_prompts_and_choices_of_one_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2",
        prompt=["Once upon a", "The capital of France is"],
        max_tokens=4,
        n=2,
        temperature=0,
        logprobs=2,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in answer.choices]
    assert (texts[0], texts[2]) == (texts[1], texts[3])
    assert texts[0] != texts[2]
    for choice in answer.choices:
        assert choice.logprobs
        assert choice.logprobs.tokens
        assert "".join(choice.logprobs.tokens) == choice.text
        assert choice.logprobs.top_logprobs
        assert {len(top) for top in choice.logprobs.top_logprobs} == {2}
    assert answer.usage
    assert answer.usage.completion_tokens == 16


def test_a_prompt_of_token_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="smollm2", prompt=[504, 3575, 282], max_tokens=3, temperature=0)
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)


def test_a_seed_repeats_an_answer_and_choices_differ(client: openai.OpenAI) -> None:
    def say() -> list[str]:
        answer = client.completions.create(model="smollm2", prompt="A word:", max_tokens=8, seed=7, n=2)
        return [choice.text for choice in answer.choices]

    first = say()
    assert first == say()
    assert first[0] != first[1]


def test_an_answer_follows_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Invent a person."}],
        temperature=0,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
    )
    person = json.loads(answer.choices[0].message.content or "")
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)
    assert "<|im_end|>" not in (answer.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "foo"}, "Invalid type: foo"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "(?=a)b"}, "regex"),
        ({"enum": []}, "Unsatisfiable"),
        ({"$ref": "http://127.0.0.1:1/x"}, "127.0.0.1"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(client: openai.OpenAI, schema: Any, reason: str) -> None:
    with pytest.raises(openai.BadRequestError, match=reason):
        client.completions.create(model="smollm2", prompt="JSON:", extra_body={"guided_json": schema})


def test_a_named_tool_is_called_with_arguments_that_fit(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": QUESTION}],
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "calculate_discount"}},
        temperature=0,
        max_tokens=300,
    )
    message = answer.choices[0].message
    assert message.content is None
    assert message.tool_calls
    [call] = message.tool_calls
    assert call.type == "function"
    assert call.function.name == "calculate_discount"
    if answer.choices[0].finish_reason == "stop":
        assert set(json.loads(call.function.arguments)) >= {"original_price", "discount_percentage"}


def test_the_cards_three_turns_pass_through_the_real_model(client: openai.OpenAI) -> None:
    """What it says is its own affair; that each turn is taken as the cards send it, and grows the prompt, is ours."""
    messages: list[Any] = []
    prompts = [0]
    for turn in (
        [{"role": "user", "content": QUESTION}],
        [{"role": "assistant", "content": "할인율이 몇 퍼센트인가요?"}, {"role": "user", "content": RATE}],
        [{"role": "assistant", "content": ""}, {"role": "tool", "tool_call_id": "random_id", "content": RESULT}],
    ):
        messages += turn
        answer = client.chat.completions.create(
            model="smollm2", messages=messages, tools=TOOLS, temperature=0, max_tokens=8
        )
        [choice] = answer.choices
        assert choice.message.content or choice.message.tool_calls
        assert choice.finish_reason in ("stop", "length", "tool_calls")
        assert answer.usage
        assert answer.usage.prompt_tokens > prompts[-1]
        prompts.append(answer.usage.prompt_tokens)


def test_a_prefix_that_was_seen_is_counted_as_cached(client: openai.OpenAI) -> None:
    prompt = "The quick brown fox jumps over the lazy dog. " * 10
    usages = [client.completions.create(model="smollm2", prompt=prompt, max_tokens=1).usage for _ in range(5)]
    cached = [
        usage.prompt_tokens_details.cached_tokens or 0 for usage in usages if usage and usage.prompt_tokens_details
    ]
    assert len(cached) == 5
    assert 0 < max(cached) < usages[0].prompt_tokens  # type: ignore[union-attr]


def test_a_stop_string_ends_an_answer_and_is_not_in_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=CAPITAL, temperature=0, stop=["of Korea"])
    assert answer.choices[0].message.content == "The capital "
    assert answer.choices[0].finish_reason == "stop"


def test_korean_characters_of_several_tokens_arrive_whole(client: openai.OpenAI) -> None:
    events = client.completions.create(
        model="smollm2", prompt="안녕하세요는 한국어 인사입니다. 안녕하세요", max_tokens=40, temperature=0, stream=True
    )
    texts = [event.choices[0].text for event in events]
    assert "\ufffd" not in "".join(texts)
    assert any("가" <= char <= "힣" for char in "".join(texts))


def test_leaving_during_a_long_prompt_frees_the_slots(client: openai.OpenAI, model_pod: Pod) -> None:
    """Prompts that would keep all slots busy for minutes are left; the next request must not wait for them."""
    prompt = json.dumps({"model": "smollm2", "prompt": list(range(1000, 2000)), "max_tokens": 1}).encode()
    connections = [http.client.HTTPConnection("127.0.0.1", model_pod.frontend_ports[0]) for _ in range(12)]
    for connection in connections:
        connection.request("POST", "/v1/completions", prompt)
    until(lambda: running(model_pod) == 4)
    for connection in connections:
        connection.close()
    until(lambda: running(model_pod) == 0)
    answer = client.chat.completions.create(model="smollm2", messages=CAPITAL, temperature=0, max_tokens=2)
    assert answer.usage
    assert answer.usage.completion_tokens == 2


def running(pod: Pod) -> float:
    """Return the requests that generate, as the metrics page shows them."""
    lines = page(pod.metrics_url).splitlines()
    return float(next(line for line in lines if line.startswith("ax_requests_running{")).rpartition(" ")[2])


def test_more_requests_than_slots_are_all_answered(client: openai.OpenAI) -> None:
    answers: list[str | None] = []

    def ask() -> None:
        answer = client.chat.completions.create(model="smollm2", messages=CAPITAL, temperature=0, max_tokens=20)
        answers.append(answer.choices[0].message.content)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    assert all("Seoul" in (answer or "") for answer in answers)


def test_what_llama_cpp_cannot_do_is_refused(client: openai.OpenAI) -> None:
    for body in ({"min_tokens": 3}, {"stop_token_ids": [2]}):
        with pytest.raises(openai.BadRequestError, match=f"llama.cpp does not know '{next(iter(body))}'"):
            client.chat.completions.create(model="smollm2", messages=CAPITAL, extra_body=body)


def test_models_tell_context_and_owner(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["demo/smollm2", "smollm2"]
    assert {model.owned_by for model in models} == {"demo"}
    assert client.models.retrieve("demo/smollm2").to_dict()["max_model_len"] == 1024
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_no_prompt_reaches_a_log(client: openai.OpenAI, model_pod: Pod) -> None:
    secret = "zanzibar-marzipan"
    client.completions.create(model="smollm2", prompt=secret, max_tokens=2)
    url = f"{model_pod.url}/v1/completions"
    assert post(url, {"model": "smollm2", "prompt": secret, "n": secret}).status == 400
    assert post(url, {"model": "smollm2", "prompt": secret * 1000}).status == 400
    assert model_pod.triton
    assert model_pod.frontend
    assert secret not in model_pod.triton.text()
    assert secret not in model_pod.frontend.text()
