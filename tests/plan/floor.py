"""Simulated GPU nodes, A.X models on them, and what a resolve Job says of each: what GPU stories and goldens share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ax_engines import contract, tasks
from ax_engines.hardware import Toolchain
from ax_engines.hardware_table import load_gpus
from ax_engines.memory import weights_bytes
from ax_operator.plan.machines import Machines
from ax_operator.plan.world import Json, World
from tests.plan.stage import CATALOGUE, CPU_NODE, CPU_TOOLCHAIN, Stage, model, world

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRTLLM = Toolchain(
    name="trtllm-1.2",
    image="registry.test/ax-triton-tensorrt:1",
    backends=("tensorrt", "pytorch", "transformers"),
    tensorrt_llm="1.2.1",
    triton="2.71.0",
    gpu=True,
)
NEXT = replace(TRTLLM, image="registry.test/ax-triton-tensorrt:2", tensorrt_llm="1.2.2")
GPUS = {
    "h100": ("NVIDIA-H100-80GB-HBM3", 81559, 90),
    "a100": ("NVIDIA-A100-SXM4-80GB", 81920, 80),
    "l40s": ("NVIDIA-L40S", 46068, 89),
    "b200": ("NVIDIA-B200", 183359, 100),
}
H100, A100, B200 = (GPUS[k][0] for k in ("h100", "a100", "b200"))
MODELS = ("A.X-4.0", "A.X-4.0-Light", "A.X-3.1", "A.X-3.1-Light", "A.X-4.0-VL-Light")
TABLE = load_gpus()
FIXED = "scaling: {mode: fixed, replicas: 1}\n"


def gpu_node(name: str, kind: str, count: int = 8, **more: Any) -> Json:
    """Return a node as GPU feature discovery labels it."""
    product, memory, sm = GPUS[kind]
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(memory),
        "nvidia.com/gpu.compute.major": str(sm // 10),
        "nvidia.com/gpu.compute.minor": str(sm % 10),
        **more.get("labels", {}),
    }
    taints = more.get("taints", [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}])
    room = {"cpu": "128", "memory": "1Ti", "nvidia.com/gpu": str(count)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {"allocatable": room},
    }


def gpu_world(*nodes: Json, **changes: Any) -> World:
    """Return a world with a CPU node, these nodes, and the toolchains of the chart's values."""
    return world(
        machines=Machines((CPU_NODE, *nodes)),
        gpus=TABLE,
        allow_trust_remote_code=True,
        **{"toolchains": (TRTLLM, CPU_TOOLCHAIN), **changes},
    )


def ax(name: str, more: str = "", called: str | None = None) -> Json:
    """Return an AXModel of the catalogue, as the documentation writes it."""
    entry = CATALOGUE[name]
    pinned = f"source: {{huggingFace: {{repo: {entry.hub_id}, revision: {COMMIT}}}}}\n"
    source = pinned if entry.trust_remote_code else ""
    return model(f"model: {name}\n{source}{FIXED}{more}", name=called or contract.slug(name))


def real(name: str, **config: Any) -> contract.ResolvedSource:
    """Return what the resolve Job says of a catalogue model whose config is what the catalogue assumes."""
    found = CATALOGUE[name].assumed_config().model_copy(update=config)
    return contract.ResolvedSource(
        revision=COMMIT, format="safetensors", files=40, bytes=weights_bytes(found), config=found, chat_template=True
    )


def resolve(stage: Stage, name: str, **config: Any) -> None:
    """Finish the resolve Job of the AXModel that serves this catalogue model."""
    done = tasks.TaskResult(ok=True, reason="Resolved", resolved=real(name, **config))
    stage.finish("resolve", done, of=f"axm-{contract.slug(name)}-src-")


def up(stage: Stage, *catalogue: str) -> Stage:
    """Bring models to Ready: resolved, built, pods ready."""
    stage.reconcile()
    for name in catalogue:
        resolve(stage, name)
    stage.reconcile()
    settle(stage)
    return stage


def settle(stage: Stage) -> None:
    """Let builds end well and pods become ready until nothing is left to do."""
    for _ in range(60):
        if stage.jobs("build"):
            stage.build()
        for name in stage.models:
            stage.ready(name)
        before = {k: o["metadata"]["uid"] for k, o in stage.objects.items()}
        stage.now += 5
        stage.reconcile()
        if not stage.jobs("build") and before == {k: o["metadata"]["uid"] for k, o in stage.objects.items()}:
            return
    raise AssertionError("it never settles")


def served(*models: Json, nodes: list[Json] | None = None, **changes: Any) -> Stage:
    """Return a stage on which A.X 4.0 models are built and ready on two H100 nodes."""
    the_nodes = nodes or [gpu_node("h-0", "h100"), gpu_node("h-1", "h100")]
    return up(Stage(gpu_world(*the_nodes, **changes), *(models or (ax("A.X-4.0"),))), "A.X-4.0")


def with_nodes(stage: Stage, *nodes: Json) -> None:
    """Replace the nodes with GPUs."""
    stage.world = replace(stage.world, machines=Machines((CPU_NODE, *nodes)))


def with_toolchain(stage: Stage, toolchain: Toolchain) -> None:
    """Replace the toolchain for GPUs."""
    settings = stage.world.settings.model_copy(update={"toolchains": (toolchain, CPU_TOOLCHAIN)})
    stage.world = replace(stage.world, settings=settings)
