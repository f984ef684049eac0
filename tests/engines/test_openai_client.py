"""What the official client documents beyond plain calls: helpers, raw answers, retries, the asynchronous client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.engines.card import TOOLS
from tests.engines.serving import Pod


def user(**fields: Any) -> list[Any]:
    """Return a chat that tells the scripted engine what to say."""
    return [{"role": "user", "content": f"<<{json.dumps(fields, ensure_ascii=False)}>>"}]


class Person(BaseModel):
    """The form of an answer."""

    name: str
    age: int


def test_an_answer_is_parsed_into_a_model(scripted: openai.OpenAI) -> None:
    messages = user(say=['{"name": "하늘",', ' "age": 7}'])
    answer = scripted.chat.completions.parse(model="smollm2", messages=messages, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="하늘", age=7)


def test_the_streaming_helper_gathers_text_and_calls(scripted: openai.OpenAI) -> None:
    call = '<tool_call>{"name": "calculate_discount", "arguments": {"original_price": 1}}</tool_call>'
    messages = user(say=["가격은 ", call[:20], call[20:50], call[50:]])
    with scripted.chat.completions.stream(model="smollm2", messages=messages, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0]
    assert {"chunk", "content.delta", "tool_calls.function.arguments.delta"} <= kinds
    assert (final.message.content, final.finish_reason) == ("가격은", "tool_calls")
    assert final.message.tool_calls
    assert json.loads(final.message.tool_calls[0].function.arguments) == {"original_price": 1}


def test_raw_answers_show_status_and_headers(scripted: openai.OpenAI) -> None:
    raw = scripted.chat.completions.with_raw_response.create(model="smollm2", messages=user())
    assert (raw.status_code, raw.headers["content-type"]) == (200, "application/json")
    assert raw.parse().choices[0].message.content == "ok"


async def test_the_asynchronous_client(scripted_pod: Pod) -> None:
    async with openai.AsyncOpenAI(base_url=f"{scripted_pod.url}/v1", api_key="none") as client:
        answer = await client.chat.completions.create(model="smollm2", messages=user(say=["안녕"]))
        assert answer.choices[0].message.content == "안녕"
        events = await client.completions.create(model="smollm2", prompt="x", stream=True)
        assert "".join([event.choices[0].text async for event in events]) == "ok"
        assert [model.id async for model in client.models.list()] == ["demo/smollm2", "smollm2"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.embeddings.create(model="smollm2", input="x"),
        lambda client: client.responses.create(model="smollm2", input="x"),
        lambda client: client.moderations.create(input="x"),
        lambda client: client.files.list(),
        lambda client: client.images.generate(prompt="x"),
        lambda client: client.fine_tuning.jobs.list(),
        lambda client: client.batches.list(),
        lambda client: client.vector_stores.list(),
        lambda client: client.audio.speech.create(model="smollm2", voice="x", input="x"),
    ],
)
def test_what_is_not_there_says_so(scripted: openai.OpenAI, ask: Any) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        ask(scripted)
    assert error.value.code == "unknown_url"
