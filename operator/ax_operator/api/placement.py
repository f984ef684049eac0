"""Where a model's pods may run, and what of them an author may set: the part of AXModel that speaks of nodes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ax_operator.api.schema import Label, LabelKey, Name, Spec, rules

Quantity = Annotated[
    str,
    Field(
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
        max_length=32,
        coerce_numbers_to_str=True,
        json_schema_extra={"x-kubernetes-int-or-string": True, "minimum": 0},
    ),
]
AffinityKind = Literal["nodeAffinity", "podAffinity", "podAntiAffinity"]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]


@rules(
    (
        "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
        "tolerations: operator Exists takes no value",
    ),
    (
        "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
        "tolerations: without a key the operator must be Exists",
    ),
    (
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        "tolerations: tolerationSeconds needs effect NoExecute",
    ),
)
class Toleration(Spec):
    """As in a pod."""

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: Label | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None


@rules(
    (
        "!has(self.env) || self.env.all(k, !(k.startsWith('AX_') || k.startsWith('LD_') || k.startsWith('PYTHON')))",
        "placement.pod.env: names that start with AX_, LD_ or PYTHON belong to the operator",
    ),
    (
        "!has(self.labels) || self.labels.all(k, !(k.contains('axmodel.io/') || k.contains('app.kubernetes.io/')))",
        "placement.pod.labels: axmodel.io/ and app.kubernetes.io/ keys belong to the operator",
    ),
)
class PodOverrides(Spec):
    """The parts of a serving pod that an author may set; the list is closed."""

    labels: Annotated[dict[LabelKey, Label], Field(max_length=16)] | None = None
    annotations: Annotated[dict[LabelKey, Annotated[str, Field(max_length=1000)]], Field(max_length=16)] | None = None
    env: Annotated[dict[EnvName, Annotated[str, Field(max_length=1000)]], Field(max_length=32)] | None = None
    """Literal environment variables of the engine's container."""
    cpu: Quantity | None = None
    memory: Quantity | None = None
    affinity: dict[AffinityKind, dict[str, Any]] | None = None
    """As in a pod."""
    topology_spread_constraints: Annotated[tuple[dict[str, Any], ...], Field(max_length=8)] | None = None


class Placement(Spec):
    """Where pods may run."""

    gpu: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)] = "auto"
    """A product as in the node label nvidia.com/gpu.product, or auto."""
    node_selector: Annotated[dict[LabelKey, Label], Field(max_length=16)] | None = None
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] | None = None
    priority_class_name: Name | None = None
    runtime_class_name: Name | None = None
    pod: PodOverrides = PodOverrides()
