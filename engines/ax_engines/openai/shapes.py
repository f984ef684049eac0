"""What answers look like: the models of which the OpenAPI document is made. Pure.

Answers are written by hand for speed (`answers`, `sse`, `handlers`); the tests hold them against these models.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """Something that the server says; it says nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(Shape):
    """What is wrong and what to change."""

    message: str = Field(min_length=1)
    type: str
    param: str | None
    code: str | None


class ErrorBody(Shape):
    """Every answer that is none."""

    error: Error


class PromptDetails(Shape):
    """More about the prompt's tokens."""

    cached_tokens: int = Field(ge=0)


class Timing(Shape):
    """Milliseconds of the request, when the header X-AX-Timing asked for them."""

    queue_ms: float = Field(ge=0)
    first_token_ms: float = Field(ge=0)
    between_tokens_ms: float = Field(ge=0)
    total_ms: float = Field(ge=0)


class Usage(Shape):
    """Tokens as the engine counted them."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    prompt_tokens_details: PromptDetails
    timing: Timing | None = None


class UsageSoFar(Shape):
    """Tokens so far, in some events of a stream whose gateway counts."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)


class TokenLogprob(Shape):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenLogprob(TokenLogprob):
    """A token of the answer with the alternatives to it."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Shape):
    """How likely a chat's tokens were."""

    content: list[ChosenLogprob]
    refusal: None


class CompletionLogprobs(Shape):
    """How likely a completion's tokens were."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CalledFunction(Shape):
    """A function's name and its arguments as JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(Shape):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Shape):
    """A chat's answer; its content is null when the model only called tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] = []


class ChatChoice(Shape):
    """One answer of a chat."""

    index: int = Field(ge=0)
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatAnswer(Shape):
    """The whole answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(Shape):
    """A piece of a call: the name comes with the first one, the arguments in pieces of one text."""

    name: str | None = None
    arguments: str


class ToolCallDelta(Shape):
    """A piece of the call with this index; id and type come with the first one."""

    index: int = Field(ge=0)
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(Shape):
    """What a chat's event adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] = []


class ChatDelta(Shape):
    """One choice's news."""

    index: int = Field(ge=0)
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatEvent(Shape):
    """An event of a chat's stream; the last one has no choices when the usage was asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatDelta]
    usage: Usage | UsageSoFar | None = None


class CompletionChoice(Shape):
    """One answer of a completion."""

    index: int = Field(ge=0)
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(Shape):
    """The whole answer of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionDelta(Shape):
    """One choice's news."""

    index: int = Field(ge=0)
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionEvent(Shape):
    """An event of a completion's stream; the last one has no choices when the usage was asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionDelta]
    usage: Usage | UsageSoFar | None = None


class Model(Shape):
    """A name under which the model answers; `root` is its engine."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int


class ModelList(Shape):
    """Every name."""

    object: Literal["list"]
    data: list[Model]


class TokenCount(Shape):
    """How many tokens a prompt is, and how many fit."""

    count: int = Field(ge=0)
    max_model_len: int


class Health(Shape):
    """How the pod is."""

    status: Literal["live", "ready", "loading", "draining"]


class Document(BaseModel):
    """This document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
