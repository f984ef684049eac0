"""Tool calls in a stream: the cuts do not matter, tags never leak, what is no call stays text."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ax_engines.openai.tools import Broken, CallArguments, CallStart, Event, HermesParser, Text, is_json
from tests.engines.card import CALL

ONE = '<tool_call>\n{"name": "get_rate", "arguments": {"from": "KRW", "n": [1, {"a": "}"}]}}\n</tool_call>'
TWO = ONE + '\n<tool_call>\n{"name": "second", "arguments": {}}\n</tool_call>'
QUOTED = '<tool_call>{"name": "f", "arguments": {"s": "a </tool_call> \\" } <tool_call> 한글"}}</tool_call>'
SWAPPED = '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>'
TEXT_ARGUMENTS = '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>'
BROKEN = '<tool_call>{"name": "f", "arg</tool_call> 그리고 글'
NO_JSON = "<tool_call>hello</tool_call>"
UNCLOSED = '<tool_call>{"name": "f", "arguments": {"a": 1}}'
CUT = '<tool_call>{"name": "f", "argu'
MISSING_CLOSE = '<tool_call>{"name": "f", "arguments": {"a": 1}}\n<tool_call>{"name": "g", "arguments": {}}</tool_call>'
CASES = {
    "text": ("그냥 글 <b>", "그냥 글 <b>", []),
    "blank": (" \n", " \n", []),
    "one": (ONE, "", [("get_rate", {"from": "KRW", "n": [1, {"a": "}"}]})]),
    "text first": (f"잠시만요.\n\n{ONE}", "잠시만요.", [("get_rate", {"from": "KRW", "n": [1, {"a": "}"}]})]),
    "two": (TWO, "", [("get_rate", {"from": "KRW", "n": [1, {"a": "}"}]}), ("second", {})]),
    "quoted": (QUOTED, "", [("f", {"s": 'a </tool_call> " } <tool_call> 한글'})]),
    "swapped": (SWAPPED, "", [("f", {"a": 1})]),
    "text arguments": (TEXT_ARGUMENTS, "", [("f", {"a": 1})]),
    "broken": (BROKEN, BROKEN, []),
    "no json": (NO_JSON, NO_JSON, []),
    "unclosed": (UNCLOSED, "", [("f", {"a": 1})]),
    "cut": (CUT, CUT, []),
    "missing close": (MISSING_CLOSE, "", [("f", {"a": 1}), ("g", {})]),
    "almost a tag": ("a <tool_cal b <", "a <tool_cal b <", []),
    "card": ("".join(CALL), "", [("calculate_discount", {"original_price": 57600, "discount_percentage": 15})]),
}


def parse(pieces: list[str], *, inside: bool = False) -> list[Event]:
    """Return all events of an answer."""
    parser = HermesParser(inside=inside)
    return [event for piece in pieces for event in parser.push(piece)] + parser.finish()


def read(events: list[Event]) -> tuple[str, list[tuple[str, object]]]:
    """Return the text and the calls that a client puts together; the events must be in order."""
    text = ""
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, Text):
            assert event.text
            text += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            calls.append([event.name, ""])
        else:
            assert isinstance(event, CallArguments), event
            assert event.index == len(calls) - 1
            calls[event.index][1] += event.text
    return text, [(name, json.loads(arguments)) for name, arguments in calls]


@pytest.mark.parametrize("name", CASES)
def test_the_whole_answer(name: str) -> None:
    whole, text, calls = CASES[name]
    assert read(parse([whole])) == (text, calls)


@pytest.mark.parametrize("name", CASES)
def test_cut_anywhere_once(name: str) -> None:
    whole, text, calls = CASES[name]
    for at in range(len(whole) + 1):
        assert read(parse([whole[:at], whole[at:]])) == (text, calls), at


@pytest.mark.parametrize("name", CASES)
def test_cut_everywhere(name: str) -> None:
    whole, text, calls = CASES[name]
    assert read(parse(list(whole))) == (text, calls)


fragment = st.sampled_from([
    "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {', '"a": 1', "}}", "}", "글 ", " ", "<", "tool", "\n",
    '{"name": "', '"', "\\", '{"name": "f", "arguments": {}}', "[", "]", ",",
])  # fmt: skip


@settings(max_examples=500)
@given(st.lists(fragment, max_size=12), st.data())
def test_any_text_means_the_same_however_it_is_cut(parts: list[str], data: st.DataObject) -> None:
    whole = "".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=8)))
    edges = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert joined(parse(pieces)) == joined(parse([whole]))


def joined(events: list[Event]) -> tuple[str, list[tuple[str, str]], list[Broken]]:
    """Return text, calls without reading the arguments as JSON, and which of them are broken."""
    text = "".join(event.text for event in events if isinstance(event, Text))
    names = [event.name for event in events if isinstance(event, CallStart)]
    arguments = ["" for _ in names]
    for event in events:
        if isinstance(event, CallArguments):
            arguments[event.index] += event.text
    broken = [event for event in events if isinstance(event, Broken)]
    for index, (name, one) in enumerate(zip(names, arguments, strict=True)):
        assert name
        assert is_json(one) != (index in [event.index for event in broken])
    return text, list(zip(names, arguments, strict=True)), broken


GOOD = '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
LATER = [
    '<tool_call>{"name": "f", "arguments": {"a": "긴 글',
    '<tool_call>{"name": "f", "arguments": {"a": 1,}} \n</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": [1}}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1]} </tool_call>',
    '<tool_call>{"name": "f", "arguments": {a: 1}}\n',
]


@pytest.mark.parametrize("broken", LATER)
def test_a_call_that_breaks_after_its_arguments_began_is_told_with_its_text(broken: str) -> None:
    for at in range(len(broken)):
        events = parse([GOOD, broken[:at], broken[at:]])
        assert events[-1] == Broken(1, broken)
        assert [event.name for event in events if isinstance(event, CallStart)] == ["g", "f"]
    if broken.rstrip().endswith("</tool_call>"):
        text, calls, told = joined(parse([f"말 {broken} 글", GOOD]))
        assert (text, [name for name, _ in calls], told) == ("말 글", ["f", "g"], [Broken(0, broken)])


def test_a_forced_call_that_is_cut_off_is_told_too() -> None:
    broken = '{"name": "f", "arguments": {"a"'
    assert parse([broken], inside=True)[-1] == Broken(0, broken)


def test_arguments_stream_before_the_call_is_complete() -> None:
    parser = HermesParser()
    events = parser.push('<tool_call>{"name": "f", "arguments": {"text": "긴 글')
    assert events == [CallStart(0, "f"), CallArguments(0, '{"text": "긴 글')]
    assert parser.push("이 온다") == [CallArguments(0, "이 온다")]


def test_text_streams_at_once_when_it_cannot_be_a_tag() -> None:
    parser = HermesParser()
    assert parser.push("안녕") == [Text("안녕")]
    assert parser.push(" 하세요") == [Text(" 하세요")]
    assert parser.push(" <too") == []
    assert parser.push("k>") == [Text(" <took>")]


def test_a_forced_choice_is_a_call_without_tags() -> None:
    whole = '{"name": "f", "arguments": {"a": [1]}}'
    for at in range(len(whole)):
        assert read(parse([whole[:at], whole[at:]], inside=True)) == ("", [("f", {"a": [1]})])
    assert read(parse(['{"name": "f", "argu'], inside=True)) == ('{"name": "f", "argu', [])
