"""What serves a model: one Deployment per serving revision. What stands around them is in `surroundings`.

In the pod Triton is a native sidecar and the OpenAI frontend the main container, so that Kubernetes stops the
frontend first, which drains, and Triton after it. Triton listens on loopback only.
"""

from __future__ import annotations

from collections.abc import Mapping

from ax_engines import contract
from ax_engines.hardware import Pool
from ax_engines.recipe import Recipe
from ax_operator.api import names
from ax_operator.api.axmodel import AXModelSpec
from ax_operator.api.placement import Placement
from ax_operator.plan.accept import Accepted
from ax_operator.plan.children import pod
from ax_operator.plan.children.surroundings import selector
from ax_operator.plan.machines import Reach
from ax_operator.plan.marks import marks
from ax_operator.plan.world import Json, Settings, World, labels, owner

GRACE_SECONDS = 30
"""What a pod may take beyond the longest stream: Triton's own exit."""
_QUEUE_PER_SLOT = 16
"""Requests that may wait per slot before a new one gets 429."""


def serving_options(model: Json, spec: AXModelSpec, recipe: Recipe, engine: str, tool_parser: str | None) -> str:
    """Return the JSON that Triton's model and the frontend read from AX_SERVING."""
    namespace, name = model["metadata"]["namespace"], model["metadata"]["name"]
    return contract.ServingOptions(
        model=f"{namespace}/{name}",
        served_names=spec.routing.served_names,
        engine=engine,
        backend=recipe.backend,
        slots=recipe.slots,
        queue=recipe.slots * _QUEUE_PER_SLOT,
        context_length=recipe.context_length,
        threads=recipe.threads,
        gpus=recipe.gpus,
        tool_parser=tool_parser,
        chat_template=spec.chat_template,
        trust_remote_code=recipe.trust_remote_code,
        engine_args=dict(recipe.engine_args),
    ).to_json()


def pod_template(model: Json, spec: AXModelSpec, recipe: Recipe, options: str, engine: str, world: World) -> Json:
    """Return the pod template of a serving revision; the revision is its hash."""
    settings = world.settings
    toolchain = next(t for t in settings.toolchains if t.name == recipe.toolchain)
    pool = next((p for p in world.machines.pools(Reach.of(spec.placement)) if p.name == recipe.pool), None)
    overrides = spec.placement.pod
    metadata: Json = {
        "labels": {
            **(overrides.labels or {}),
            names.MANAGED_BY: names.MANAGED_BY_VALUE,
            **selector(model),
            names.ENGINE: engine,
            **pod.store_labels(settings),
        }
    }
    if overrides.annotations:
        metadata["annotations"] = dict(overrides.annotations)
    body = pod.pod_spec(settings, names.child(model["metadata"]["name"]))
    body |= {
        "terminationGracePeriodSeconds": settings.drain_seconds + GRACE_SECONDS,
        "initContainers": [_triton(spec, recipe, options, engine, toolchain.image, settings, pool)],
        "containers": [_frontend(options, engine, settings)],
        "volumes": [
            {**pod.store_volume(settings), "name": "store"},
            {"name": "run", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi" if recipe.gpus else "1Gi"}},
        ],
    }
    body |= _placed(spec.placement, pool, settings)
    return {"metadata": metadata, "spec": body}


def _mounts(engine: str) -> list[Json]:
    return [
        {
            "name": "store",
            "mountPath": f"{contract.STORE_MOUNT}/{engine}",
            "subPath": engine,
            "readOnly": True,
        },
        {"name": "run", "mountPath": "/run/ax"},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  the pod's own emptyDir
    ]


def _triton(
    spec: AXModelSpec,
    recipe: Recipe,
    options: str,
    engine: str,
    image: str,
    settings: Settings,
    pool: Pool | None,
) -> Json:
    overrides = spec.placement.pod
    requests = {"cpu": recipe.cpu_request, "memory": recipe.memory_request}
    limits = {"memory": recipe.memory_request}
    if recipe.gpus:
        resource = pool.resource if pool and pool.resource else names.GPU_RESOURCE
        requests[resource] = limits[resource] = str(recipe.gpus)
    env = [{"name": key, "value": value} for key, value in sorted((overrides.env or {}).items())]
    env += [
        {"name": contract.SERVING_ENV, "value": options},
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
    ]
    return {
        "name": "triton",
        "image": image,
        "imagePullPolicy": settings.pull_policy,
        "restartPolicy": "Always",
        "command": ["python3", "-m", "ax_engines.triton"],
        "env": env,
        "resources": {"requests": requests, "limits": limits},
        "securityContext": pod.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*_mounts(engine), {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
    }


def _frontend(options: str, engine: str, settings: Settings) -> Json:
    def probe(path: str, period: int, failures: int) -> Json:
        request = {"path": path, "port": names.PORT_HTTP, "scheme": "HTTP"}
        return {"httpGet": request, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5}

    return {
        "name": "frontend",
        "image": settings.engines_image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["python3", "-m", "ax_engines", "openai"],
        "env": [
            {"name": contract.SERVING_ENV, "value": options},
            {"name": "AX_DRAIN_SECONDS", "value": str(settings.drain_seconds)},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
        ],
        "ports": [
            {"name": names.PORT_HTTP, "containerPort": contract.FRONTEND_PORT, "protocol": "TCP"},
            {"name": names.PORT_METRICS, "containerPort": contract.METRICS_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": probe("/health/ready", 2, 2),
        "livenessProbe": probe("/health/live", 20, 6),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": pod.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(engine),
    }


def _placed(placement: Placement, pool: Pool | None, settings: Settings) -> Json:
    out: Json = {}
    node_selector = {**dict(pool.node_selector if pool else ()), **(placement.node_selector or {})}
    if node_selector:
        out["nodeSelector"] = node_selector
    tolerations = [t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in placement.tolerations or ()]
    tolerations += tolerations_for(pool)
    if tolerations:
        out["tolerations"] = tolerations
    if placement.priority_class_name:
        out["priorityClassName"] = placement.priority_class_name
    if placement.runtime_class_name:
        out["runtimeClassName"] = placement.runtime_class_name
    affinity: Json = {str(kind): rules for kind, rules in (placement.pod.affinity or {}).items()}
    affinity |= pod.store_affinity(settings)
    if affinity:
        out["affinity"] = affinity
    if placement.pod.topology_spread_constraints:
        out["topologySpreadConstraints"] = [dict(c) for c in placement.pod.topology_spread_constraints]
    return out


def tolerations_for(pool: Pool | None) -> list[Json]:
    """Return what a pod must tolerate to run on the pool's nodes."""
    return [
        {"key": key, "operator": "Equal", "value": value, "effect": effect}
        if value
        else {"key": key, "operator": "Exists", "effect": effect}
        for key, value, effect in (pool.taints if pool else ())
    ]


def wanted_deployment(
    model: Json, accepted: Accepted, recipe: Recipe, engine: str, replicas: int, world: World
) -> Json:
    """Return the Deployment that a recipe asks for, with the labels that say why it was made."""
    spec = accepted.spec
    options = serving_options(model, spec, recipe, engine, accepted.tool_parser)
    template = pod_template(model, spec, recipe, options, engine, world)
    return deployment(model, engine, template, replicas, marks(spec, world.settings, recipe.toolchain))


def deployment(model: Json, engine: str, template: Json, replicas: int, why: Mapping[str, str]) -> Json:
    """Return the Deployment of one serving revision; its name and labels carry the revision."""
    namespace, name = model["metadata"]["namespace"], model["metadata"]["name"]
    revision = contract.short_hash(template, 8)
    extra = {names.MODEL: name, names.ENGINE: engine, names.REVISION: revision, **why}
    match = {**selector(model), names.REVISION: revision}
    labelled = {
        **template,
        "metadata": {
            **template["metadata"],
            "labels": {**template["metadata"]["labels"], names.REVISION: revision},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": pod.meta(
            names.child(name, revision), namespace, names.COMPONENT_SERVING, extra=extra, owners=[owner(model)]
        ),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": match},
            "template": labelled,
        },
    }


def rescaled(seen: Json, replicas: int) -> Json:
    """Return a Deployment that was seen, with other replicas: an old revision, whose recipe is gone."""
    meta = seen["metadata"]
    kept = {k: meta[k] for k in ("name", "namespace", "labels", "ownerReferences") if k in meta}
    return {
        "apiVersion": seen["apiVersion"],
        "kind": seen["kind"],
        "metadata": kept,
        "spec": {**seen["spec"], "replicas": replicas},
    }


def revision_of(deployment: Mapping[str, object]) -> str:
    """Return the serving revision that a Deployment carries."""
    return labels(deployment).get(names.REVISION, "")
