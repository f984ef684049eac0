"""An operator in a fake cluster whose controllers do their work when a test says so."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

from ax_engines import contract, tasks
from ax_engines.catalogue import load
from ax_engines.hardware import Toolchain
from ax_engines.tasks import Progress, TaskResult
from ax_operator.api.conditions import timestamp
from ax_operator.api.names import API_VERSION
from ax_operator.control.cache import Cache
from ax_operator.control.measures import Measured
from ax_operator.control.observe import Fixed
from ax_operator.control.occupancy import Occupancy
from ax_operator.control.operator import Operator
from ax_operator.control.wakes import Key
from ax_operator.kinds import AXENGINE, AXMODEL, DEPLOYMENT, JOB, POD, kind_of
from ax_operator.plan.hosted import Told
from ax_operator.plan.world import Settings
from ax_operator.settings import ProcessSettings
from tests.fakes import Crash, FakeCluster

NOW = 1_800_000_000.0
SETTINGS = Settings(
    namespace="ax-system",
    engines_image="registry.test/ax-engines:1",
    toolchains=(Toolchain(name="cpu", image="registry.test/ax-triton:1", backends=("llamacpp",)),),
    engine_retention=3600,
    bare_names=("*",),
)
CATALOGUE = load()
NOBODY = Key("AXModel", "nowhere", "nobody")

Manifest = dict[str, Any]


def model(name: str = "smol", namespace: str = "team-a", path: str = "smol.gguf", **spec: Any) -> Manifest:
    """Return an AXModel as a user writes it."""
    body = {
        "model": "SmolLM2-135M-Instruct",
        "source": {"pvc": {"claimName": "models", "path": path}},
        "scaling": {"mode": "fixed", "replicas": 1},
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": "AXModel", "metadata": metadata, "spec": body | spec}


def node() -> Manifest:
    """Return a node without GPUs."""
    status = {"allocatable": {"cpu": "8", "memory": "32Gi"}, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {}}, "spec": {}, "status": status}


class NoSignals:
    """Measurements that a test puts down."""

    def __init__(self) -> None:
        self.loads: dict[Key, Measured] = {}
        self.told: dict[str, dict[str, Progress]] = {}
        self.requests: dict[Key, dict[str, float]] = {}
        self.shut: frozenset[str] = frozenset()
        self.apis: dict[str, tuple[Told, ...]] = {}
        self.nack: str | None = None
        self.foreign = Occupancy(FakeCluster(), Cache())

    def measured(self, key: Key) -> Measured | None:
        return self.loads.get(key)

    def busy(self, key: Key) -> Mapping[str, float]:
        return self.requests.get(key, {})

    def closed(self) -> frozenset[str]:
        return self.shut

    def hosted(self, api: str) -> tuple[Told, ...]:
        return self.apis.get(api, ())

    def refused(self) -> str | None:
        return self.nack

    def progress(self, namespace: str) -> Mapping[str, Progress]:
        return self.told.get(namespace, {})

    def forget(self, key: Key) -> None:
        self.loads.pop(key, None)

    async def first(self) -> None:
        pass


class House:
    """A cluster, an operator in it, and a clock that only a test moves."""

    def __init__(self, settings: Settings = SETTINGS, cluster: FakeCluster | None = None) -> None:
        self.cluster = cluster or FakeCluster()
        self.settings = settings
        self.now = NOW
        self.signals = NoSignals()
        self.operator = self._operator()
        if cluster is None:
            self.cluster.put(node())

    def _operator(self) -> Operator:
        process = ProcessSettings(
            grace_seconds=5, resync_seconds=1e6, first_resync_seconds=1e6, workers=4, watch_lag_seconds=0.01
        )
        return Operator(
            self.cluster,
            Fixed(self.settings, CATALOGUE),
            process,
            signals=lambda *_: self.signals,
            clock=lambda: self.now,
            ticks=lambda: self.now,
        )

    async def start(self) -> None:
        """Start the operator: what there was before comes by its lists."""
        self.cluster.news.clear()
        await self.operator.start()
        await self.settle()

    async def restart(self) -> None:
        """Lose the process and start another one that knows nothing."""
        await self.operator.stop()
        self.cluster.crash_at, self.cluster.crashed = None, False
        self.operator = self._operator()
        await self.start()

    async def settle(self) -> None:
        """Deliver all news and let the operator work until nothing is due; only time can bring more."""
        async with asyncio.timeout(60):
            while True:
                while self.cluster.news:
                    kind, type_, manifest = self.cluster.news.popleft()
                    self.operator.heard(kind, type_, manifest)
                await asyncio.sleep(0)
                if self.cluster.crashed:
                    raise Crash
                backlog = self.operator.queue.backlog
                if not self.cluster.news and not backlog.running and backlog.next_in(self.now) != 0:
                    return

    async def later(self, seconds: float) -> None:
        """Move the clock and settle."""
        self.now += seconds
        self.operator.wake(NOBODY)  # the queue sleeps by a clock of its own: this makes it look at ours
        await self.settle()

    async def proceed(self, rounds: int = 12) -> None:
        """Let controllers and operator take turns until neither changes anything; time passes in between."""
        for _ in range(rounds):
            version = self.state(full=True)
            self.run_jobs()
            self.run_deployments()
            await self.later(2)
            if self.state(full=True) == version:
                return
        raise AssertionError("the world does not come to rest")

    # --- controllers ---

    def run_jobs(self, fail: str | None = None) -> None:
        """Finish every Job: its pod ends with a result, or with `fail` as its error."""
        for job in self.cluster.all(JOB):
            if job.get("status", {}).get("conditions"):
                continue
            result = self._result(job, fail)
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"]}
            owner["uid"] = job["metadata"]["uid"]
            ended = {"exitCode": 0 if result.ok else 1, "message": result.to_json()}
            self.cluster.put(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": f"{job['metadata']['name']}-x1",
                        "namespace": job["metadata"]["namespace"],
                        "labels": dict(job["spec"]["template"]["metadata"]["labels"]),
                        "ownerReferences": [owner],
                    },
                    "spec": {"nodeName": "n1", "containers": []},
                    "status": {
                        "phase": "Succeeded" if result.ok else "Failed",
                        "containerStatuses": [{"name": "main", "state": {"terminated": ended}}],
                    },
                }
            )
            kind = "Complete" if result.ok else "Failed"
            condition = {"type": kind, "status": "True", "lastTransitionTime": timestamp(self.now)}
            self.cluster.put(self._ref(job) | {"status": {"conditions": [condition], "failed": int(not result.ok)}})

    def _result(self, job: Manifest, fail: str | None) -> TaskResult:
        if fail:
            return TaskResult(ok=False, reason="SourceTruncated", message=fail)
        if job["metadata"]["labels"]["app.kubernetes.io/component"] == "resolve":
            env = job["spec"]["template"]["spec"]["containers"][0]["env"]
            task = next(e["value"] for e in env if e["name"] == tasks.TASK_ENV)
            config = CATALOGUE["SmolLM2-135M-Instruct"].assumed_config()
            resolved = contract.ResolvedSource(
                revision="sha256:" + contract.short_hash(task, 64), format="gguf", files=1, bytes=1 << 20, config=config
            )
            return TaskResult(ok=True, reason="Resolved", resolved=resolved)
        return TaskResult(ok=True, reason="Built", bytes=1 << 20, seconds=3.5)

    def run_deployments(self) -> None:
        """Make every replica that is asked for ready."""
        for deployment in self.cluster.all(DEPLOYMENT):
            wanted = deployment["spec"]["replicas"]
            status = {"replicas": wanted, "readyReplicas": wanted}
            self.cluster.put(self._ref(deployment) | {"status": status})

    @staticmethod
    def _ref(manifest: Manifest) -> Manifest:
        meta = manifest["metadata"]
        return {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
        }

    # --- looking ---

    def condition(self, name: str, type_: str, kind: Any = AXMODEL, namespace: str = "team-a") -> tuple[str, str]:
        """Return (status, reason) of a condition."""
        status = self.cluster.objects[kind, namespace, name].get("status") or {}
        found = {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", ())}
        return found.get(type_, ("-", "-"))

    def engines(self) -> list[str]:
        """Return the AXEngines' names."""
        return [engine["metadata"]["name"] for engine in self.cluster.all(AXENGINE)]

    def state(self, full: bool = False) -> Any:
        """Return the world without what a restart may change: uids, versions, times, pods' leftovers."""
        if full:
            return {a: m["metadata"]["resourceVersion"] for a, m in self.cluster.objects.items()}
        found = {}
        for (kind, namespace, name), manifest in self.cluster.objects.items():
            if kind != POD:
                found[kind.kind, namespace, name] = _lasting(copy.deepcopy(manifest))
        return found


_FLEETING = ("uid", "resourceVersion", "creationTimestamp", "lastTransitionTime", "generation", "observedGeneration")


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lasting(v) for k, v in value.items() if k not in _FLEETING}
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    return value


__all__ = ["NOW", "SETTINGS", "FakeCluster", "House", "kind_of", "model", "node"]
