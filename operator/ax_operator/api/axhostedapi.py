"""AXHostedAPI: a hosted, OpenAI-compatible API that may answer for models whose authors allow it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ax_operator.api.schema import Condition, Name, Spec


class SecretKey(Spec):
    """A key of a Secret in the operator's namespace."""

    name: Name
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = "api-key"


class Prices(Spec):
    """Prices in KRW per million tokens."""

    input: Annotated[float, Field(ge=0, le=1e9)]
    output: Annotated[float, Field(ge=0, le=1e9)]


class AXHostedAPISpec(Spec):
    """One hosted API."""

    base_url: Annotated[str, Field(pattern=r"^https?://[^\s@/?#]+(/[^\s?#]*)?$", max_length=500)]
    """As an OpenAI client takes it, with /v1."""
    model: Annotated[str, Field(min_length=1, max_length=200)]
    """The model's name at that API."""
    key_secret: SecretKey | None = None
    prices: Prices | None = None
    """In KRW per million tokens."""
    daily_budget: Annotated[float, Field(ge=0, le=1e12)] | None = None
    """KRW per day, midnight Asia/Seoul; spent, the hosted route closes."""
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    context_length: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    capabilities: Annotated[
        tuple[Literal["tools", "vision", "json_schema", "logprobs", "choices"], ...], Field(max_length=8)
    ] = ()
    """What the API can; a request that needs more stays on-prem. `choices`: several answers to one request."""
    drop_fields: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*$", max_length=63)], ...], Field(max_length=32)
    ] = ()
    """Fields removed from a body before it leaves."""
    allowed_namespaces: Annotated[tuple[Name, ...], Field(max_length=256)] = ()
    """Namespaces whose AXModels may use it; empty means none."""


class AXHostedAPIStatus(Spec):
    """What was observed."""

    observed_generation: int | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    spent_today: float | None = None
    """KRW since midnight, Asia/Seoul."""
