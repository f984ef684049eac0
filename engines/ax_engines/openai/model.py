"""What the frontend knows about the model it serves, and what it asks the engine for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ax_engines.contract import Manifest, ServingOptions
from ax_engines.openai.errors import ApiError
from ax_engines.openai.schema import ResponseFormat, SamplingBody
from ax_engines.openai.template import ChatTemplate
from ax_engines.openai.tools import PARSERS
from ax_engines.wire import Sampling


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model under its names, with its template (None when the artifact has none)."""

    options: ServingOptions
    manifest: Manifest
    template: ChatTemplate | None
    wants_parts: bool = False
    """Whether the template prints text only when it comes as a list of parts."""

    @property
    def sees(self) -> bool:
        """Whether messages may have images: the model has eyes and its backend uses them."""
        return self.manifest.config.vision is not None and self.options.backend == "transformers"

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a request may use, the model's own first."""
        return tuple(dict.fromkeys([self.options.model, *self.options.served_names]))

    @property
    def parser(self) -> type[Any]:
        """The class that finds tool calls in this model's text."""
        return PARSERS[self.options.tool_parser or "hermes"]

    def check_name(self, name: str) -> None:
        """Raise ApiError 404 unless the name is one of this model's."""
        if name not in self.names:
            message = f"The model '{name}' does not exist; this server has {', '.join(self.names)}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def sampling(self, body: SamplingBody, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """Return what the engine is asked for; raises ApiError 400 for tokens that the model does not have."""
        self._check_tokens("logit_bias", [read_token(key) for key in body.logit_bias or {}])
        self._check_tokens("stop_token_ids", body.stop_token_ids or [])
        return Sampling(
            max_tokens=max_tokens or 0,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            min_p=body.min_p,
            seed=body.seed,
            stop=body.stops,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
            logit_bias=body.logit_bias or None,
            logprobs=logprobs,
            ignore_eos=body.ignore_eos,
            min_tokens=body.min_tokens,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            include_stop=body.include_stop_str_in_output,
        )

    def check_tokens(self, param: str, tokens: list[int]) -> None:
        """Raise ApiError 400 naming the field when a token id is not in the vocabulary."""
        self._check_tokens(param, tokens)

    def _check_tokens(self, param: str, tokens: list[int]) -> None:
        size = self.manifest.chat.vocab_size or self.manifest.config.vocab_size
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            message = f"Invalid value for '{param}': token {wrong} is not in the vocabulary of {size} tokens."
            raise ApiError(400, message, param=param, code="invalid_value")


def read_token(key: str) -> int:
    """Return a token id written as text, -1 when it is none."""
    return int(key) if key.isascii() and key.isdigit() and len(key) < 10 else -1


def guided(body: SamplingBody) -> dict[str, Any] | None:
    """Return the form that the answer must have, as the engine's contract spells it."""
    if body.guided_json is not None:
        return {"json": body.guided_json}
    if body.structured_outputs and body.structured_outputs.json_schema is not None:
        return {"json": body.structured_outputs.json_schema}
    if body.structured_outputs and body.structured_outputs.json_object:
        return {"json_object": True}
    form: ResponseFormat | None = body.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"json_object": True}
    if form.json_schema is None:
        param = "response_format.json_schema"
        raise ApiError(400, f"Missing '{param}'.", param=param, code="invalid_value")
    return {"json": form.json_schema.json_schema}
