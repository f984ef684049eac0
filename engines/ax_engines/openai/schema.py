"""What the bodies of the OpenAI API may say. Pure.

Types are strict (no text for a number), every list and string has a bound, unknown fields are ignored as OpenAI
does. Fields that other servers know beyond OpenAI's are vLLM's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from ax_engines.openai.errors import ApiError
from ax_engines.openai.refused import refuse

INT64 = 2**63 - 1
MAX_DEPTH = 64
MAX_NODES = 100_000

Free = dict[str, Any]
TEXT, PLACE = {"type": "string"}, {"type": "string", "format": "uri", "pattern": "^data:image/(png|jpeg|webp);base64,"}
Part = Annotated[
    Free,
    WithJsonSchema(
        {
            "type": "object",
            "description": "A part of a message; images are for models that see.",
            "required": ["type"],
            "anyOf": [
                {"properties": {"type": {"const": "text"}, "text": TEXT}, "required": ["text"]},
                {
                    "properties": {
                        "type": {"const": "image_url"},
                        "image_url": {"type": "object", "properties": {"url": PLACE}, "required": ["url"]},
                    },
                    "required": ["image_url"],
                },
            ],
        }
    ),
]
"""Read by `content`, which names what is wrong better than a model of all its kinds would."""
Call = Annotated[
    Free,
    WithJsonSchema(
        {
            "type": "object",
            "description": "A call of an earlier turn; its arguments are the text of a JSON object.",
            "required": ["function"],
            "properties": {
                "function": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": TEXT, "arguments": {"type": ["string", "object", "null"]}},
                },
            },
        }
    ),
]
"""Read by `chat`."""
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class Body(BaseModel):
    """Something a client sent."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


class StreamOptions(Body):
    """What a stream carries beside text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Message(Body):
    """One turn; whatever else it has reaches the chat template too."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[Part] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[Call], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, Field(max_length=1000)] | None = None


class Function(Body):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: Annotated[str, Field(max_length=65_536)] | None = None
    parameters: Free | None = None


class Tool(Body):
    """A tool; functions are the only kind."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(Body):
    """The name of the function that must be called."""

    name: Annotated[str, Field(min_length=1, max_length=256)]


class NamedTool(Body):
    """A tool choice that names one function."""

    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(Body):
    """A named JSON schema; `schema` is a method of pydantic's models, hence the alias."""

    name: Annotated[str, Field(max_length=256)] = "answer"
    json_schema: Annotated[Free, Field(alias="schema")]


class ResponseFormat(Body):
    """The form that an answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    """The form of an answer in vLLM's newer words, of which JSON is known here."""

    json_schema: Annotated[Free | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: None = None
    choice: None = None
    grammar: None = None
    structural_tag: None = None


class SamplingBody(Body):
    """What chats and completions share."""

    model: Annotated[str, Field(max_length=512)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=INT64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT64)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64 - 1, le=INT64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0, le=INT64)] = 0
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    response_format: ResponseFormat | None = None
    guided_json: Free | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatBody(SamplingBody):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT64)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Annotated[Free, Field(max_length=64)] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class CompletionBody(SamplingBody):
    """The body of /v1/completions; a prompt is a text, token ids, or a list of either."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None


class TokenizeBody(Body):
    """The body of /tokenize for a text."""

    model: Annotated[str, Field(max_length=512)]
    prompt: str


B = TypeVar("B", bound=Body)


def read_body(kind: type[B], data: bytes) -> B:
    """Return the body; raises ApiError 400 that names the field."""
    raw = read_json(data)
    if issubclass(kind, SamplingBody):
        refuse(raw)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        param, reason = worst(raw, error)
        raise ApiError(400, f"Invalid value for '{param}': {reason}.", param=param, code="invalid_value") from error


def worst(raw: Any, error: ValidationError) -> tuple[str, str]:
    """Return field and reason of the fault to tell: the deepest one in the first wrong field.

    A value that fits no member of a union has one fault for each member: that it has the wrong type says less than
    any other fault, and of the members the last is the richest.
    """
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    faults = [fault for fault in faults if fault["loc"][:1] == faults[0]["loc"][:1]]
    paths = [field_of(raw, fault["loc"], missing=fault["type"] == "missing") for fault in faults]
    param = max(paths, key=lambda path: path.count(".") + path.count("["))
    there = [fault for path, fault in zip(paths, faults, strict=True) if path == param]
    told = [fault for fault in there if not fault["type"].endswith("_type")] or there
    reason = told[-1]["msg"]
    return param, reason[:1].lower() + reason[1:]


def read_json(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raises ApiError 400 for anything else, for NaN and for excessive nesting."""
    try:
        raw = json.loads(data, parse_constant=refuse_constant)
    except RecursionError as error:
        raise ApiError(400, "The body is nested too deeply.", code="invalid_json") from error
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(raw, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    check_nesting(raw)
    return raw


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which are no JSON."""
    raise ValueError(f"{name} is not allowed")


def check_nesting(raw: Mapping[str, Any]) -> None:
    """Raise ApiError 400 when a field is nested deeper than MAX_DEPTH or has more than MAX_NODES lists and objects."""
    for name, value in raw.items():
        level, nodes = [value], 0
        for _ in range(MAX_DEPTH + 1):
            level = [
                child
                for one in level
                if isinstance(one, dict | list)
                for child in (one.values() if isinstance(one, dict) else one)
                if isinstance(child, dict | list)
            ]
            nodes += len(level)
            if not level:
                break
        if level or nodes > MAX_NODES:
            raise ApiError(400, f"'{name}' is nested too deeply or too large.", param=name[:100], code="invalid_value")


def field_of(raw: Any, loc: tuple[int | str, ...], *, missing: bool) -> str:
    """Return a field's path in OpenAI's spelling, without pydantic's names for members of unions."""
    path = ""
    for part in loc:
        if isinstance(raw, list) and isinstance(part, int):
            path += f"[{part}]"
            raw = raw[part] if part < len(raw) else None
        elif isinstance(raw, dict) and isinstance(part, str) and (part in raw or missing):
            path += f".{part[:100]}" if path else part[:100]
            raw = raw.get(part)
    return path or "body"
