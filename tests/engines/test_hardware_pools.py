"""Pools out of nodes: labels, taints, slices, sharing, and what pods have taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ax_engines.hardware import Device, Gpu, Pool, Toolchain, device_of, gpu_of
from ax_engines.hardware_table import load_gpus
from ax_engines.pools import pools_from_nodes

GPUS = load_gpus()
H100 = "NVIDIA-H100-80GB-HBM3"
Json = dict[str, Any]


def node(
    name: str,
    product: str | None = None,
    gpus: int = 8,
    *,
    labels: dict[str, str] | None = None,
    resources: dict[str, str] | None = None,
    taints: list[Json] | None = None,
    ready: str = "True",
    cordoned: bool = False,
) -> Json:
    """A node as GPU feature discovery and the device plugin leave it."""
    told = {} if product is None else {"nvidia.com/gpu.product": product}
    if product == H100:
        told |= {
            "nvidia.com/gpu.memory": "81559",
            "nvidia.com/gpu.compute.major": "9",
            "nvidia.com/gpu.compute.minor": "0",
        }
    counted = {} if product is None else {"nvidia.com/gpu": str(gpus)}
    return {
        "metadata": {"name": name, "labels": {**told, **(labels or {})}},
        "spec": {"taints": taints or [], **({"unschedulable": True} if cordoned else {})},
        "status": {
            "allocatable": {"cpu": "64", "memory": "33554432Ki", **counted, **(resources or {})},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def pod(node_name: str | None, gpus: int, phase: str = "Running", init: int = 0, sidecar: int = 0) -> Json:
    """A pod that takes GPUs in its container, in an init container or in a sidecar."""

    def container(count: int, **more: str) -> Json:
        return {"name": "c", "resources": {"limits": {"nvidia.com/gpu": str(count)} if count else {}}, **more}

    inits = [*([container(init)] if init else []), *([container(sidecar, restartPolicy="Always")] if sidecar else [])]
    spec: Json = {"containers": [container(gpus)], "initContainers": inits}
    if node_name:
        spec["nodeName"] = node_name
    return {"spec": spec, "status": {"phase": phase}}


def gpu_pool(*args: Any, **kwargs: Any) -> Pool:
    cpu, *gpu = pools_from_nodes(*args, **kwargs)
    assert cpu.name == "cpu"
    assert len(gpu) == 1
    return gpu[0]


def test_without_any_node_there_is_an_empty_cpu_pool() -> None:
    assert pools_from_nodes([], []) == (Pool("cpu", None, 0, 0, 0, 0, None, 0),)


def test_nodes_of_a_product_are_a_pool() -> None:
    pool = gpu_pool([node("b", H100), node("a", H100, gpus=4)], [])
    assert pool == Pool(
        name="nvidia-h100-80gb-hbm3",
        gpu_product=H100,
        gpus_per_node=8,
        nodes=2,
        free_gpus=12,
        max_free_on_one_node=8,
        sm=90,
        memory_mib=81559,
        node_selector=(("nvidia.com/gpu.product", H100),),
        resource="nvidia.com/gpu",
    )


def test_pods_that_run_take_gpus_and_those_that_ended_or_wait_do_not() -> None:
    nodes = [node("a", H100), node("b", H100)]
    pods = [pod("a", 4), pod("a", 2, "Succeeded"), pod("b", 1, "Failed"), pod(None, 8, "Pending"), pod("b", 8)]
    pool = gpu_pool(nodes, pods)
    assert (pool.free_gpus, pool.max_free_on_one_node) == (4, 4)


@pytest.mark.parametrize(("made", "taken"), [(pod("a", 1, init=4), 4), (pod("a", 1, sidecar=2), 3), (pod("a", 0), 0)])
def test_a_pod_takes_what_it_needs_at_its_peak(made: Json, taken: int) -> None:
    assert gpu_pool([node("a", H100)], [made]).free_gpus == 8 - taken


@pytest.mark.parametrize("change", [{"cordoned": True}, {"ready": "False"}, {"ready": "Unknown"}])
def test_a_node_that_takes_no_pods_stays_in_its_pool_with_nothing_free(change: Json) -> None:
    pool = gpu_pool([node("a", H100, **change)], [])
    assert (pool.nodes, pool.gpus_per_node, pool.free_gpus) == (1, 8, 0)


def test_products_are_pools_of_their_own_and_cpus_are_for_all_that_tolerate_the_node() -> None:
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    nodes = [node("a", H100, taints=[taint]), node("b", "NVIDIA-L4", gpus=2), node("c")]
    cpu, *gpu = pools_from_nodes(nodes, [])
    assert [(p.gpu_product, p.taints) for p in gpu] == [
        (H100, (("nvidia.com/gpu", "present", "NoSchedule"),)),
        ("NVIDIA-L4", ()),
    ]
    assert (cpu.nodes, cpu.memory_mib) == (2, 32768)


def test_the_same_gpus_behind_another_taint_are_another_pool() -> None:
    taint = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
    _, first, second = pools_from_nodes([node("a", H100), node("b", H100, taints=[taint])], [])
    assert [first.name, second.name] == ["nvidia-h100-80gb-hbm3", "nvidia-h100-80gb-hbm3-2"]


@pytest.mark.parametrize(
    ("toleration", "nodes"),
    [
        ({"key": "team", "operator": "Exists"}, 1),
        ({"key": "team", "value": "llm"}, 1),
        ({"operator": "Exists"}, 1),
        ({"key": "team", "value": "llm", "effect": "NoExecute"}, 0),
        ({"key": "team", "value": "other"}, 0),
        ({"key": "other", "operator": "Exists"}, 0),
    ],
)
def test_foreign_taints_need_the_authors_toleration(toleration: Json, nodes: int) -> None:
    tainted = node("a", H100, taints=[{"key": "team", "value": "llm", "effect": "NoSchedule"}])
    assert [p.nodes for p in pools_from_nodes([tainted], [], tolerations=[toleration])] == [nodes] * (1 + nodes)
    assert len(pools_from_nodes([tainted], [])) == 1


def test_taints_that_tell_a_nodes_state_or_a_mere_preference_keep_it_in_its_pool() -> None:
    taints = [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "spot", "effect": "PreferNoSchedule"},
    ]
    assert gpu_pool([node("a", H100, taints=taints, ready="Unknown")], []).nodes == 1


def test_the_node_selector_leaves_nodes_out() -> None:
    nodes = [node("a", H100, labels={"zone": "1"}), node("b", H100, labels={"zone": "2"})]
    assert gpu_pool(nodes, [], node_selector={"zone": "2"}).nodes == 1
    assert len(pools_from_nodes(nodes, [], node_selector={"zone": "3"})) == 1


def test_mig_single_slices_are_the_product_of_their_label() -> None:
    product = f"{H100}-MIG-3g.40gb"
    labels = {"nvidia.com/gpu.memory": "40448", "nvidia.com/gpu.compute.major": "9"}
    pool = gpu_pool([node("a", product, gpus=2, labels=labels)], [])
    assert (pool.gpu_product, pool.mig, pool.resource, pool.memory_mib) == (product, "3g.40gb", "nvidia.com/gpu", 40448)
    assert device_of(pool, GPUS) == Device(sm=90, memory_mib=40448, nvlink=1)


def test_mig_mixed_slices_are_resources_of_their_own_beside_whole_gpus() -> None:
    labels = {"nvidia.com/mig-1g.10gb.memory": "9728", "nvidia.com/mig.strategy": "mixed"}
    made = node("a", H100, gpus=4, labels=labels, resources={"nvidia.com/mig-1g.10gb": "7"})
    _, whole, part = pools_from_nodes([made], [])
    assert (whole.gpu_product, whole.resource, whole.gpus_per_node) == (H100, "nvidia.com/gpu", 4)
    assert (part.gpu_product, part.resource) == (f"{H100}-MIG-1g.10gb", "nvidia.com/mig-1g.10gb")
    assert (part.mig, part.gpus_per_node, part.memory_mib) == ("1g.10gb", 7, 9728)
    assert part.node_selector == (("nvidia.com/gpu.product", H100),)


def test_a_wrong_mig_layout_and_gpus_without_labels_are_no_pool() -> None:
    nodes = [node("a", f"{H100}-MIG-INVALID"), node("b", resources={"nvidia.com/gpu": "8"}), node("c", H100, gpus=0)]
    assert len(pools_from_nodes(nodes, [])) == 1


@pytest.mark.parametrize(
    ("product", "labels"), [("NVIDIA-L4-SHARED", {}), ("NVIDIA-L4", {"nvidia.com/gpu.replicas": "4"})]
)
def test_shared_gpus_are_marked(product: str, labels: dict[str, str]) -> None:
    assert gpu_pool([node("a", product, labels=labels)], []).shared


def test_labels_that_are_no_numbers_count_as_missing() -> None:
    labels = {"nvidia.com/gpu.memory": "lots", "nvidia.com/gpu.compute.major": "-1"}
    pool = gpu_pool([node("a", "NVIDIA-L4", labels=labels)], [])
    assert (pool.memory_mib, pool.sm) == (0, None)
    assert device_of(pool, GPUS) == Device(sm=89, memory_mib=23034, nvlink=1, bandwidth_gb_s=300)


def test_a_known_gpus_memory_does_not_follow_its_driver() -> None:
    pool = gpu_pool([node("a", H100)], [])
    for labelled in (81037, 81559, 81920):
        assert device_of(replace(pool, memory_mib=labelled), GPUS) == Device(90, 81559, 8, 3350)


def test_an_unknown_gpu_is_what_its_labels_say_or_nothing() -> None:
    pool = Pool("next", "NVIDIA-NEXT", 8, 1, 8, 8, 130, 300_300)
    assert device_of(pool, GPUS) == Device(130, 300_032, 1)
    assert device_of(replace(pool, memory_mib=0), GPUS) is None
    assert device_of(replace(pool, sm=None), GPUS) is None


def test_the_table_names_each_gpu_once_and_keeps_to_its_bounds() -> None:
    assert len({gpu.product for gpu in GPUS}) == len(GPUS) == 14
    assert gpu_of(f"{H100}-MIG-1g.10gb", GPUS) == gpu_of(H100, GPUS) == Gpu(H100, 90, 81559, 3350, 8)
    assert all(20_000 < gpu.memory_mib < 200_000 and gpu.nvlink in (1, 2, 4, 8) for gpu in GPUS)


@pytest.mark.parametrize(
    ("version", "builds"),
    [("1.2.1", True), ("1.2", True), ("1.20.0", False), ("1.3.0rc4", False), ("1.1.0", False), (None, False)],
)
def test_only_the_1_2_line_builds_engines(version: str | None, builds: bool) -> None:
    assert Toolchain("t", "image", ("tensorrt",), version, gpu=True).builds_engines is builds
