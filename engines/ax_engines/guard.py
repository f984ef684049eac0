"""Compares an artifact's manifest with what is about to serve it. Pure.

A TensorRT engine runs only on the compute capability and library version that built it, with the ranks that it was
built for; serving another one would crash in a loop. So whoever serves asks first, and shows both values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ax_engines.contract import CONTRACT_VERSION, ArtifactSpec, Manifest


@dataclass(frozen=True)
class Expected:
    """What the artifact must be; None leaves a fact open. `sm` is 90 for compute capability 9.0."""

    engine: str | None = None
    artifact: str | None = None
    quantization: str | None = None
    revision: str | None = None
    architecture: str | None = None
    sm: int | None = None
    tensorrt_llm: str | None = None
    tensor: int | None = None
    pipeline: int | None = None

    @classmethod
    def of(cls, engine: str, spec: ArtifactSpec) -> Expected:
        """Return what an AXEngine's spec promises."""
        target = spec.target
        return cls(
            engine=engine,
            artifact=spec.artifact,
            quantization=spec.quantization,
            revision=spec.revision,
            architecture=spec.architecture,
            sm=target.sm if target else None,
            tensorrt_llm=target.tensorrt_llm if target else None,
            tensor=target.tensor if target else None,
            pipeline=target.pipeline if target else None,
        )


@dataclass(frozen=True)
class Mismatch:
    """One fact in which the artifact is not what is needed."""

    what: str
    artifact: object
    needed: object

    def __str__(self) -> str:
        """Say it in a sentence's part, with both values."""
        return f"{self.what} is {self.artifact} in the artifact but {self.needed} is needed"


def check_manifest(manifest: Manifest, expected: Expected) -> list[Mismatch]:
    """Return every fact of the manifest that differs from what is expected; empty means: serve it.

    SM, version and ranks matter only for artifacts that were compiled for a target.
    """
    found = check_spec(manifest, expected)
    if manifest.contract != CONTRACT_VERSION:
        found.insert(0, Mismatch("contract version", manifest.contract, CONTRACT_VERSION))
    if expected.engine not in (None, manifest.engine):
        found.insert(0, Mismatch("engine", manifest.engine, expected.engine))
    return found


def check_spec(artifact: Manifest | ArtifactSpec, expected: Expected) -> list[Mismatch]:
    """Return what differs in an artifact that may not be built yet; its name is not compared."""
    found = []
    for field in fields(expected):
        needed = getattr(expected, field.name)
        of_target = field.name in ("sm", "tensorrt_llm", "tensor", "pipeline")
        if field.name == "engine" or needed is None or (of_target and artifact.target is None):
            continue
        actual = getattr(artifact.target if of_target else artifact, field.name)
        if actual != needed:
            found.append(Mismatch(field.name, actual, needed))
    return found
