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


class PodStart(Spec):
    """How long one pod took from its node to its first answer, in seconds."""

    pod: Annotated[str, Field(max_length=253)]
    scheduled: str
    """When it got its node: waiting for a GPU says nothing about the engine."""
    image_seconds: float
    """Until its image was there and Triton ran."""
    ready_seconds: float
    """Until it answered: image, load and warm-up."""


class ColdStart(Spec):
    """What pods of this engine needed until they answered."""

    ready_seconds: float | None = None
    """Of the slowest of `last`; the autoscaler counts on it."""
    last: Annotated[tuple[PodStart, ...], Field(max_length=5)] = ()
    """The pods that got a node last."""


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
