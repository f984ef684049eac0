"""What a Job's containers are told to do, how far they are, and their last word.

Pure. The operator writes a task into an environment variable; the answer comes back in the termination message.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ax_engines.contract import ArtifactSpec, ChatFacts, PhaseName, ResolvedSource, Shared, Source

TASK_ENV = "AX_TASK"
"""The key under which a task reaches its container."""
PROGRESS_PORT = 8090
TERMINATION_MESSAGE_BYTES = 4096
"""Kubernetes cuts a termination message at this many bytes."""


class ResolveTask(Shared):
    """What the resolve container reads from AX_TASK."""

    kind: Literal["resolve"] = "resolve"
    source: Source
    trust_remote_code: bool = False


class BuildTask(Shared):
    """What each container of a build Job reads from AX_TASK; the phase is its first argument."""

    kind: Literal["build"] = "build"
    engine: str
    spec: ArtifactSpec


class SweepTask(Shared):
    """Folders of the store to remove, by engine name; nothing else is touched."""

    kind: Literal["sweep"] = "sweep"
    remove: Annotated[tuple[str, ...], Field(max_length=500)]


class TaskResult(Shared):
    """A container's last word, in its termination message: a result, or one sentence that says what to change."""

    ok: bool
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]+$", max_length=60)]
    message: Annotated[str, Field(max_length=1500)] = ""
    resolved: ResolvedSource | None = None
    bytes: int = 0
    seconds: float = 0
    chat: ChatFacts | None = None


class Progress(Shared):
    """What `GET /progress` on PROGRESS_PORT answers while a phase runs; `eta` in seconds, None while unknown."""

    phase: PhaseName
    percent: Annotated[float, Field(ge=0, le=100)]
    eta: float | None = None
    detail: str = ""
