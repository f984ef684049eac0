"""The Job that makes one artifact: a container per phase, in order, so that the phase is seen from outside."""

from __future__ import annotations

from ax_engines import contract, tasks
from ax_engines.hardware import Pool
from ax_engines.recipe.quantities import mebibytes
from ax_operator.api import names
from ax_operator.plan.children import pod
from ax_operator.plan.children.serving import tolerations_for
from ax_operator.plan.machines import Reach
from ax_operator.plan.world import Json, Settings, World, owner

_GPU_PHASES = ("quantize", "compile")
_HOST_MIB = 4096
"""Host memory of a build's programs beside the model: libraries, CUDA's context."""


def build_objects(engine: Json, spec: contract.ArtifactSpec, reach: Reach, world: World) -> list[Json]:
    """Return the build Job of an AXEngine, its account, and the policy that lets only the operator ask for progress.

    Only the container that fetches sees the source, its Secret and the network's proxy; only the phases that need
    GPUs ask for them, on a node whose GPUs are those that will serve.

    reach: where the model's pods may run that wants the engine; a build on GPUs runs there too.
    """
    settings, namespace, name = world.settings, engine["metadata"]["namespace"], engine["metadata"]["name"]
    pool = _pool(spec, reach, world)
    task = tasks.BuildTask(engine=name, spec=spec).to_json()
    network = spec.source.pvc is None
    volumes, source_mounts = pod.task_volumes(settings, spec.source, network=network)
    volumes.append(pod.store_volume(settings))
    store = {"name": "store", "mountPath": contract.STORE_MOUNT}
    calibration = []
    if spec.calibration:
        claim = {"claimName": spec.calibration.claim_name, "readOnly": True}
        volumes.append({"name": "calibration", "persistentVolumeClaim": claim})
        calibration = [{"name": "calibration", "mountPath": contract.CALIBRATION_MOUNT, "readOnly": True}]
    containers = []
    for phase in spec.phases or (contract.Phase(name="fetch"), contract.Phase(name="publish")):
        heavy = phase.name in _GPU_PHASES
        mounts = [store, *(source_mounts if phase.name == "fetch" else ()), *(calibration if heavy else ())]
        container = pod.task_container(
            settings,
            phase.name,
            task,
            image=_image(spec, world) if heavy else None,
            mounts=mounts,
            resources=_gpu_resources(spec, pool) if heavy and spec.gpus else None,
            network=network and phase.name == "fetch",
        )
        container["ports"] = [{"name": "progress", "containerPort": tasks.PROGRESS_PORT, "protocol": "TCP"}]
        containers.append(container)
    pod_spec = pod.pod_spec(settings, name)
    pod_spec["initContainers"], pod_spec["containers"] = containers[:-1], containers[-1:]
    pod_spec["volumes"] = volumes
    if affinity := pod.store_affinity(settings):
        pod_spec["affinity"] = affinity
    _place(pod_spec, spec, reach, pool)
    extra, owners = {names.ENGINE: name}, [owner(engine)]
    metadata = pod.meta(name, namespace, names.COMPONENT_BUILD, extra=extra, owners=owners)
    return [
        pod.account(name, namespace, names.COMPONENT_BUILD, owners, extra),
        _progress_policy(engine, settings),
        pod.job(metadata, pod.store_labels(settings), pod_spec),
    ]


def _image(spec: contract.ArtifactSpec, world: World) -> str | None:
    return next((t.image for t in world.settings.toolchains if t.name == spec.toolchain), None)


def _pool(spec: contract.ArtifactSpec, reach: Reach, world: World) -> Pool | None:
    if not spec.gpus:
        return None
    return next((p for p in world.machines.pools(reach) if p.gpu_product == spec.gpu_product), None)


def _gpu_resources(spec: contract.ArtifactSpec, pool: Pool | None) -> Json:
    """Return what quantize and compile ask for: all ranks' GPUs, and memory for the whole model beside libraries."""
    resource = pool.resource if pool and pool.resource else names.GPU_RESOURCE
    gpus = {resource: str(spec.gpus)}
    memory = mebibytes(_HOST_MIB + spec.bytes * 6 // 5 // 2**20)
    return {"requests": {"cpu": "500m", "memory": memory, **gpus}, "limits": dict(gpus)}


def _place(pod_spec: Json, spec: contract.ArtifactSpec, reach: Reach, pool: Pool | None) -> None:
    """Put a build that needs GPUs onto a node of the pool that will serve; others go where there is room."""
    if not spec.gpus:
        return
    selector = {**dict(reach.node_selector), **dict(pool.node_selector if pool else ())}
    if not pool and spec.gpu_product:
        selector[names.GPU_PRODUCT] = spec.gpu_product
    if selector:
        pod_spec["nodeSelector"] = selector
    if tolerations := reach.manifests() + tolerations_for(pool):
        pod_spec["tolerations"] = tolerations
    if reach.runtime_class:
        pod_spec["runtimeClassName"] = reach.runtime_class


def _progress_policy(engine: Json, settings: Settings) -> Json:
    namespace, name = engine["metadata"]["namespace"], engine["metadata"]["name"]
    operators = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}},
        "podSelector": {"matchLabels": {names.COMPONENT: names.COMPONENT_OPERATOR}},
    }
    port = {"port": tasks.PROGRESS_PORT, "protocol": "TCP"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": pod.meta(
            name, namespace, names.COMPONENT_BUILD, extra={names.ENGINE: name}, owners=[owner(engine)]
        ),
        "spec": {
            "podSelector": {"matchLabels": {names.ENGINE: name, names.COMPONENT: names.COMPONENT_BUILD}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [operators], "ports": [port]}],
        },
    }
