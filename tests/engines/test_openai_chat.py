"""From a chat's body to the engine's request, and what is refused, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2 import TemplateSyntaxError

from ax_engines.contract import ChatFacts, Manifest, ServingOptions
from ax_engines.openai.chat import ToolPlan, chat_request
from ax_engines.openai.completions import completion_requests
from ax_engines.openai.errors import ApiError
from ax_engines.openai.model import ServedModel
from ax_engines.openai.refused import REFUSED
from ax_engines.openai.schema import ChatBody, CompletionBody, read_body
from ax_engines.openai.template import ChatTemplate
from ax_engines.wire import GenerateRequest
from tests.engines.card import TOOLS
from tests.engines.serving import ENGINE, SMOLLM2, TEMPLATE

HELLO = [{"role": "user", "content": "안녕"}]


def model(template: str | None = TEMPLATE) -> ServedModel:
    """Return the model of these tests."""
    options = ServingOptions(
        model="demo/m", served_names=("m",), engine=ENGINE, backend="llamacpp", slots=1, queue=1, context_length=99
    )
    chat = ChatFacts(template=True, bos_token="<s>", eos_token="</s>", context_length=99, vocab_size=1000)
    manifest = Manifest(
        engine=ENGINE,
        artifact="gguf",
        quantization="none",
        revision="r",
        architecture="LlamaForCausalLM",
        files=(),
        chat=chat,
        config=SMOLLM2,
    )
    return ServedModel(options, manifest, ChatTemplate(template, "<s>", "</s>") if template else None)


def ask(template: str | None = TEMPLATE, **body: Any) -> tuple[GenerateRequest, ToolPlan]:
    """Return the engine's request for a chat."""
    raw = json.dumps({"model": "m", "messages": HELLO} | body).encode()
    return chat_request(read_body(ChatBody, raw), model(template), "id", 5.0)


def refused(template: str | None = TEMPLATE, **body: Any) -> tuple[str | None, str]:
    """Return field and message of the refusal."""
    with pytest.raises(ApiError) as error:
        ask(template, **body)
    assert error.value.status == 400
    return error.value.param, error.value.message


def test_messages_become_the_templates_prompt() -> None:
    request, plan = ask()
    assert request.prompt == "<|im_start|>user\n안녕<|im_end|>\n<|im_start|>assistant\n"
    assert plan == ToolPlan()
    assert request.sampling.max_tokens == 0
    assert (request.n, request.deadline, request.guided) == (1, 5.0, None)


def test_sampling_reaches_the_engine() -> None:
    wanted: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -3, "stop": "끝", "n": 2,
        "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": {"7": -100},
        "logprobs": True, "top_logprobs": 3, "max_tokens": 5, "ignore_eos": True, "min_tokens": 2,
        "stop_token_ids": [9], "include_stop_str_in_output": True,
    }  # fmt: skip
    request, _ = ask(**wanted)
    got = request.sampling
    assert (got.temperature, got.top_p, got.top_k, got.min_p, got.seed) == (0.5, 0.9, 40, 0.1, -3)
    assert (got.presence_penalty, got.frequency_penalty, got.repetition_penalty) == (1, -1, 1.1)
    assert (got.stop, got.logit_bias, got.logprobs, got.max_tokens) == (("끝",), {"7": -100}, 3, 5)
    assert (got.ignore_eos, got.min_tokens, got.stop_token_ids, got.include_stop) == (True, 2, (9,), True)
    assert request.n == 2


def test_max_completion_tokens_wins_and_unknown_fields_are_ignored() -> None:
    request, _ = ask(max_tokens=5, max_completion_tokens=7, user="u", metadata={"a": 1}, store=True, nonsense=[1])
    assert request.sampling.max_tokens == 7


def test_parts_of_text_become_text_and_developer_becomes_system() -> None:
    parts = [{"type": "text", "text": "하나"}, {"type": "text", "text": "둘"}]
    request, _ = ask(messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}])
    assert request.prompt is not None
    assert request.prompt.startswith("<|im_start|>system\nx<|im_end|>\n<|im_start|>user\n하나\n둘<|im_end|>")


def test_other_keys_of_messages_and_arguments_reach_the_template() -> None:
    template = "{{ messages[0].mood }} {{ messages[0].name }} {{ thinking }}"
    messages = [{"role": "user", "content": "x", "mood": "좋음", "name": "하늘"}]
    request, _ = ask(template, messages=messages, chat_template_kwargs={"thinking": True})
    assert request.prompt == "좋음 하늘 True"


def test_calls_reach_the_template_with_arguments_as_objects() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "한"}'}}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages.append({"role": "tool", "content": "42", "tool_call_id": "another"})
    request, _ = ask(messages=messages)
    assert request.prompt is not None
    assert '<tool_call>{"name": "f", "arguments": {"a": "한"}}</tool_call>' in request.prompt
    assert "<|im_start|>tool\n42<|im_end|>" in request.prompt


def test_tools_are_shown_unless_the_choice_is_none() -> None:
    request, plan = ask(tools=TOOLS)
    assert request.prompt is not None
    assert "calculate_discount" in request.prompt
    assert plan == ToolPlan(parse=True)
    request, plan = ask(tools=TOOLS, tool_choice="none")
    assert request.prompt is not None
    assert "calculate_discount" not in request.prompt
    assert plan == ToolPlan()


def test_a_named_function_guides_the_answer_to_its_arguments() -> None:
    choice = {"type": "function", "function": {"name": "get_exchange_rate"}}
    request, plan = ask(tools=TOOLS, tool_choice=choice)
    assert plan == ToolPlan(parse=True, forced="get_exchange_rate")
    assert request.guided == {"json": TOOLS[1]["function"]["parameters"]}


def test_a_required_call_guides_the_answer_to_one_of_the_functions() -> None:
    request, plan = ask(tools=TOOLS, tool_choice="required")
    assert plan == ToolPlan(parse=True, required=True)
    assert request.guided is not None
    names = [one["properties"]["name"]["const"] for one in request.guided["json"]["anyOf"]]
    assert names == ["calculate_discount", "get_exchange_rate"]


def test_forms_of_answers() -> None:
    schema = {"type": "object"}
    assert ask(response_format={"type": "text"})[0].guided is None
    assert ask(response_format={"type": "json_object"})[0].guided == {"json_object": True}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert ask(response_format=form)[0].guided == {"json": schema}
    assert ask(guided_json=schema)[0].guided == {"json": schema}
    assert ask(structured_outputs={"json": schema})[0].guided == {"json": schema}
    assert ask(structured_outputs={"json_object": True})[0].guided == {"json_object": True}


def test_the_last_message_can_be_continued() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "서울은 "}]
    request, _ = ask(messages=messages, continue_final_message=True, add_generation_prompt=False)
    assert request.prompt is not None
    assert request.prompt.endswith("<|im_start|>assistant\n서울은")


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
BAD = [
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": None}, "messages", "valid list"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "field required"),
    ({"messages": [{"role": 3, "content": "x"}]}, "messages[0].role", "valid string"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "valid"),
    ({"messages": IMAGE}, "messages[0].content[0]", "reads text only, not 'image_url'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]", "string 'text'"),
    ({"temperature": "1"}, "temperature", "valid number"),
    ({"temperature": True}, "temperature", "valid number"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 1.5}, "n", "valid integer"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 10**30}, "max_tokens", "less than or equal"),
    ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
    ({"stop": ["a", 3]}, "stop[1]", "valid string"),
    ({"stop": ""}, "stop", "at least 1 character"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "not in the vocabulary of 1000"),
    ({"logit_bias": {"1000": 1}}, "logit_bias", "token 1000 is not in the vocabulary"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1", "less than or equal to 100"),
    ({"top_logprobs": 2}, "top_logprobs", "needs 'logprobs': true"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "less than or equal to 20"),
    ({"stream": "yes"}, "stream", "valid boolean"),
    ({"tool_choice": "required"}, "tool_choice", "needs 'tools'"),
    ({"tool_choice": "sometimes"}, "tool_choice", "input should be"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "field required"),
    ({"tools": [{"type": "code"}]}, "tools[0].type", "'function'"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name",
     "'x' is none of the tools"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "input should be"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
     "response_format.json_schema.schema", "field required"),
    ({"continue_final_message": True}, "continue_final_message", "'add_generation_prompt': false"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "reason"), BAD)
def test_a_wrong_field_is_named(body: dict[str, Any], param: str, reason: str) -> None:
    got, message = refused(**body)
    assert got == param
    assert reason in message


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_answer_and_cannot_be_is_refused(name: str) -> None:
    param, message = refused(**{name: ["x"]})
    assert (param, message) == (name, f"'{name}' is not supported: {REFUSED[name]}.")
    assert ask(**{name: None})[0] == ask()[0]


def test_other_forms_of_answers_than_json_are_refused() -> None:
    assert refused(structured_outputs={"regex": "a+"})[0] == "structured_outputs.regex"
    assert refused(modalities=["text", "audio"])[0] == "modalities"
    assert ask(modalities=["text"])[0] == ask()[0]


def test_calls_of_earlier_turns_that_are_none_are_refused() -> None:
    for call, where in [
        ({}, "function.name"),
        ({"function": {"name": "f", "arguments": "{"}}, "function.arguments"),
        ({"function": {"name": "f", "arguments": "[1]"}}, "function.arguments"),
    ]:
        messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
        assert refused(messages=messages)[0] == f"messages[1].tool_calls[0].{where}"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"model": NaN}', "NaN is not allowed"),
        (b'{"temperature": -Infinity}', "-Infinity is not allowed"),
        (b"\xff\xfe{", "not valid JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"tools": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_a_body_that_is_no_json_object(data: bytes, said: str) -> None:
    with pytest.raises(ApiError) as error:
        read_body(ChatBody, data)
    assert error.value.status == 400
    assert said in error.value.message


def test_the_template_may_refuse_and_cannot_reach_out() -> None:
    param, message = refused("{{ raise_exception('roles must alternate') }}")
    assert (param, "roles must alternate" in message) == ("messages", True)
    assert "unsafe" in refused("{{ ''.__class__.__mro__ }}{{ messages.append(1) }}")[1]
    with pytest.raises(TemplateSyntaxError):
        ChatTemplate("{% if %}")
    assert refused(None)[0] == "messages"


def test_templates_have_what_transformers_gives_them() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{{ extra }}{{ eos_token }}",
        "<s>",
        "</s>",
    )
    messages = [{"content": "한<&"}, {"content": "b"}, {"content": "c"}]
    assert template.render(messages, None, extra={"extra": "!"}) == '<s>"한<&""b"4!</s>'


def completion(**body: Any) -> list[GenerateRequest]:
    """Return the engine's requests for a completion."""
    raw = json.dumps({"model": "m", "prompt": "한 글"} | body).encode()
    return completion_requests(read_body(CompletionBody, raw), model(), "id", 5.0)


def test_prompts_of_every_kind() -> None:
    assert [one.prompt for one in completion()] == ["한 글"]
    assert [(one.id, one.prompt) for one in completion(prompt=["a", "b"])] == [("id-0", "a"), ("id-1", "b")]
    assert [one.token_ids for one in completion(prompt=[1, 2])] == [(1, 2)]
    assert [one.token_ids for one in completion(prompt=[[1], [2, 3]])] == [(1,), (2, 3)]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt[0]"),
        ({"prompt": [1000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_completions_that_cannot_be(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as error:
        completion(**body)
    assert (error.value.status, error.value.param) == (400, param)
