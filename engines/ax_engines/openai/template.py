"""Chat templates: the artifact's Jinja text, rendered in a sandbox with what transformers gives a template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2 import nodes as jinja_nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ax_engines.openai.errors import ApiError


class GenerationTag(Extension):
    """Renders the body of `{% generation %}`, which only training tools look at."""

    tags = {"generation"}  # noqa: RUF012  jinja's own interface

    def parse(self, parser: Parser) -> list[jinja_nodes.Node]:
        """Return the tag's body as it stands."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template and the tokens it may print."""

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "") -> None:
        """Compile; raises jinja2.TemplateSyntaxError."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = to_json
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = strftime_now
        self._template = environment.from_string(source)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt; raises ApiError 400 when the template refuses the messages."""
        given = {
            **(extra or {}),
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(**{**self._tokens, **given})
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
            message = f"The model's chat template refused the messages: {error}"
            raise ApiError(400, message, param="messages", code="invalid_messages") from error


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return plain JSON: jinja's own filter would escape <, > and &, which models have never seen."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> NoReturn:
    """Let a template refuse messages."""
    raise TemplateError(message)


def strftime_now(form: str) -> str:
    """Return the local time in a template's own form."""
    return datetime.now().strftime(form)
