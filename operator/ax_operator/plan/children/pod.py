"""What all our pods share: the restricted security context, the store's volume, a task's container.

Everything a pod needs comes from the chart's settings and the plan; an author's only say is AXModel.spec.placement.
Quantities, ports and strings are written as the API server returns them, so that a second plan finds no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ax_engines import contract, tasks
from ax_operator.api import names
from ax_operator.plan.world import Json, Settings

USER = 65532


def meta(
    name: str,
    namespace: str,
    component: str,
    *,
    extra: Mapping[str, str] | None = None,
    owners: Sequence[Json] = (),
) -> Json:
    """Return metadata with our labels."""
    labels = {names.MANAGED_BY: names.MANAGED_BY_VALUE, names.COMPONENT: component, **(extra or {})}
    found: Json = {"name": name, "namespace": namespace, "labels": labels}
    if owners:
        found["ownerReferences"] = list(owners)
    return found


def pod_security() -> Json:
    """Return the pod's part of what PodSecurity `restricted` asks for."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Json:
    """Return a container's part of it."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def pod_spec(settings: Settings, account: str) -> Json:
    """Return the fields that every pod of ours starts from."""
    spec: Json = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
    }
    if settings.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    return spec


def account(name: str, namespace: str, component: str, owners: Sequence[Json], extra: Mapping[str, str]) -> Json:
    """Return a ServiceAccount without a token and without rights: pods of ours run as nobody."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta(name, namespace, component, extra=extra, owners=owners),
        "automountServiceAccountToken": False,
    }


def store_claim(settings: Settings) -> str:
    """Return the name of the claim that holds artifacts."""
    return settings.store.existing_claim or names.STORE_CLAIM


def store_volume(settings: Settings) -> Json:
    """Return the volume of the namespace's engine store."""
    return {"name": "store", "persistentVolumeClaim": {"claimName": store_claim(settings)}}


def store_labels(settings: Settings) -> dict[str, str]:
    """Return the label by which pods that use the store find each other."""
    return {names.STORE: store_claim(settings)}


def store_affinity(settings: Settings) -> Json:
    """Return the affinity that keeps all users of a ReadWriteOnce store on one node, else nothing.

    The term matches the pod itself, which lets the first one start anywhere.
    """
    if settings.store.access_mode == "ReadWriteMany":
        return {}
    term = {"labelSelector": {"matchLabels": store_labels(settings)}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def task_container(
    settings: Settings,
    name: str,
    task: str,
    *,
    image: str | None = None,
    mounts: Sequence[Json] = (),
    resources: Json | None = None,
    network: bool = False,
) -> Json:
    """Return a container that runs `python3 -m ax_engines <name>` on a task and ends with a TaskResult.

    network: the container fetches from outside; it alone gets the proxy and the CA bundle.
    """
    env = [
        {"name": tasks.TASK_ENV, "value": task},
        {"name": "HOME", "value": "/tmp"},  # noqa: S108  the pod's own emptyDir
    ]
    all_mounts = [*mounts, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if network:
        env += [{"name": key, "value": value} for key, value in sorted(settings.proxy.items())]
        if settings.ca_bundle:
            env.append({"name": "SSL_CERT_FILE", "value": "/etc/ax/ca/ca.crt"})
            all_mounts.append({"name": "ca", "mountPath": "/etc/ax/ca", "readOnly": True})
    return {
        "name": name,
        "image": image or settings.engines_image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["python3", "-m", "ax_engines", name],
        "env": env,
        "resources": resources or {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": all_mounts,
    }


def task_volumes(settings: Settings, source: contract.Source | None, *, network: bool) -> tuple[list[Json], list[Json]]:
    """Return a task pod's volumes, and the mounts by which the fetching container reaches the source."""
    volumes: list[Json] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[Json] = []
    if network and settings.ca_bundle:
        volumes.append({"name": "ca", "configMap": {"name": settings.ca_bundle}})
    if source and source.pvc:
        claim = {"claimName": source.pvc.claim_name, "readOnly": True}
        volumes.append({"name": "source", "persistentVolumeClaim": claim})
        mounts.append({"name": "source", "mountPath": contract.SOURCE_MOUNT, "readOnly": True})
    if source and source.secret:
        volumes.append({"name": "secret", "secret": {"secretName": source.secret}})
        mounts.append({"name": "secret", "mountPath": contract.SECRET_MOUNT, "readOnly": True})
    return volumes, mounts


def job(metadata: Json, template_labels: Mapping[str, str], spec: Json) -> Json:
    """Return a Job whose pods are replaced with Kubernetes' own exponential back-off, one at a time.

    A finished one stays for a day, for its logs.
    """
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 6,
            "ttlSecondsAfterFinished": 86400,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": {**metadata["labels"], **template_labels}},
                "spec": {**spec, "restartPolicy": "Never"},
            },
        },
    }
