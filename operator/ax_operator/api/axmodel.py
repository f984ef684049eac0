"""AXModel: a model to serve: which one, how many replicas, how routed; where it may run is in `placement`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ax_engines.contract import Backend, Quantization, Source
from ax_operator.api.placement import Placement
from ax_operator.api.schema import Condition, Duration, Name, Spec, rules

ServedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$", max_length=63)]


class Calibration(Spec):
    """A data set on a PersistentVolumeClaim, for formats that need a calibration pass."""

    pvc: Name
    """Name of the claim."""
    path: Annotated[str, Field(max_length=1000)] = "."
    """Folder below the claim's root."""


class Parallelism(Spec):
    """How many GPUs one replica spans."""

    tensor: Annotated[int, Field(ge=1, le=64)] | None = None
    pipeline: Annotated[int, Field(ge=1, le=64)] | None = None


@rules(
    (
        "!has(self.maxInputTokens) || !has(self.maxTotalTokens) || self.maxInputTokens < self.maxTotalTokens",
        "limits.maxInputTokens must be smaller than limits.maxTotalTokens, which also counts the answer",
    )
)
class EngineLimits(Spec):
    """Bounds of the engine; left out, the recipe takes the largest that fit."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Requests that generate at once."""
    max_input_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Longest prompt."""
    max_total_tokens: Annotated[int, Field(ge=2, le=10_000_000)] | None = None
    """Longest prompt plus answer."""


class KVCache(Spec):
    """The cache of keys and values."""

    dtype: Literal["auto", "fp8", "int8"] | None = None
    free_memory_fraction: Annotated[float, Field(ge=0.05, le=0.98)] | None = None
    """Share of the GPU memory left after the weights that the cache may take."""


@rules(
    (
        "!has(self.quantization) || self.quantization in ['auto', 'none'] || !has(self.backend)"
        " || self.backend != 'llamacpp'",
        "backend llamacpp serves GGUF files as they are: leave engine.quantization out",
    ),
    (
        "!has(self.backend) || self.backend != 'llamacpp' || !has(self.parallelism)"
        " || ((!has(self.parallelism.tensor) || self.parallelism.tensor == 1)"
        " && (!has(self.parallelism.pipeline) || self.parallelism.pipeline == 1))",
        "backend llamacpp serves from one process: leave engine.parallelism out",
    ),
)
class Engine(Spec):
    """What to build; left out, the recipe chooses and says why."""

    backend: Literal["auto"] | Backend = "auto"
    quantization: Literal["auto"] | Quantization = "auto"
    prefer: Literal["throughput", "quality"] = "throughput"
    """What `auto` looks for: most concurrent requests per GPU, or the highest precision that fits."""
    calibration: Calibration | None = None
    toolchain: Name | None = None
    """A name from the chart's list of toolchains."""
    parallelism: Parallelism = Parallelism()
    limits: EngineLimits = EngineLimits()
    kv_cache: KVCache = KVCache()


@rules(
    (
        "!has(self.minReplicas) || self.minReplicas <= (has(self.maxReplicas) ? self.maxReplicas : 1)",
        "scaling.minReplicas must not exceed scaling.maxReplicas (1 when left out)",
    ),
    (
        "!has(self.scaleToZeroAfter) || (has(self.minReplicas) && self.minReplicas == 0)",
        "scaling.scaleToZeroAfter needs scaling.minReplicas: 0",
    ),
)
class Scaling(Spec):
    """How many replicas."""

    mode: Literal["builtin", "fixed", "external"] = "builtin"
    """builtin: from queue metrics; fixed: `replicas`; external: an HPA or KEDA sets `replicas`."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Read in the modes fixed and external; `kubectl scale` writes it."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """0 allows scaling to zero. Default: 1."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Default: 1."""
    scale_to_zero_after: Duration | None = None
    """Idle time before the last replica goes; left out, it follows from the cold start."""
    target: Annotated[int, Field(ge=1, le=100)] | None = None
    """Share of a replica's slots to keep busy, in percent; left out, spare capacity follows the load."""

    @property
    def minimum(self) -> int:
        """Fewest replicas in mode builtin."""
        return 1 if self.min_replicas is None else self.min_replicas

    @property
    def maximum(self) -> int:
        """Most replicas in mode builtin."""
        return 1 if self.max_replicas is None else self.max_replicas


class Hosted(Spec):
    """A hosted API that may answer for this model."""

    api_ref: Name
    """Name of an AXHostedAPI."""


class Overflow(Spec):
    """When the hosted API helps although replicas are there."""

    max_wait: Duration | None = None
    """Longest expected wait in the engine's queue before requests overflow."""


@rules(
    (
        "(has(self.dataResidency) && self.dataResidency == 'Any') || (!has(self.hosted)"
        " && !(has(self.policy) && self.policy.startsWith('Hosted'))"
        " && !(has(self.whileUnavailable) && self.whileUnavailable == 'Hosted'))",
        "routing.dataResidency is OnPrem (the default): set it to Any, or remove every hosted choice",
    ),
    (
        "has(self.hosted) || !((has(self.policy) && self.policy.startsWith('Hosted'))"
        " || (has(self.whileUnavailable) && self.whileUnavailable == 'Hosted'))",
        "routing.hosted.apiRef is missing: a hosted policy needs the name of an AXHostedAPI",
    ),
    (
        "!has(self.policy) || self.policy != 'OnPremOnly' || !has(self.whileUnavailable)"
        " || self.whileUnavailable != 'Hosted'",
        "routing.policy OnPremOnly contradicts whileUnavailable Hosted",
    ),
    (
        "!has(self.overflow) || !has(self.overflow.maxWait) || has(self.hosted)",
        "routing.overflow.maxWait sends requests to a hosted API: name it in routing.hosted.apiRef",
    ),
)
class Routing(Spec):
    """Who answers."""

    served_names: Annotated[tuple[ServedName, ...], Field(max_length=16)] = ()
    """Names that clients may put into `model`; `<namespace>/<name>` always works."""
    hosted: Hosted | None = None
    policy: Literal["OnPremFirst", "HostedFirst", "OnPremOnly", "HostedOnly"] = "OnPremFirst"
    overflow: Overflow = Overflow()
    while_unavailable: Literal["Hosted", "Hold", "Reject"] = "Hold"
    """What happens to requests while no replica is ready."""
    hold_timeout: Duration = "300s"
    """Longest time that a request is held."""
    data_residency: Literal["OnPrem", "Any"] = "OnPrem"
    session_affinity: Literal["None", "User"] = "None"
    """User: requests with the same `user` in the body go to the same replica, unless it is much busier than others."""


@rules(
    (
        "has(self.model) || has(self.source)",
        "spec.model (a catalogue name) or spec.source (huggingFace, s3 or pvc) is required",
    ),
    (
        "!has(self.source) || [has(self.source.huggingFace), has(self.source.s3), has(self.source.pvc)]"
        ".filter(x, x).size() == 1",
        "spec.source takes exactly one of huggingFace, s3 and pvc",
    ),
    (
        "!(has(self.engineRef) && has(self.engine))",
        "spec.engineRef pins an AXEngine: leave spec.engine out",
    ),
    (
        "!has(self.trustRemoteCode) || !self.trustRemoteCode || (has(self.source) && has(self.source.huggingFace)"
        " && has(self.source.huggingFace.revision) && self.source.huggingFace.revision.matches('^[0-9a-f]{40}$'))",
        "spec.trustRemoteCode runs the repository's code: pin spec.source.huggingFace.revision to a commit",
    ),
)
class AXModelSpec(Spec):
    """A model to serve."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)] | None = None
    """A name from the catalogue; with `source` as well, the files come from there."""
    source: Source | None = None
    """Where the files lie: exactly one of huggingFace, s3 and pvc."""
    chat_template: Annotated[str, Field(max_length=65_536, min_length=1)] | None = None
    """A Jinja template that replaces the model's own."""
    tool_parser: Literal["hermes", "none"] | None = None
    """How tool calls are written by this model; left out, the catalogue says."""
    trust_remote_code: bool = False
    engine: Engine | None = None
    engine_ref: Name | None = None
    """Name of an AXEngine of this namespace to serve, whatever the recipe would say."""
    placement: Placement = Placement()
    scaling: Scaling = Scaling()
    rollout: Literal["WhenRoom", "InPlace"] = "WhenRoom"
    """WhenRoom: the old replicas serve until the new ones are ready. InPlace: replica by replica."""
    routing: Routing = Routing()


class SourceStatus(Spec):
    """The resolved source."""

    revision: str | None = None
    format: str | None = None
    bytes: int | None = None


class EngineStatus(Spec):
    """Which engine serves, and which one should."""

    name: str | None = None
    """The AXEngine that the spec asks for."""
    backend: str | None = None
    quantization: str | None = None
    serving: str | None = None
    """The AXEngine that answers now."""
    wanted: str | None = None
    """The serving revision that the spec asks for."""


class QueueStatus(Spec):
    """Requests by place, as last observed."""

    running: int = 0
    waiting: int = 0
    held: int = 0


class ScalingDecision(Spec):
    """One decision of the autoscaler."""

    time: str
    replicas: int
    why: Annotated[str, Field(max_length=300)]


class ScalingStatus(Spec):
    """The autoscaler's last words."""

    last_decisions: Annotated[tuple[ScalingDecision, ...], Field(max_length=5)] = ()


class AXModelStatus(Spec):
    """What was observed."""

    observed_generation: int | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    source: SourceStatus | None = None
    engine: EngineStatus | None = None
    replicas: int = 0
    ready_replicas: int = 0
    selector: str | None = None
    queue: QueueStatus | None = None
    scaling: ScalingStatus | None = None
    notes: Annotated[tuple[Annotated[str, Field(max_length=500)], ...], Field(max_length=16)] | None = None
    """What the recipe found worth saying: options it rejected, values it corrected."""
