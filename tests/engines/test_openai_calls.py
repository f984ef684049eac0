"""Tool calls over the whole pod with a scripted engine: the model cards' turns, streams, forced and broken calls."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.engines.card import ANSWER, ASKS_BACK, QUESTION, RATE, RESULT, TOOLS


def script(**fields: Any) -> str:
    """Return a prompt that tells the scripted engine what to say."""
    return f"<<{json.dumps(fields, ensure_ascii=False)}>>"


def user(**fields: Any) -> list[Any]:
    """Return a chat that tells the scripted engine what to say."""
    return [{"role": "user", "content": script(**fields)}]


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
