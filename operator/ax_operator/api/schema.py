"""The words in which the kinds are written: frozen models, bounded strings, CEL rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from ax_engines.contract import Shared

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Label = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
LabelKey = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        max_length=317,
    ),
]
Duration = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}(s|m|h)$", max_length=8)]

T = TypeVar("T", bound=type[Shared])


class Spec(Shared):
    """A frozen part of a kind; the docstring under a field is its description in the CRD."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def rules(*pairs: tuple[str, str]) -> Callable[[T], T]:
    """Attach CEL rules, each with the message that the API server answers, to a model's schema."""

    def attach(model: T) -> T:
        found = [{"rule": rule, "message": message} for rule, message in pairs]
        extra: dict[str, Any] = {"x-kubernetes-validations": found}
        model.model_config["json_schema_extra"] = extra
        model.model_rebuild(force=True)
        return model

    return attach


class Condition(Spec):
    """As in metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=1024, min_length=1)]
    message: Annotated[str, Field(max_length=32768)] = ""
    observed_generation: int | None = None
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def seconds(duration: str) -> float:
    """Return a duration such as `90s`, `15m` or `2h` in seconds; raises ValueError on anything else."""
    match = re.fullmatch(r"([0-9]+)(s|m|h)", duration)
    if not match:
        raise ValueError(f"{duration!r} is no duration: write 90s, 15m or 2h")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
