"""The operator on a real API server with its real controllers; only the kubelet's part is played by the test."""

import asyncio
import contextlib
import signal
import socket
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest

from ax_engines.catalogue import load
from ax_engines.contract import ResolvedSource
from ax_engines.tasks import TaskResult
from ax_operator.api.names import COMPONENT
from ax_operator.control import handlers
from ax_operator.control.observe import OWNED
from ax_operator.control.operator import OURS
from ax_operator.kinds import AXENGINE, AXMODEL, DEPLOYMENT, EVENT, NODE, POD, PVC
from ax_operator.kube_errors import Missing
from ax_operator.settings import load as load_settings

pytestmark = pytest.mark.cluster

SETTINGS = """
namespace: ax-system
engines_image: registry.test/ax-engines:1
engine_retention: 0
gateway_replicas: 0
toolchains:
  - {name: cpu, image: "registry.test/ax-triton:1", backends: [llamacpp]}
operator: {http_port: 0, resync_seconds: 3600, grace_seconds: 5}
"""
BOUND = 60


def model(namespace: str, name: str = "smol") -> dict:
    spec = {
        "model": "SmolLM2-135M-Instruct",
        "source": {"pvc": {"claimName": "models", "path": "smol.gguf"}},
        "scaling": {"mode": "fixed", "replicas": 1},
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "serving.axmodel.io/v1alpha1", "kind": "AXModel", "metadata": metadata, "spec": spec}


def result(component: str) -> TaskResult:
    if component != "resolve":
        return TaskResult(ok=True, reason="Built", bytes=1 << 20, seconds=2)
    config = load()["SmolLM2-135M-Instruct"].assumed_config()
    found = ResolvedSource(revision="sha256:" + "a" * 64, format="gguf", files=1, bytes=1 << 20, config=config)
    return TaskResult(ok=True, reason="Resolved", resolved=found)


class Kubelet:
    """Plays a node: Jobs' pods succeed with a result, other pods become ready."""

    def __init__(self, kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace

    async def work(self) -> None:
        for pod in (await self._kube.list(POD, self._namespace))[0]:
            meta, status = pod["metadata"], pod.get("status", {})
            if status.get("phase") in ("Succeeded", "Running") or meta.get("deletionTimestamp"):
                continue
            component = meta["labels"][COMPONENT]
            if component == "serving":
                new = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
                new["conditions"] = [{"type": "Ready", "status": "True"}]
            else:
                ended = {"exitCode": 0, "message": result(component).to_json(), "reason": "Completed"}
                container = {"name": pod["spec"]["containers"][0]["name"], "state": {"terminated": ended}}
                container |= {"image": "", "imageID": "", "ready": False, "restartCount": 0}
                new = {"phase": "Succeeded", "containerStatuses": [container]}
            reference = {"name": meta["name"], "namespace": meta["namespace"]}
            ended_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": reference, "status": new}
            with contextlib.suppress(Missing):  # deleted since it was listed
                await self._kube.apply(ended_pod, status=True)

    async def until(self, condition) -> None:
        async with asyncio.timeout(BOUND):
            while not await condition():
                await self.work()
                await asyncio.sleep(0.1)


@pytest.fixture
async def kubelet(kube, crds, namespace):
    status = {
        "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "0"},
        "capacity": {"cpu": "8", "memory": "32Gi", "pods": "0"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
    }
    await kube.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    await kube.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": status}, status=True)
    yield Kubelet(kube, namespace)
    await kube.delete(NODE, "n1")


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(SETTINGS)
    return file


class Process:
    """The operator as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.log: list[str] = []
        self._reader = asyncio.create_task(self._read())
        self._listening = asyncio.Event()
        self.port = 0

    async def _read(self) -> None:
        async for line in self._process.stderr:
            self.log.append(line.decode().rstrip())
            if "Listening port=" in self.log[-1]:
                self.port = int(self.log[-1].rpartition("=")[2])
                self._listening.set()

    async def get(self, path: str) -> tuple[int, str]:
        async with asyncio.timeout(BOUND):
            await self._listening.wait()
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.status, await answer.text()

    async def idle(self) -> bool:
        """Whether every model and store was looked at, and nothing is due any more."""
        _, series = await self.get("/metrics")
        done = all(f'reconciles_total{{kind="{kind}",result="done"}}' in series for kind in ("AXModel", "Store"))
        return done and "queue_depth 0.0" in series and "reconciles_running 0.0" in series

    async def end(self, number: signal.Signals) -> int:
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(BOUND):
            code = await self._process.wait()
        await self._reader
        return code


@asynccontextmanager
async def running(cluster, settings):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ax_operator", "run", "--settings", str(settings),
        "--kubeconfig", str(cluster.kubeconfig), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    found = Process(process)
    try:
        yield found
    finally:
        await found.end(signal.SIGKILL)


async def condition(kube, namespace, type_, name="smol", kind=AXMODEL) -> tuple[str, str]:
    found = await kube.get(kind, name, namespace)
    conditions = ((found or {}).get("status") or {}).get("conditions", ())
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == type_), ("-", "-"))


async def test_a_model_becomes_ready_and_leaves_nothing_but_the_claim(cluster, kube, kubelet, namespace, settings):
    async def ready() -> bool:
        return await condition(kube, namespace, "Ready") == ("True", "Serving")

    async def nothing_left() -> bool:
        """Whether all of ours is gone, or goes with its owner: the cluster's collector takes half a minute."""
        left = [o for kind in OWNED for o in (await kube.list(kind, namespace, OURS))[0]]
        orphans = [o for o in left if not o["metadata"].get("ownerReferences") and o["kind"] != PVC.kind]
        return not orphans and not (await kube.list(AXENGINE, namespace))[0]

    async with running(cluster, settings) as operator:
        await kube.apply(model(namespace))
        await kubelet.until(ready)
        found = await kube.get(AXMODEL, "smol", namespace)
        assert "finalizers" not in found["metadata"]
        assert "annotations" not in found["metadata"]
        assert await operator.get("/readyz") == (200, "ok\n")
        assert await operator.get("/healthz") == (200, "ok\n")
        _, series = await operator.get("/metrics")
        assert 'ax_operator_builds_total{reason="Built",result="succeeded"} 1.0' in series
        assert 'ax_operator_models{condition="Ready",status="True"} 1.0' in series
        reasons = {event["reason"] for event in (await kube.list(EVENT, namespace))[0]}
        assert {"ResolvingSource", "Serving"} <= reasons
        await kubelet.until(operator.idle)
        assert await operator.end(signal.SIGTERM) == 0
        assert any("Stopped" in line for line in operator.log)
        assert not [line for line in operator.log if " ERROR " in line or "Traceback" in line]
    async with running(cluster, settings) as operator:  # a world at rest costs nothing
        await kubelet.until(operator.idle)
        _, series = await operator.get("/metrics")
        assert "ax_operator_writes_total{" not in series
        await kube.delete(AXMODEL, "smol", namespace)
        await kubelet.until(nothing_left)


async def test_kills_on_the_way_change_nothing_but_the_time(cluster, kube, kubelet, namespace, settings):
    async def ready() -> bool:
        return await condition(kube, namespace, "Ready") == ("True", "Serving")

    async def engine_wanted() -> bool:
        return bool((await kube.list(AXENGINE, namespace))[0])

    async def deployed() -> bool:
        return bool((await kube.list(DEPLOYMENT, namespace))[0])

    await kube.apply(model(namespace))
    for moment in (engine_wanted, deployed, ready):
        async with running(cluster, settings) as operator:
            await kubelet.until(moment)
            await operator.end(signal.SIGKILL)
    assert len((await kube.list(AXENGINE, namespace))[0]) == 1
    assert len((await kube.list(DEPLOYMENT, namespace))[0]) == 1


async def test_a_watch_that_died_fails_the_liveness_probe(cluster, kubelet, settings):
    chosen, process = load_settings(settings)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = process.model_copy(update={"http_port": port})
    running = asyncio.create_task(handlers.run(chosen, process, str(cluster.kubeconfig)))
    name = "watcher for deployments.v1.apps@None"

    async def until(condition) -> None:
        async with asyncio.timeout(BOUND):
            while not await condition():
                assert not running.done()
                await asyncio.sleep(0.05)

    async def watching() -> bool:
        return name in {task.get_name() for task in asyncio.all_tasks()} and await health() == (200, "ok\n")

    async def dead() -> bool:
        return await health() == (500, "the watch of deployments has ended\n")

    async def health() -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as answer:
            return answer.status, await answer.text()

    await until(watching)
    [watcher] = [task for task in asyncio.all_tasks() if task.get_name() == name]
    watcher.cancel()
    await until(dead)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
