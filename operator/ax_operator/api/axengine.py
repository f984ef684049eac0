"""AXEngine: one artifact, immutable, named by its digest and shared by every AXModel that needs the same bytes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ax_engines.contract import ArtifactSpec, ChatFacts
from ax_operator.api.schema import Condition, Spec, rules


@rules(
    ("self == oldSelf", "an AXEngine is immutable: its name is the digest of its spec; create another one"),
    (
        "[has(self.source.huggingFace), has(self.source.s3), has(self.source.pvc)].filter(x, x).size() == 1",
        "spec.source takes exactly one of huggingFace, s3 and pvc",
    ),
    (
        "(self.artifact == 'tensorrt') == has(self.target)",
        "spec.target says what a tensorrt artifact is compiled for; others have none",
    ),
)
class AXEngineSpec(ArtifactSpec):
    """All that decides an artifact's bytes, and how to fetch and build it."""


class BuildProgress(Spec):
    """How far the build is."""

    phase: str | None = None
    percent: float | None = None
    eta_seconds: float | None = None
    detail: Annotated[str, Field(max_length=300)] | None = None


class ArtifactStatus(Spec):
    """The published artifact."""

    bytes: int = 0
    build_seconds: float = 0
    chat: ChatFacts | None = None


class ColdStart(Spec):
    """Seconds that pods of this engine needed, slowest of the last ones."""

    ready_seconds: float | None = None


class AXEngineStatus(Spec):
    """What was observed."""

    observed_generation: int | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    digest: str | None = None
    progress: BuildProgress | None = None
    artifact: ArtifactStatus | None = None
    failures: int = 0
    """Builds that failed in a row; the next one starts after a back-off."""
    cold_start: ColdStart | None = None
