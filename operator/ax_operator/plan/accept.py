"""Step one: is this spec one that we can work with at all?"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from ax_engines.contract import Calibration, HuggingFaceSource, Source
from ax_engines.models import CatalogueEntry
from ax_engines.recipe import Wishes
from ax_operator.api.axmodel import AXModelSpec, Engine
from ax_operator.api.conditions import ACCEPTED, Fact
from ax_operator.plan.world import Json, World


@dataclass(frozen=True, slots=True)
class Accepted:
    """A spec that passed, with its source and its catalogue entry."""

    spec: AXModelSpec
    source: Source
    entry: CatalogueEntry | None

    @property
    def trust_remote_code(self) -> bool:
        """Whether code of the model's repository may run."""
        return self.spec.trust_remote_code

    def wishes(self) -> Wishes:
        """Return what the user asks of the recipe."""
        engine = self.spec.engine or Engine()
        limits, given = engine.limits, engine.calibration
        calibration = Calibration(claim_name=given.pvc, path=given.path) if given else None
        return Wishes(
            backend=engine.backend,
            quantization=engine.quantization,
            prefer=engine.prefer,
            calibration=calibration,
            toolchain=engine.toolchain,
            tensor=engine.parallelism.tensor,
            pipeline=engine.parallelism.pipeline,
            max_batch_size=limits.max_batch_size,
            max_input_tokens=limits.max_input_tokens,
            max_total_tokens=limits.max_total_tokens,
            kv_dtype=engine.kv_cache.dtype or "auto",
            free_memory_fraction=engine.kv_cache.free_memory_fraction,
            gpu=self.spec.placement.gpu,
            trust_remote_code=self.trust_remote_code,
            cpu=self.spec.placement.pod.cpu,
            memory=self.spec.placement.pod.memory,
        )


def accept(model: Json, world: World) -> Accepted | Fact:
    """Return the typed spec, or Accepted=False with the reason and what to change."""
    try:
        spec = AXModelSpec.model_validate(model.get("spec") or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("spec", *first["loc"]))
        return _no("InvalidSpec", f"{where}: {first['msg']}")
    entry = world.catalogue.get(spec.model) if spec.model else None
    if spec.model and not entry:
        choices = ", ".join(sorted(world.catalogue))
        return _no("UnknownModel", f"spec.model {spec.model!r} is not in the catalogue: choose one of {choices}, "
                   "or name the files in spec.source instead")  # fmt: skip
    source = spec.source
    if source is None and entry is not None:
        source = Source(hugging_face=HuggingFaceSource(repo=entry.hub_id))
    if source is None:
        return _no("InvalidSpec", "spec.model or spec.source is required")
    return _allowed(spec, source, world) or Accepted(spec, source, entry)


def _allowed(spec: AXModelSpec, source: Source, world: World) -> Fact | None:
    settings = world.settings
    endpoint = (source.hugging_face and source.hugging_face.endpoint) or (source.s3 and source.s3.endpoint)
    if endpoint and endpoint.rstrip("/") not in {e.rstrip("/") for e in settings.endpoints}:
        listed = ", ".join(settings.endpoints) or "none"
        return _no("InvalidSpec", f"endpoint {endpoint} is not allowed here; the chart's `endpoints` lists {listed}")
    if source.pvc and ".." in source.pvc.path.split("/"):
        return _no("InvalidSpec", "spec.source.pvc.path must not contain ..: name a path below the claim's root")
    if spec.trust_remote_code and not settings.allow_trust_remote_code:
        return _no(
            "InvalidSpec",
            "spec.trustRemoteCode is switched off here: the chart's `allowTrustRemoteCode` must be true",
        )
    toolchain = spec.engine and spec.engine.toolchain
    if toolchain and toolchain not in {t.name for t in settings.toolchains}:
        listed = ", ".join(t.name for t in settings.toolchains) or "none"
        return _no(
            "ToolchainIncompatible",
            f"spec.engine.toolchain {toolchain!r} is not one of the chart's toolchains: {listed}",
        )
    return None


def _no(reason: str, message: str) -> Fact:
    return Fact(ACCEPTED, "False", reason, message)
