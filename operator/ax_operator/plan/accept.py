"""Step one: is this spec one that we can work with at all?"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import ValidationError

from ax_engines.contract import Calibration, HuggingFaceSource, Source
from ax_engines.models import CatalogueEntry
from ax_engines.recipe import Wishes
from ax_engines.recipe.quantities import canonical
from ax_operator.api.axmodel import AXModelSpec, Engine
from ax_operator.api.conditions import ACCEPTED, Fact
from ax_operator.plan.machines import Reach
from ax_operator.plan.world import Json, World


@dataclass(frozen=True, slots=True)
class Accepted:
    """A spec that passed, with its source and its catalogue entry."""

    spec: AXModelSpec
    source: Source
    entry: CatalogueEntry | None

    @property
    def trust_remote_code(self) -> bool:
        """Whether code of the model's repository runs: the author or the catalogue says so."""
        return self.spec.trust_remote_code or (self.entry is not None and self.entry.trust_remote_code)

    @property
    def tool_parser(self) -> str | None:
        """The parser of tool calls: the spec's, else the catalogue's; `none` switches it off."""
        default = self.entry.tool_parser if self.entry else None
        chosen = self.spec.tool_parser or default
        return None if chosen == "none" else chosen

    @property
    def reach(self) -> Reach:
        """Which nodes the model's pods may use."""
        return Reach.of(self.spec.placement)

    def wishes(self) -> Wishes:
        """Return what the user asks of the recipe."""
        engine = self.spec.engine or Engine()
        limits, given, pod = engine.limits, engine.calibration, self.spec.placement.pod
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
            cpu=pod.cpu and canonical(pod.cpu),
            memory=pod.memory and canonical(pod.memory),
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
    accepted = Accepted(spec, source, entry)
    return _allowed(spec, source, world) or _code_allowed(accepted, world) or accepted


def _allowed(spec: AXModelSpec, source: Source, world: World) -> Fact | None:
    settings = world.settings
    endpoint = (source.hugging_face and source.hugging_face.endpoint) or (source.s3 and source.s3.endpoint)
    if endpoint and endpoint.rstrip("/") not in {e.rstrip("/") for e in settings.endpoints}:
        listed = ", ".join(settings.endpoints) or "none"
        return _no("InvalidSpec", f"endpoint {endpoint} is not allowed here; the chart's `endpoints` lists {listed}")
    if source.pvc and ".." in source.pvc.path.split("/"):
        return _no("InvalidSpec", "spec.source.pvc.path must not contain ..: name a path below the claim's root")
    routing = spec.routing
    hosted = routing.hosted or routing.policy.startswith("Hosted") or routing.while_unavailable == "Hosted"
    if hosted and routing.data_residency != "Any":
        message = "spec.routing.dataResidency is OnPrem: set it to Any, or remove every hosted choice"
        return _no("InvalidSpec", message)
    toolchain = spec.engine and spec.engine.toolchain
    if toolchain and toolchain not in {t.name for t in settings.toolchains}:
        listed = ", ".join(t.name for t in settings.toolchains) or "none"
        return _no(
            "ToolchainIncompatible",
            f"spec.engine.toolchain {toolchain!r} is not one of the chart's toolchains: {listed}",
        )
    return None


def _code_allowed(accepted: Accepted, world: World) -> Fact | None:
    """Code of a repository runs only where the chart allows it, and only what a commit names."""
    spec, source = accepted.spec, accepted.source
    if not accepted.trust_remote_code or spec.routing.policy == "HostedOnly":
        return None
    asked = "spec.trustRemoteCode" if spec.trust_remote_code else f"model {spec.model}, which runs code of its own,"
    if not world.settings.allow_trust_remote_code:
        return _no("InvalidSpec", f"{asked} is switched off here: the chart's `allowTrustRemoteCode` must be true")
    hub = source.hugging_face
    if hub is None or not re.fullmatch(r"[0-9a-f]{40}", hub.revision):
        repo = hub.repo if hub else accepted.entry.hub_id if accepted.entry else "owner/name"
        message = f"{asked} has to be pinned: set spec.source.huggingFace to {{repo: {repo}, revision: <commit>}}"
        return _no("InvalidSpec", f"{message}, with the 40 digits of the commit whose code was read")
    return None


def _no(reason: str, message: str) -> Fact:
    return Fact(ACCEPTED, "False", reason, message)
