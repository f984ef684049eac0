"""The flags and files of a cluster follow from its layout and agree with each other."""

import json
from dataclasses import replace

import pytest
import yaml

from local.address import Addresses
from local.kwok import STAGES, node_manifest
from local.render import (
    Layout,
    components,
    containerd_config,
    corefile,
    kubelet_config,
    pod_network,
    proxy_config,
)

NODE = Layout(
    name="one",
    mode="node",
    kwok=True,
    addresses=Addresses(3),
    port=6443,
    folder="/state/one",
    images="/cache/containerd/3",
    python="/usr/bin/python3",
)
PLANE = replace(NODE, mode="control-plane", kwok=False, port=40123)


def flags(layout: Layout) -> dict[str, str]:
    return {component.name: " ".join(component.argv) for component in components(layout)}


def test_a_control_plane_runs_nothing_of_a_node() -> None:
    assert list(flags(PLANE)) == ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "volumes"]


def test_a_node_runs_everything() -> None:
    assert {"containerd", "kubelet", "kube-proxy", "coredns", "kwok"} <= set(flags(NODE))


def test_a_control_plane_listens_on_loopback_only() -> None:
    assert PLANE.server == "https://127.0.0.1:40123"
    assert "--bind-address=127.0.0.1" in flags(PLANE)["kube-apiserver"]


def test_only_the_stores_start_before_the_api_server_is_ready() -> None:
    early = [component.name for component in components(NODE) if not component.after_api]
    assert early == ["containerd", "etcd", "kube-apiserver"]


def test_two_clusters_share_no_address_cgroup_or_folder() -> None:
    other = replace(NODE, name="two", addresses=Addresses(4), folder="/state/two", images="/cache/containerd/4")
    for text in (kubelet_config, proxy_config, containerd_config, pod_network, corefile):
        first, second = text(NODE), text(other)
        assert "10.203." not in second
        assert "/state/one" not in second
        assert first != second
    assert json.loads(kubelet_config(NODE))["cgroupRoot"] != json.loads(kubelet_config(other))["cgroupRoot"]


def test_the_kubelet_sends_pods_to_the_dns_server() -> None:
    assert json.loads(kubelet_config(NODE))["clusterDNS"] == [NODE.addresses.node_ip]
    assert f"bind {NODE.addresses.node_ip}" in corefile(NODE)


def test_pods_get_addresses_that_the_host_routes_to_the_node() -> None:
    subnet = json.loads(pod_network(NODE))["plugins"][0]["ipam"]["ranges"][0][0]["subnet"]
    assert subnet == NODE.addresses.pods
    assert json.loads(proxy_config(NODE))["clusterCIDR"] == subnet


@pytest.mark.parametrize(("layout", "prefix"), [(NODE, "10.203.32."), (replace(PLANE, kwok=True), "239.")])
def test_simulated_pods_have_addresses_that_never_leave_the_machine(layout: Layout, prefix: str) -> None:
    assert f"--cidr={prefix}" in flags(layout)["kwok"]


def test_every_stage_has_a_selector_and_an_effect() -> None:
    stages = list(yaml.safe_load_all(STAGES))
    assert [stage["metadata"]["name"] for stage in stages] == [
        "node-ready",
        "node-heartbeat",
        "pod-ready",
        "pod-ended",
        "pod-deleted",
    ]
    assert all(stage["spec"]["selector"]["matchExpressions"] and stage["spec"]["next"] for stage in stages)


def test_a_simulated_node_offers_its_gpus_and_says_what_they_are() -> None:
    node = node_manifest(
        {"name": "a", "product": "NVIDIA-L4", "memory": 23034, "count": 4, "major": 8, "minor": 9, "taint": True}
    )
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-L4"
    assert node["metadata"]["labels"]["nvidia.com/gpu.compute.major"] == "8"
    assert node["spec"]["taints"][0]["key"] == "nvidia.com/gpu"
