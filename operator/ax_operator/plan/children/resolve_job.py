"""The Job that turns a model's source into exact bytes, and the ConfigMap that keeps its answer."""

from __future__ import annotations

from ax_engines import contract, tasks
from ax_operator.api import names
from ax_operator.plan.children import pod
from ax_operator.plan.world import Json, Settings, owner

RESOLVED_KEY = "resolved.json"


def source_hash(source: contract.Source, *, trust_remote_code: bool) -> str:
    """Return what names the resolve Job and its ConfigMap: it changes with the source's spec and with nothing else."""
    return contract.short_hash([source.model_dump(mode="json", exclude_none=True), trust_remote_code], 8)


def resolve_objects(model: Json, source: contract.Source, settings: Settings, *, trust_remote_code: bool) -> list[Json]:
    """Return the resolve Job; it has no GPU, no API token, and the source's Secret in its one container only."""
    namespace, name = model["metadata"]["namespace"], model["metadata"]["name"]
    key = source_hash(source, trust_remote_code=trust_remote_code)
    extra = {names.MODEL: name, names.SOURCE: key}
    task = tasks.ResolveTask(source=source, trust_remote_code=trust_remote_code).to_json()
    network = source.pvc is None
    volumes, mounts = pod.task_volumes(settings, source, network=network)
    spec = pod.pod_spec(settings, names.child(name))
    spec["containers"] = [pod.task_container(settings, "resolve", task, mounts=mounts, network=network)]
    spec["volumes"] = volumes
    metadata = pod.meta(
        names.child(name, f"src-{key}"), namespace, names.COMPONENT_RESOLVE, extra=extra, owners=[owner(model)]
    )
    return [pod.job(metadata, {}, spec)]


def resolved_map(model: Json, key: str, resolved: contract.ResolvedSource) -> Json:
    """Return the immutable ConfigMap that holds what the resolve Job found."""
    namespace, name = model["metadata"]["namespace"], model["metadata"]["name"]
    extra = {names.MODEL: name, names.SOURCE: key}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pod.meta(
            names.child(name, f"src-{key}"), namespace, names.COMPONENT_RESOLVE, extra=extra, owners=[owner(model)]
        ),
        "immutable": True,
        "data": {RESOLVED_KEY: resolved.to_json()},
    }
