"""How many GPUs a model may take: of a pool that others use too, and that is too small for all."""

import pytest

from ax_operator.api.names import COMPONENT, GPU_PRODUCT, GPU_RESOURCE, MANAGED_BY, MANAGED_BY_VALUE, MODEL
from ax_operator.control.cache import Cache
from ax_operator.control.devices import Devices
from ax_operator.control.occupancy import Occupancy
from ax_operator.control.wakes import model_key
from ax_operator.kinds import DEPLOYMENT, NODE, POD
from ax_operator.kube_errors import Forbidden
from ax_operator.plan.machines import Reach
from ax_operator.plan.scaling import Memory
from tests.fakes import FakeCluster

H100 = "NVIDIA-H100-80GB-HBM3"
ONE, TWO = model_key("ns", "one"), model_key("ns", "two")


def meta(name: str, **more) -> dict:
    return {"name": name, "namespace": "ns"} | more


def node(name: str, gpus: int) -> dict:
    labels = {GPU_PRODUCT: H100} if gpus else {}
    status = {"allocatable": {GPU_RESOURCE: str(gpus)} if gpus else {"cpu": "4"}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}


def template(gpus: int) -> dict:
    container = {"name": "triton", "resources": {"limits": {GPU_RESOURCE: str(gpus)}}}
    return {"nodeSelector": {GPU_PRODUCT: H100}, "initContainers": [container], "containers": [{"name": "frontend"}]}


def pod(name: str, gpus: int, where: str | None, ours: bool = True, phase: str = "Running") -> dict:
    labels = {MANAGED_BY: MANAGED_BY_VALUE, COMPONENT: "serving"} if ours else {}
    spec = template(gpus) | ({"nodeName": where} if where else {})
    status = {"phase": phase}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, labels=labels), "spec": spec, "status": status}


def deployment(name: str, gpus: int, replicas: int = 0) -> dict:
    spec = {"replicas": replicas, "template": {"spec": template(gpus)}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name, labels={MODEL: name}), "spec": spec}


class Floor:
    """A cluster whose news reach the cache and the count at once."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.cache = Cache()
        self.foreign = Occupancy(self.cluster, self.cache)
        self.devices = Devices(self.cache, self.foreign)

    def put(self, *manifests: dict) -> None:
        for manifest in manifests:
            self.cluster.put(manifest)
        self.tell()

    def tell(self) -> None:
        while self.cluster.news:
            kind, type_, manifest = self.cluster.news.popleft()
            if kind == POD and manifest["metadata"]["labels"].get(MANAGED_BY) != MANAGED_BY_VALUE:
                continue  # not watched
            change = self.cache.remove(kind, manifest) if type_ == "DELETED" else self.cache.put(kind, manifest)
            self.devices.note(change)


@pytest.fixture
def floor():
    found = Floor()
    found.put(node("n1", 8), node("n2", 8), node("cpu", 0), deployment("one", 2), deployment("two", 4))
    return found


def test_what_our_pods_use_or_wait_for_is_not_free(floor):
    assert floor.devices.free(ONE) == 16
    floor.put(pod("a", 2, "n1"), pod("b", 4, None, phase="Pending"))
    assert floor.devices.free(ONE) == 10
    floor.put(pod("b", 4, "n2"))
    assert floor.devices.free(ONE) == 10
    floor.put(pod("a", 2, "n1", phase="Succeeded"))
    assert floor.devices.free(ONE) == 12


async def test_what_others_use_is_not_free_either(floor):
    floor.put(pod("theirs", 8, "n1", ours=False), pod("done", 8, "n2", ours=False, phase="Succeeded"))
    await floor.foreign.look()
    assert floor.devices.free(ONE) == 8
    version = floor.foreign.version
    await floor.foreign.look()
    assert floor.foreign.version == version
    assert floor.cluster.calls["list Pod"] == 4  # two GPU nodes, twice: the CPU node is not asked about
    floor.cluster.remove((POD, "ns", "theirs"))
    await floor.foreign.look()
    assert floor.devices.free(ONE) == 16


async def test_a_node_that_cannot_be_asked_keeps_its_tenants(floor):
    floor.put(pod("theirs", 8, "n1", ours=False))
    await floor.foreign.look()

    async def forbidden(*_, **__):
        raise Forbidden("pods is forbidden", 403)

    floor.cluster.list = forbidden
    await floor.foreign.look()
    assert floor.devices.free(ONE) == 8


def test_the_longest_wait_comes_first(floor):
    floor.put(pod("a", 8, "n1"), pod("b", 4, "n2"))
    assert floor.devices.free(ONE) == 4
    floor.devices.remember(TWO, Memory(last=100, short=30))
    assert floor.devices.free(ONE) == 0
    assert floor.devices.free(TWO) == 4
    floor.devices.remember(ONE, Memory(last=100, short=60))
    assert floor.devices.free(ONE) == 4
    assert floor.devices.free(TWO) == 0
    floor.devices.remember(ONE, Memory())
    floor.devices.remember(TWO, Memory())
    assert floor.devices.free(ONE) == 4


def test_a_look_that_was_long_ago_makes_no_wait_shorter(floor):
    floor.put(pod("a", 8, "n1"), pod("b", 4, "n2"))
    floor.devices.remember(ONE, Memory(last=100, short=30))
    floor.devices.remember(TWO, Memory(last=102, short=31))
    assert (floor.devices.free(ONE), floor.devices.free(TWO)) == (4, 0)


def test_a_replica_that_was_decided_takes_its_gpus_before_it_has_a_pod(floor):
    floor.devices.remember(TWO, Memory(replicas=3), 3)
    assert floor.devices.free(ONE) == 16 - 3 * 4
    floor.put(deployment("two", 4, replicas=3))
    assert floor.devices.free(ONE) == 16 - 3 * 4
    for name in ("a", "b", "c"):
        started = pod(name, 4, "n1" if name < "c" else None, phase="Pending")
        started["metadata"]["labels"] |= {MODEL: "two"}
        floor.put(started)
        assert floor.devices.free(ONE) == 16 - 3 * 4
    floor.devices.remember(TWO, Memory(replicas=1), 1)
    floor.put(deployment("two", 4, replicas=1))
    assert floor.devices.free(ONE) == 16 - 3 * 4  # its pods still drain
    for name in ("a", "b", "c"):
        floor.cluster.remove((POD, "ns", name))
    floor.tell()
    assert floor.devices.free(ONE) == 16 - 4
    floor.cluster.remove((DEPLOYMENT, "ns", "two"))
    floor.devices.remember(TWO, Memory())
    floor.tell()
    assert floor.devices.free(ONE) == 16


def test_a_model_without_gpus_is_not_limited(floor):
    assert floor.devices.free(model_key("ns", "nobody")) is None


def test_pools_change_with_nodes_and_not_with_pods(floor):
    pools = floor.devices.machines().pools(Reach())
    floor.put(pod("a", 8, "n1"))
    assert floor.devices.machines().pools(Reach()) is pools
    floor.put(node("n3", 8))
    assert sum(pool.nodes for pool in floor.devices.machines().pools(Reach()) if pool.resource) == 3
    floor.cluster.remove((NODE, None, "n3"))
    floor.cluster.remove((DEPLOYMENT, "ns", "two"))
    floor.tell()
    assert floor.devices.machines().pools(Reach()) == pools
