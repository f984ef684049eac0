"""Nodes and pods that are only simulated, for GPUs that this machine has not.

A simulated node carries the annotation `kwok.x-k8s.io/node: fake`. Pods on it behave as their annotations say:

    local.axmodel.io/ready-after      how long until the pod is Running and Ready (default: at once)
    local.axmodel.io/complete-after   a Job's pod succeeds this long after it became Ready; without it, it runs on
    local.axmodel.io/exit-code        with that: what its containers exit with (default 0; others make it Failed)
    local.axmodel.io/message          with that: the termination message of its containers

Durations are Go's, such as `2s`. The pods' addresses answer nothing.
"""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import yaml

PREFIX = "local.axmodel.io"
READY_AFTER = f"{PREFIX}/ready-after"
COMPLETE_AFTER = f"{PREFIX}/complete-after"
EXIT_CODE = f"{PREFIX}/exit-code"
MESSAGE = f"{PREFIX}/message"


class GpuNode(TypedDict):
    """One simulated node; the labels follow NVIDIA's GPU feature discovery."""

    name: str
    product: str
    """As in `nvidia.com/gpu.product`, such as `NVIDIA-H100-80GB-HBM3`."""
    memory: int
    """MiB per GPU."""
    count: int
    major: int
    """CUDA compute capability."""
    minor: int
    taint: NotRequired[bool]
    """Whether only pods that tolerate `nvidia.com/gpu` may run there."""
    labels: NotRequired[Mapping[str, str]]


def node_manifest(node: GpuNode) -> dict[str, Any]:
    """Return a node as the API server takes it; kwok makes it Ready."""
    gpus = str(node["count"])
    room = {"cpu": "128", "memory": "1Ti", "pods": "110", "ephemeral-storage": "10Ti", "nvidia.com/gpu": gpus}
    labels = {
        "kubernetes.io/hostname": node["name"],
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "feature.node.kubernetes.io/pci-10de.present": "true",
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": gpus,
        "nvidia.com/gpu.product": node["product"],
        "nvidia.com/gpu.memory": str(node["memory"]),
        "nvidia.com/gpu.compute.major": str(node["major"]),
        "nvidia.com/gpu.compute.minor": str(node["minor"]),
        **node.get("labels", {}),
    }
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if node.get("taint") else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node["name"], "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": taints},
        "status": {"capacity": room, "allocatable": room},
    }


_CONDITIONS = """\
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ or $.metadata.creationTimestamp Now | Quote }}
{{ end }}
"""

_NODE_READY = (
    _CONDITIONS
    + """\
addresses:
- type: InternalIP
  address: {{ NodeIP | Quote }}
- type: Hostname
  address: {{ .metadata.name | Quote }}
nodeInfo:
  architecture: amd64
  bootID: ""
  containerRuntimeVersion: {{ printf "kwok-%s" Version }}
  kernelVersion: simulated
  kubeProxyVersion: simulated
  kubeletVersion: simulated
  machineID: ""
  operatingSystem: linux
  osImage: simulated
  systemUUID: ""
phase: Running
"""
)

_POD_RUNNING = """\
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
conditions:
{{ range $kind := list "PodReadyToStartContainers" "Initialized" "ContainersReady" "Ready" }}
- type: {{ $kind }}
  status: "True"
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
{{ if .spec.initContainers }}
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ .image | Quote }}
  ready: true
  restartCount: 0
  {{ if eq (or .restartPolicy "") "Always" }}
  started: true
  state: {running: {startedAt: {{ $now | Quote }}}}
  {{ else }}
  started: false
  state:
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}
  {{ end }}
{{ end }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ .image | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""

_POD_ENDED = """\
{{ $now := Now }}
{{ $notes := .metadata.annotations }}
{{ $code := or (index $notes "local.axmodel.io/exit-code") "0" }}
{{ $began := or .status.startTime $now }}
phase: {{ if eq $code "0" }}Succeeded{{ else }}Failed{{ end }}
conditions:
{{ range $kind := list "ContainersReady" "Ready" }}
- type: {{ $kind }}
  status: "False"
  reason: PodCompleted
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ .image | Quote }}
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      exitCode: {{ $code }}
      reason: {{ if eq $code "0" }}Completed{{ else }}Error{{ end }}
      message: {{ or (index $notes "local.axmodel.io/message") "" | Quote }}
      startedAt: {{ $began | Quote }}
      finishedAt: {{ $now | Quote }}
{{ end }}
"""


def _matches(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def _delay(annotation: str) -> dict[str, Any]:
    return {"durationFrom": {"expressionFrom": f'.metadata.annotations["{annotation}"]'}}


def _stage(name: str, kind: str, when: list[dict[str, Any]], then: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": when},
            "next": then,
            **more,
        },
    }


_ALIVE = _matches(".metadata.deletionTimestamp", "DoesNotExist")
_NODE_IS_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'

STAGES = yaml.safe_dump_all(
    [
        _stage("node-ready", "Node", [_matches(_NODE_IS_READY, "NotIn", "True")], {"statusTemplate": _NODE_READY}),
        # The lease says that the node lives; its conditions are only refreshed now and then.
        _stage(
            "node-heartbeat",
            "Node",
            [_matches(_NODE_IS_READY, "In", "True")],
            {"statusTemplate": _CONDITIONS},
            delay={"durationMilliseconds": 300_000, "jitterDurationMilliseconds": 360_000},
        ),
        _stage(
            "pod-ready",
            "Pod",
            [_ALIVE, _matches(".status.podIP", "DoesNotExist")],
            {"statusTemplate": _POD_RUNNING},
            delay=_delay(READY_AFTER),
        ),
        _stage(
            "pod-ended",
            "Pod",
            [
                _ALIVE,
                _matches(".status.phase", "In", "Running"),
                _matches(f'.metadata.annotations["{COMPLETE_AFTER}"]', "Exists"),
            ],
            {"statusTemplate": _POD_ENDED},
            delay=_delay(COMPLETE_AFTER),
        ),
        _stage(
            "pod-deleted",
            "Pod",
            [_matches(".metadata.deletionTimestamp", "Exists")],
            {"finalizers": {"empty": True}, "delete": True},
        ),
    ],
    sort_keys=False,
)
"""kwok's configuration: five stages, as YAML documents."""
