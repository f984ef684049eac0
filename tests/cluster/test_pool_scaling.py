"""200 models on 64 simulated GPUs: real API server, scheduler and controllers, kwok's nodes and pods, and the operator.

Nobody can send requests to simulated pods: what they and the gateway would tell comes from `crowds`, at the seam to
the engines. Everything between that and the Deployments' replicas is the product's.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import pairwise
from typing import Any, cast

import pytest

from ax_engines import contract
from ax_engines.catalogue import load as load_catalogue
from ax_engines.hardware import Toolchain
from ax_engines.hardware_table import load_gpus
from ax_engines.memory import weights_bytes
from ax_engines.tasks import TaskResult
from ax_operator.api.crd import crds, render
from ax_operator.api.names import API_VERSION, COMPONENT, COMPONENT_BUILD, COMPONENT_GATEWAY, COMPONENT_SERVING, MODEL
from ax_operator.control.observe import WATCHED, Fixed
from ax_operator.control.operator import Operator, selector_of
from ax_operator.control.signals import Signals
from ax_operator.kinds import AXMODEL, DEPLOYMENT, POD, Kind
from ax_operator.kube import Kube
from ax_operator.kube_errors import KubeError
from ax_operator.plan.children.resolve_job import resolved_map, source_hash
from ax_operator.plan.world import Settings
from ax_operator.settings import ProcessSettings
from local import Cluster
from local.kwok import COMPLETE_AFTER, MESSAGE, GpuNode
from tests.cluster.crowds import Crowds

pytestmark = pytest.mark.cluster
Json = dict[str, Any]
SPACE, HOME, SLOTS, GPUS = "many", "ax-system", 8, 64
ENTRY = load_catalogue()["A.X-4.0-Light"]
NAMES = [f"m{n:03}" for n in range(200)]
TRTLLM = Toolchain(
    name="trtllm-1.2", image="registry.test/ax-triton-tensorrt:1", backends=("tensorrt", "pytorch"),
    tensorrt_llm="1.2.1", triton="2.71.0", gpu=True,
)  # fmt: skip
SETTINGS = Settings(
    namespace=HOME, engines_image="registry.test/ax-engines:1", gateway_replicas=1, toolchains=(TRTLLM,)
)


@contextmanager
def pool_of_models() -> Iterator[Cluster]:
    """Bring up a control plane with eight nodes of eight simulated GPUs, a gateway's pod and 200 models."""
    nodes: list[GpuNode] = [
        {"name": f"l40s-{n}", "product": "NVIDIA-L40S", "memory": 46068, "count": 8, "major": 8, "minor": 9}
        for n in range(8)
    ]
    with Cluster.up(name=f"pool-{os.getpid()}", mode="control-plane", kwok=True) as found:
        found.kubectl("apply", "--server-side", "-f", "-", input="---\n".join(render(crd) for crd in crds()))
        found.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        found.add_fake_gpu_nodes(nodes)
        gateway = {"labels": {COMPONENT: COMPONENT_GATEWAY}, "name": "gateway", "namespace": HOME}
        objects: list[Json] = [
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (SPACE, HOME)),
            {"apiVersion": "v1", "kind": "Pod", "metadata": gateway, "spec": {"containers": [CONTAINER]}},
            *map(model, NAMES),
        ]
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        found.kubectl("apply", "--server-side", "-f", "-", input=items)
        made = json.loads(found.kubectl("-n", SPACE, "get", "axm", "-o", "json"))["items"]
        config = ENTRY.assumed_config()
        resolved = contract.ResolvedSource(
            revision="0" * 40, format="safetensors", files=4, bytes=weights_bytes(config), config=config,
            chat_template=True,
        )  # fmt: skip
        source = contract.Source(hugging_face=contract.HuggingFaceSource(repo=ENTRY.hub_id))
        key = source_hash(source, trust_remote_code=False)
        maps = [resolved_map(each, key, resolved) for each in made]  # as an earlier life of the operator left them
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": maps})
        found.kubectl("apply", "--server-side", "--field-manager=ax-operator", "-f", "-", input=items)
        yield found


@pytest.fixture(scope="module")
def pool() -> Iterator[Cluster]:
    """A pool of this module's own."""
    with pool_of_models() as found:
        yield found


CONTAINER = {"name": "c", "image": "registry.test/none:1"}


def model(name: str) -> Json:
    """Return a model that may sleep and takes one GPU per replica."""
    spec = {
        "model": ENTRY.name,
        "engine": {"limits": {"maxBatchSize": SLOTS}},
        "scaling": {"minReplicas": 0, "maxReplicas": 4, "scaleToZeroAfter": "5s"},
    }
    metadata = {"name": name, "namespace": SPACE}
    return {"apiVersion": API_VERSION, "kind": "AXModel", "metadata": metadata, "spec": spec}


class Story:
    """The operator at work, the users, and every change of a Deployment's replicas."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.crowds = Crowds(SPACE, SLOTS)
        self.replicas: dict[str, list[int]] = defaultdict(lambda: [0])
        self.order: list[str] = []
        """Models in the order in which they got their first pod that is ready."""
        self.unplaced: set[str] = set()
        self.operator = Operator(
            kube, Fixed(SETTINGS, load_catalogue(), load_gpus()), ProcessSettings(), signals=self._signals
        )

    def _signals(self, cache: Any, metrics: Any, wake: Any) -> Signals:
        self.crowds.cache = cache
        self.signals = Signals(
            self.kube, cache, cast(Any, self.crowds), metrics, wake,
            gateway_namespace=HOME, pods_every=1.0, builds_every=60.0,
        )  # fmt: skip
        return self.signals

    async def follow(self, kind: Kind) -> None:
        """Tell the operator what a watch tells, and note what matters."""
        async for event in self.kube.watch(kind, labels=selector_of(kind)):
            if event.type == "SYNCED":
                continue
            self.operator.heard(kind, event.type, event.object)
            name = (event.object["metadata"].get("labels") or {}).get(MODEL, "")
            if kind == DEPLOYMENT and event.type != "DELETED":
                self._note(name, int(event.object["spec"]["replicas"]))
            elif kind == POD:
                await self._pod(name, event.object)

    def _note(self, name: str, replicas: int) -> None:
        if self.replicas[name][-1] != replicas:
            self.replicas[name].append(replicas)

    async def _pod(self, name: str, pod: Json) -> None:
        component = pod["metadata"]["labels"][COMPONENT]
        status = pod.get("status") or {}
        if component == COMPONENT_SERVING:
            conditions = {(c["type"], c["status"]) for c in status.get("conditions") or ()}
            if ("PodScheduled", "False") in conditions:
                self.unplaced.add(name)
            if ("Ready", "True") in conditions and name not in self.order:
                self.order.append(name)
        elif component == COMPONENT_BUILD and COMPLETE_AFTER not in (pod["metadata"].get("annotations") or {}):
            done = TaskResult(ok=True, reason="Published", bytes=1 << 30, seconds=1)
            named = {key: pod["metadata"][key] for key in ("name", "namespace", "uid")}
            named["annotations"] = {COMPLETE_AFTER: "0s", MESSAGE: done.to_json()}
            with suppress(KubeError):  # it is gone since
                await self.kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": named})

    def _told(self) -> dict[str, tuple[list[int], str]]:
        """Return what became of the models that were ever asked for anything, and their last words."""
        return {name: (n, self.available(name).get("message", "-")) for name, n in self.replicas.items() if n != [0]}

    def asked(self, *names: str) -> int:
        """Return the replicas that these models' Deployments ask for now."""
        return sum(self.replicas[name][-1] for name in names)

    def available(self, name: str) -> Json:
        """Return the condition Available of a model."""
        found = self.operator.cache.get(AXMODEL, SPACE, name) or {}
        conditions = (found.get("status") or {}).get("conditions") or ()
        return next((dict(c) for c in conditions if c["type"] == "Available"), {})

    async def until(self, what: str, probe: Callable[[], object], patience: float = 60, pause: float = 0.1) -> None:
        """Wait until a probe says yes."""
        limit = time.monotonic() + patience
        while not probe():
            assert time.monotonic() < limit, f"{what} did not come within {patience:.0f} s: {self._told()}"
            await asyncio.sleep(pause)


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Story]:
    async with Kube(cluster.kubeconfig) as kube:
        story = Story(kube)
        await story.operator.start()
        tasks = [asyncio.create_task(story.follow(kind)) for kind in WATCHED]
        tasks.append(asyncio.create_task(story.signals.run()))
        try:
            yield story
            assert not [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await story.operator.stop()


async def test_two_hundred_models_share_a_pool_without_flapping_and_the_longest_wait_comes_first(pool: Cluster) -> None:
    large, small = NAMES[:8], NAMES[8:24]
    first, then, last = NAMES[24:36], NAMES[36:60], NAMES[60:68]
    async with running(pool) as story:
        await story.until("all asleep", lambda: all(story.available(n).get("reason") == "ScaledToZero" for n in NAMES))

        # Load that stays: every model finds its number and keeps it.
        story.crowds.want(16, *large)
        story.crowds.want(3, *small)
        await story.until("a replica each", lambda: all(story.asked(name) for name in large + small))
        await story.until("enough for many", lambda: all(story.asked(name) >= 3 for name in large))
        await asyncio.sleep(15)  # whoever flaps does so now
        steady = {name: list(story.replicas[name]) for name in large + small}
        assert all(a < b for numbers in steady.values() for a, b in pairwise(numbers)), steady
        assert all(story.asked(name) == 1 for name in small), steady

        # More than the pool holds: what is free is shared out, nobody takes what is not there, and it is said.
        story.crowds.want(3, *first)
        await story.until("the first served", lambda: all(name in story.order for name in first))
        story.crowds.want(3, *then)
        await story.until("the pool full", lambda: story.asked(*NAMES) == GPUS)
        late = [name for name in then if not story.asked(name)]
        assert late
        await story.until("it is said", lambda: all(story.available(name).get("status") == "False" for name in late))
        story.crowds.want(3, *last)
        await story.until("it is said", lambda: all(story.available(name).get("status") == "False" for name in last))
        for name in late + last:
            told = story.available(name)
            assert told["reason"] == "Unschedulable"
            assert "1 GPU of NVIDIA-L40S needed, 0 free" in told["message"]
        assert story.asked(*last) == 0
        assert story.asked(*NAMES) == GPUS

        # One large model leaves: its GPUs go to those who have waited longest.
        story.crowds.want(0, large[0])
        await story.until("three more served", lambda: sum(name in story.order for name in late) == 3, patience=90)
        assert not set(last) & set(story.order)
        assert not story.unplaced

        # All leave: everything sleeps again, each model having risen once and fallen once.
        story.crowds.want(0, *NAMES)
        await story.until("all asleep again", lambda: story.asked(*NAMES) == 0, patience=90)
        for name, numbers in story.replicas.items():
            turns = [b > a for a, b in pairwise(numbers)]
            assert turns == sorted(turns, reverse=True), (name, numbers)
        assert not any(len(story.replicas[name]) > 1 for name in NAMES[68:])
