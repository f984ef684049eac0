"""What the plan looks at and what it answers: frozen data, filled by the shell.

`Seen` is one model's (or one namespace's) own objects as the cache holds them, `World` what all models share, and
`Plan` what should exist. Objects are plain manifests; `now` is Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ax_engines.hardware import Gpu, Toolchain
from ax_engines.models import CatalogueEntry
from ax_engines.tasks import Progress
from ax_operator.api import names
from ax_operator.api.axhostedapi import AXHostedAPISpec
from ax_operator.plan.machines import Machines
from ax_operator.plan.scaling import Decision, Load, Memory

Json = dict[str, Any]


class Setting(BaseModel):
    """A part of the chart's settings: frozen, camelCase-free YAML with our own names, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(Setting):
    """The claim that holds artifacts, one per namespace."""

    storage_class: str | None = None
    size: str = "500Gi"
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"] = "ReadWriteMany"
    existing_claim: str | None = None


class Settings(Setting):
    """What the chart fixes for every model."""

    namespace: str
    """The operator's and the gateway's namespace."""
    engines_image: str
    """Image of resolve, fetch, publish and sweep containers and of the OpenAI frontend."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    toolchains: tuple[Toolchain, ...] = ()
    store: StoreSettings = StoreSettings()
    engine_retention: Annotated[float, Field(ge=0)] = 7 * 86400.0
    """Seconds for which an AXEngine that no AXModel needs is kept."""
    endpoints: tuple[str, ...] = ("https://huggingface.co",)
    """Hugging Face and S3 endpoints that an author may name."""
    allow_trust_remote_code: bool = False
    bare_names: tuple[str, ...] = ()
    """Namespaces whose served names work without a prefix; `*` means all."""
    proxy: Mapping[str, str] = {}
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY of fetching containers."""
    ca_bundle: str | None = None
    """Name of a ConfigMap with `ca.crt`, copied into models' namespaces by the chart's user."""
    gpu_hour_krw: Annotated[float, Field(ge=0)] = 0
    """What a GPU costs per hour; 0 leaves prices out of scaling decisions."""
    gateway_replicas: Annotated[int, Field(ge=0)] = 1
    drain_seconds: Annotated[int, Field(ge=1)] = 300
    """Longest stream that a stopping pod finishes."""


@dataclass(frozen=True, slots=True)
class World:
    """What all models share: the chart's settings, the catalogue, the hardware, hosted APIs, served names."""

    settings: Settings
    catalogue: Mapping[str, CatalogueEntry]
    gpus: tuple[Gpu, ...] = ()
    machines: Machines = field(default_factory=Machines)
    hosted: Mapping[str, AXHostedAPISpec] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    """Hosted APIs that gateways must not use now: their budget is spent, or their key is missing."""
    refused: str | None = None
    """What an Envoy refused of its newest configuration; it keeps the last good one."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Bare served name -> `<namespace>/<name>` of the model that holds it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The objects of one model (or of one namespace's store) that carry our labels, and its live signals."""

    objects: tuple[Json, ...] = ()
    load: Load | None = None
    memory: Memory = Memory()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """AXEngine name -> what its build pod says."""
    secret: Literal["usable", "unlabelled", "missing", "unreadable"] | None = None
    """The Secret that the source names, as its metadata says; None when it names none."""
    models: tuple[tuple[Json, Seen], ...] = ()
    """For a namespace's store: its AXModels and what is seen of each."""
    takers: tuple[Json, ...] = ()
    """Pods that hold GPUs, anybody's; given where a pod found no node, for the message that says what is free."""
    rivals: tuple[tuple[Json, Seen], ...] = ()
    """For a model that the chart's change makes roll: those before it in the queue (`turns`), and what is seen of
    each."""

    def all(self, kind: str, component: str | None = None) -> list[Json]:
        """Return the objects of a kind (and of a component), by name."""
        found = [o for o in self.objects if o["kind"] == kind]
        if component:
            found = [o for o in found if labels(o).get(names.COMPONENT) == component]
        return sorted(found, key=lambda o: str(o["metadata"]["name"]))

    def get(self, kind: str, name: str) -> Json | None:
        """Return the object of that kind and name, or None."""
        return next((o for o in self.objects if o["kind"] == kind and o["metadata"]["name"] == name), None)


@dataclass(frozen=True, slots=True)
class Ref:
    """One object to delete; the uid guards against deleting its successor."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str | None = None

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Ref:
        """Return the reference of a manifest that was seen."""
        meta = obj["metadata"]
        return cls(obj["apiVersion"], obj["kind"], meta["namespace"], meta["name"], meta.get("uid"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What should exist (applied in order), what should not, the status, and when to look again."""

    children: tuple[Json, ...] = ()
    obsolete: tuple[Ref, ...] = ()
    status: Json | None = None
    """Of the model; None leaves it."""
    statuses: tuple[Json, ...] = ()
    """For a store: AXEngines (apiVersion, kind, metadata name and namespace, status)."""
    requeue_after: float | None = None
    memory: Memory = Memory()
    replicas: int | None = None
    """How many the model should have, all revisions together; None where that is not planned."""
    decision: Decision | None = None
    """What the autoscaler said of the model."""


def labels(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """Return an object's labels, which may be missing."""
    found: Mapping[str, str] = obj.get("metadata", {}).get("labels") or {}
    return found


def owner(parent: Json) -> Json:
    """Return the ownerReference that lets Kubernetes delete a child with its parent."""
    meta = parent["metadata"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": parent["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
    }
