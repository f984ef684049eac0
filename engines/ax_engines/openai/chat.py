"""From the body of a chat to what the engine is asked. Pure but for the template's clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ax_engines.openai.content import Images, invalid, read_content, text_of
from ax_engines.openai.errors import ApiError
from ax_engines.openai.model import ServedModel, guided
from ax_engines.openai.schema import ChatBody, Message, NamedTool
from ax_engines.wire import GenerateRequest

ANY_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """How tool calls are found in the answer: not at all, in its text, or because the whole answer is one.

    `forced` is the name of the one function whose arguments are the whole answer.
    """

    parse: bool = False
    required: bool = False
    forced: str | None = None


def chat_request(
    body: ChatBody, model: ServedModel, request_id: str, deadline: float
) -> tuple[GenerateRequest, ToolPlan]:
    """Return the engine's request; raises ApiError 400 naming the field."""
    plan, form = plan_tools(body)
    images = Images()
    messages = [template_message(message, at, model, images) for at, message in enumerate(body.messages)]
    prompt = render(body, model, messages)
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs", "it needs 'logprobs': true")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    sampling = model.sampling(body, body.max_completion_tokens or body.max_tokens, logprobs)
    request = GenerateRequest(
        request_id,
        sampling,
        prompt=prompt,
        images=tuple(images.urls),
        guided=form if form is not None else guided(body),
        deadline=deadline,
        n=body.n or 1,
    )
    return request, plan


def render(body: ChatBody, model: ServedModel, messages: list[dict[str, Any]]) -> str:
    """Return the prompt that the model's template makes of the messages."""
    if model.template is None:
        message = "This model has no chat template; set chatTemplate in its spec or use /v1/completions."
        raise ApiError(400, message, param="messages", code="no_chat_template")
    tools = None
    if body.tools and body.tool_choice != "none":
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    last = ""
    if body.continue_final_message:
        if body.add_generation_prompt:
            raise invalid("continue_final_message", "it needs 'add_generation_prompt': false")
        last = text_of(messages[-1]["content"]).rstrip()
    prompt = model.template.render(messages, tools, body.add_generation_prompt, body.chat_template_kwargs)
    if last:
        at = prompt.rfind(last)
        if at < 0:
            raise invalid("continue_final_message", "the template does not print the last message as it stands")
        prompt = prompt[: at + len(last)]
    return prompt


def plan_tools(body: ChatBody) -> tuple[ToolPlan, dict[str, Any] | None]:
    """Return how calls are found and, for a forced choice, the form of the answer."""
    choice = body.tool_choice
    functions = {tool.function.name: tool.function for tool in body.tools or []}
    if choice in (None, "none", "auto") or not functions:
        if choice == "required" or isinstance(choice, NamedTool):
            raise invalid("tool_choice", "it needs 'tools'")
        return ToolPlan(parse=bool(functions) and choice != "none"), None
    if isinstance(choice, NamedTool):
        name = choice.function.name
        if name not in functions:
            raise invalid("tool_choice.function.name", f"'{name}' is none of the tools")
        return ToolPlan(parse=True, forced=name), {"json": functions[name].parameters or ANY_OBJECT}
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": function.parameters or ANY_OBJECT},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, function in functions.items()
    ]
    return ToolPlan(parse=True, required=True), {"json": calls[0] if len(calls) == 1 else {"anyOf": calls}}


def template_message(message: Message, at: int, model: ServedModel, images: Images) -> dict[str, Any]:
    """Return a message as templates expect it; its images are added to `images`."""
    given = message.model_dump(exclude_none=True)
    given["content"] = read_content(message.content, at, model, images)
    if message.role == "developer":
        given["role"] = "system"
    if message.tool_calls is not None:
        given["tool_calls"] = [
            template_call(call, f"messages[{at}].tool_calls[{n}]") for n, call in enumerate(message.tool_calls)
        ]
    return given


def template_call(call: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an earlier call with its arguments as an object, which is what templates print."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise invalid(f"{where}.function.name", "expected the name of a function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise invalid(f"{where}.function.arguments", "expected the text of a JSON object") from error
    if not isinstance(arguments, dict | None):
        raise invalid(f"{where}.function.arguments", "expected the text of a JSON object")
    return {**call, "function": {**function, "arguments": arguments or {}}}
