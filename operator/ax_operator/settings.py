"""The operator's settings: one YAML file, mounted by the chart; read once at the start.

Everything but `operator` is what the plan needs (`plan.world.Settings`); `operator` is how the process runs.
An error names the key and what to write instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from ax_operator.plan.world import Setting, Settings


class ProcessSettings(Setting):
    """How this process runs."""

    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """Models that are reconciled at once."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /metrics, /healthz and /readyz; 0 takes a free one of the loopback address."""
    resync_seconds: Annotated[float, Field(ge=1)] = 300.0
    """Between two complete lists, which find what the watches have missed."""
    first_resync_seconds: Annotated[float, Field(gt=0)] = 5.0
    """From the start to the first of them: what was deleted between our list and the watches' has no event."""
    watch_lag_seconds: Annotated[float, Field(gt=0)] = 30.0
    """A change that a complete list has found and its watch has not told after this long: the watch is dead."""
    signals_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Between two looks at the queues of serving pods."""
    progress_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    """Between two questions to a build pod how far it is."""
    grace_seconds: Annotated[float, Field(ge=0, le=600)] = 20.0
    """How long a stop waits for reconciles that run."""
    gateway_port: Annotated[int, Field(ge=1, le=65535)] = 8081
    """Port of the gateway agents' /v1/load."""


class SettingsError(ValueError):
    """The file is missing or says something that cannot be; the message says what to change."""


def load(path: str | Path) -> tuple[Settings, ProcessSettings]:
    """Read the settings; raises SettingsError."""
    try:
        raw: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings: {error}: mount the chart's ConfigMap there") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is no YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must hold a mapping with at least `namespace` and `engines_image`")
    process = raw.pop("operator", None) or {}
    try:
        return Settings.model_validate(raw), ProcessSettings.model_validate(process)
    except ValidationError as error:
        where = "operator." if error.title == ProcessSettings.__name__ else ""
        found = [f"{where}{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise SettingsError(f"{path}: " + "; ".join(found)) from error
