"""The OpenAPI document of a served model, made of the models that check requests and describe answers. Pure."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ax_engines.openai import shapes
from ax_engines.openai.schema import ChatBody, CompletionBody, TokenizeBody

VERSION = "3.2.0"
"""The first version that can say what the events of a stream are."""
REFUSALS = {
    400: "A field is wrong; `param` names it.",
    404: "There is no such model or address.",
    413: "The body is too large.",
    429: "The model's queue is full.",
    503: "The model is being loaded, or its engine went away.",
    504: "The time that the gateway gave the request has passed.",
}
RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
TIMING = {
    "name": "X-AX-Timing",
    "in": "header",
    "description": "With `1` the usage has times.",
    "schema": {"type": "string"},
}


@cache
def document(names: tuple[str, ...]) -> dict[str, Any]:
    """Return the document of a server whose model has these names; it is made once and must not be changed."""
    known = list(names)
    return {
        "openapi": VERSION,
        "info": {"title": f"OpenAI API of {known[0]}", "version": "1"},
        "paths": paths(known),
        "components": {"schemas": schemas(known)},
    }


def paths(names: list[str]) -> dict[str, Any]:
    """Return what can be asked where."""
    chat = answers(shapes.ChatAnswer, shapes.ChatEvent)
    completion = answers(shapes.CompletionAnswer, shapes.CompletionEvent)
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": names}}
    return {
        "/v1/chat/completions": {"post": asked("Answer a chat", chat, ChatBody) | {"parameters": [TIMING]}},
        "/v1/completions": {"post": asked("Complete a text", completion, CompletionBody) | {"parameters": [TIMING]}},
        "/tokenize": {"post": asked("Count tokens", answers(shapes.TokenCount), TokenizeBody, ChatBody)},
        "/v1/models": {"get": told("List the model's names", answers(shapes.ModelList))},
        "/v1/models/{name}": {
            "get": told("Describe the model", answers(shapes.Model), 404) | {"parameters": [name]},
        },
        "/health/live": {"get": told("Say whether the frontend lives", answers(shapes.Health))},
        "/health/ready": {
            "get": {
                "summary": "Say whether requests are taken",
                "responses": {"200": answers(shapes.Health), "503": answers(shapes.Health)},
            }
        },
        "/openapi.json": {"get": told("Return this document", answers(shapes.Document))},
    }


def asked(summary: str, answer: dict[str, Any], *bodies: type[BaseModel]) -> dict[str, Any]:
    """Return an operation with a body of one of these kinds."""
    schema = reference(bodies[0]) if len(bodies) == 1 else {"anyOf": [reference(body) for body in bodies]}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return told(summary, answer, *REFUSALS) | {"requestBody": body}


def told(summary: str, answer: dict[str, Any], *refusals: int) -> dict[str, Any]:
    """Return an operation with its answer and the refusals that it knows."""
    responses = {"200": answer} | {str(status): refusal(status) for status in refusals}
    return {"summary": summary, "responses": responses}


def answers(shape: type[BaseModel], event: type[BaseModel] | None = None) -> dict[str, Any]:
    """Return a response with this body or, when it was asked for, a stream of these events."""
    content: dict[str, Any] = {"application/json": {"schema": reference(shape)}}
    if event:
        data = {"anyOf": [reference(event), reference(shapes.ErrorBody)]}
        json_text = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
        kinds = [{"properties": {"data": kind}} for kind in ({"const": "[DONE]"}, json_text)]
        content["text/event-stream"] = {"itemSchema": {"type": "object", "required": ["data"], "anyOf": kinds}}
    return {"description": summary_of(shape), "content": content}


def refusal(status: int) -> dict[str, Any]:
    """Return a response that is an error."""
    one: dict[str, Any] = {
        "description": REFUSALS[status],
        "content": {"application/json": {"schema": reference(shapes.ErrorBody)}},
    }
    return one | {"headers": RETRY} if status in (429, 503) else one


def schemas(names: list[str]) -> dict[str, Any]:
    """Return the schema of every model that the document speaks of; `model` is one of the names."""
    bodies: list[type[BaseModel]] = [ChatBody, CompletionBody, TokenizeBody]
    said: list[type[BaseModel]] = [
        shapes.ChatAnswer, shapes.ChatEvent, shapes.CompletionAnswer, shapes.CompletionEvent, shapes.TokenCount,
        shapes.ModelList, shapes.Health, shapes.Document, shapes.ErrorBody,
    ]  # fmt: skip
    _, made = models_json_schema(
        [(one, "validation") for one in bodies + said], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = made["$defs"]
    for body in bodies:
        found[body.__name__]["properties"]["model"]["enum"] = names
    return found


def reference(shape: type[BaseModel]) -> dict[str, str]:
    """Return the place of a model's schema."""
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def summary_of(shape: type[BaseModel]) -> str:
    """Return the first line of a model's docstring."""
    return (shape.__doc__ or "").partition("\n")[0]
