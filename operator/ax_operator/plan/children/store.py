"""The engine store of a namespace: its claim, the list of what lies in it, and the Job that sweeps it."""

from __future__ import annotations

from collections.abc import Iterable

from ax_engines import contract, tasks
from ax_operator.api import names
from ax_operator.plan.children import pod
from ax_operator.plan.world import Json, Settings

SWEEP = "ax-sweep"
INVENTORY_KEY = "engines"


def claim(namespace: str, settings: Settings) -> Json:
    """Return the claim that holds artifacts; nobody owns it, so it outlives every model."""
    store = settings.store
    spec: Json = {"accessModes": [store.access_mode], "resources": {"requests": {"storage": store.size}}}
    if store.storage_class is not None:
        spec["storageClassName"] = store.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": pod.meta(names.STORE_CLAIM, namespace, names.COMPONENT_STORE),
        "spec": spec,
    }


def inventory(namespace: str, engines: Iterable[str]) -> Json:
    """Return the ConfigMap that names every engine whose bytes may lie in the store.

    It is written before a build starts and shortened after a sweep, so that bytes are found again whatever was
    deleted while the operator was away.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pod.meta(names.STORE_INVENTORY, namespace, names.COMPONENT_STORE),
        "data": {INVENTORY_KEY: "\n".join(sorted(engines))},
    }


def sweep_objects(namespace: str, remove: Iterable[str], settings: Settings) -> list[Json]:
    """Return the Job that removes the named engines' folders, and its account."""
    gone = tuple(sorted(remove))[:500]
    task = tasks.SweepTask(remove=gone).to_json()
    volumes, _ = pod.task_volumes(settings, None, network=False)
    spec = pod.pod_spec(settings, SWEEP)
    mount = {"name": "store", "mountPath": contract.STORE_MOUNT}
    spec["containers"] = [pod.task_container(settings, "sweep", task, mounts=[mount])]
    spec["volumes"] = [*volumes, pod.store_volume(settings)]
    if affinity := pod.store_affinity(settings):
        spec["affinity"] = affinity
    metadata = pod.meta(f"{SWEEP}-{contract.short_hash(gone, 8)}", namespace, names.COMPONENT_SWEEP)
    return [
        pod.account(SWEEP, namespace, names.COMPONENT_SWEEP, (), {}),
        pod.job(metadata, pod.store_labels(settings), spec),
    ]
