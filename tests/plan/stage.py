"""A cluster on paper: applies plans, and moves Jobs, pods and Deployments when a test says so.

It stands at the cluster seam, so that plan tests read as stories: apply, finish the Job, make pods ready, look.
"""

from __future__ import annotations

import copy
from typing import Any

import yaml

from ax_engines import contract, tasks
from ax_engines.catalogue import load
from ax_engines.hardware import Toolchain
from ax_operator.api import names
from ax_operator.api.conditions import timestamp
from ax_operator.plan.diff import satisfied
from ax_operator.plan.machines import Machines
from ax_operator.plan.marks import due, queue_of
from ax_operator.plan.model import plan_model
from ax_operator.plan.scaling import Load
from ax_operator.plan.store import plan_store
from ax_operator.plan.world import Json, Plan, Seen, Settings, World, labels

NOW = 1_800_000_000.0
CPU_NODE: Json = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "cpu-node", "labels": {}},
    "status": {"allocatable": {"cpu": "8", "memory": "24000Mi"}},
}
CPU_TOOLCHAIN = Toolchain(name="cpu", image="registry.test/ax-triton:1", backends=("llamacpp", "transformers"))
SETTINGS = Settings(
    namespace="ax-system",
    engines_image="registry.test/ax-engines:1",
    toolchains=(CPU_TOOLCHAIN,),
    endpoints=("https://huggingface.co",),
    engine_retention=3600,
)
CATALOGUE = load()
SMOL = CATALOGUE["SmolLM2-135M-Instruct"]


def world(**changes: Any) -> World:
    """Return a world with a CPU node and the catalogue; changes replace fields of World or of its Settings."""
    own = {k: v for k, v in changes.items() if k in Settings.model_fields}
    rest = {k: v for k, v in changes.items() if k not in own}
    return World(
        settings=SETTINGS.model_copy(update=own), catalogue=CATALOGUE, **{"machines": Machines((CPU_NODE,)), **rest}
    )


def model(spec: str | Json, name: str = "smol", namespace: str = "team-a") -> Json:
    """Return an AXModel as the API server holds it."""
    body = yaml.safe_load(spec) if isinstance(spec, str) else spec
    return {
        "apiVersion": names.API_VERSION,
        "kind": "AXModel",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1},
        "spec": body,
    }


DEMO = """
model: SmolLM2-135M-Instruct
source: {pvc: {claimName: models, path: smollm2.gguf}}
scaling: {mode: fixed, replicas: 1}
"""


def resolved(revision: str = "sha256:" + "a" * 64, **config: Any) -> contract.ResolvedSource:
    """Return what the resolve Job says of the demo model."""
    real = SMOL.assumed_config().model_copy(update=config)
    return contract.ResolvedSource(revision=revision, format="gguf", files=1, bytes=100 << 20, config=real)


class Stage:
    """One namespace's objects; `now` moves only when a test moves it."""

    def __init__(self, the_world: World, *models: Json) -> None:
        self.world = the_world
        self.now = NOW
        self.objects: dict[tuple[str, str], Json] = {}
        self.models = {m["metadata"]["name"]: m for m in models}
        self.loads: dict[str, Load] = {}
        self.memories: dict[str, Any] = {}
        self.progress: dict[str, tasks.Progress] = {}
        self.secret: Any = None
        self.takers: tuple[Json, ...] = ()
        self._uid = 0

    # --- looking ---
    def seen(self, name: str, *, rivals: bool = True) -> Seen:
        """Return what the model `name` sees: its own objects, and the AXEngines."""
        own = [o for o in self.objects.values() if labels(o).get(names.MODEL) == name or o["kind"] == "AXEngine"]
        return Seen(
            objects=tuple(copy.deepcopy(own)),
            load=self.loads.get(name),
            progress=self.progress,
            secret=self.secret,
            takers=self.takers,
            rivals=self.rivals(name) if rivals else (),
            **({"memory": self.memories[name]} if name in self.memories else {}),
        )

    def rivals(self, name: str) -> tuple[tuple[Json, Seen], ...]:
        """Return the models that the chart makes roll before this one."""
        found = [d for d in self.all("Deployment") if due(d, self.world.settings)]
        queues = {queue_of(d) for d in found if labels(d)[names.MODEL] == name}
        before = {labels(d)[names.MODEL] for d in found if queue_of(d) in queues}
        return tuple(
            (self.models[n], self.seen(n, rivals=False)) for n in sorted(before & set(self.models)) if n < name
        )

    def store_seen(self) -> Seen:
        """Return what the store's plan sees: everything, and each model's own view."""
        pairs = tuple((m, self.seen(n)) for n, m in sorted(self.models.items()))
        objects = tuple(copy.deepcopy(list(self.objects.values())))
        return Seen(objects=objects, models=pairs, progress=self.progress, takers=self.takers)

    def get(self, kind: str, name: str) -> Json:
        """Return an object, or fail with what is there."""
        if (kind, name) not in self.objects:
            raise AssertionError(f"no {kind} {name}; there are {sorted(self.objects)}")
        return self.objects[kind, name]

    def all(self, kind: str) -> list[Json]:
        """Return the objects of a kind, by name."""
        return [o for (k, _), o in sorted(self.objects.items()) if k == kind]

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind's objects."""
        return [o["metadata"]["name"] for o in self.all(kind)]

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """Return (status, reason) of a model's condition."""
        found = {c["type"]: c for c in self.models[name]["status"]["conditions"]}
        return (found[kind]["status"], found[kind]["reason"]) if kind in found else ("-", "-")

    def message(self, name: str, kind: str) -> str:
        """Return the message of a model's condition."""
        return next(c["message"] for c in self.models[name]["status"]["conditions"] if c["type"] == kind)

    # --- planning ---
    def reconcile(self, limit: int = 20) -> None:
        """Plan and apply until nothing changes; a plan that never settles fails."""
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError("the plan does not settle")

    def step(self) -> bool:
        """Plan and apply every model and the store once; return whether anything changed."""
        changed = False
        for name, one in sorted(self.models.items()):
            plan = plan_model(copy.deepcopy(one), self.seen(name), self.world, self.now)
            self.memories[name] = plan.memory
            changed |= self.apply(plan)
            if plan.status is not None and plan.status != one.get("status"):
                one["status"] = plan.status
                changed = True
        store = plan_store("team-a", self.store_seen(), self.world, self.now)
        changed |= self.apply(store)
        for status in store.statuses:
            engine = self.get("AXEngine", status["metadata"]["name"])
            if engine.get("status") != status["status"]:
                engine["status"] = status["status"]
                changed = True
        return changed

    def apply(self, plan: Plan) -> bool:
        """Apply a plan as the shell does; return whether anything changed."""
        changed = False
        for child in plan.children:
            key = (child["kind"], child["metadata"]["name"])
            if not satisfied(child, self.objects.get(key)):
                self._write(key, child)
                changed = True
        for ref in plan.obsolete:
            changed |= self.delete(ref.kind, ref.name, uid=ref.uid)
        return changed

    def _write(self, key: tuple[str, str], child: Json) -> None:
        old = self.objects.get(key)
        new = copy.deepcopy(child)
        if old is None:
            self._uid += 1
            new["metadata"] |= {"uid": f"uid-{self._uid}", "creationTimestamp": timestamp(self.now)}
        else:
            for field in ("uid", "creationTimestamp"):
                new["metadata"][field] = old["metadata"][field]
            if "status" in old:
                new["status"] = old["status"]
        self.objects[key] = new

    def delete(self, kind: str, name: str, uid: str | None = None) -> bool:
        """Delete an object and what it owns."""
        found = self.objects.get((kind, name))
        if not found or (uid and found["metadata"]["uid"] != uid):
            return False
        del self.objects[kind, name]
        self._collect(found["metadata"]["uid"])
        return True

    def delete_model(self, name: str) -> None:
        """Delete an AXModel; what it owns goes with it."""
        self._collect(self.models.pop(name)["metadata"]["uid"])

    def _collect(self, uid: str) -> None:
        for key, o in list(self.objects.items()):
            if any(r.get("uid") == uid for r in o["metadata"].get("ownerReferences") or ()):
                self.delete(*key)

    # --- what the cluster does ---
    def jobs(self, component: str) -> list[Json]:
        """Return the Jobs of a component that have not ended."""
        return [j for j in self.all("Job") if labels(j)[names.COMPONENT] == component and not j.get("status")]

    def job(self, component: str) -> Json:
        """Return the one Job of a component that has not ended."""
        jobs = self.jobs(component)
        assert len(jobs) == 1, (component, self.names("Job"))
        return jobs[0]

    def finish(self, component: str, result: tasks.TaskResult, *, of: str = "") -> None:
        """End every running Job of a component with a result, or only those whose name contains `of`."""
        jobs = [j for j in self.jobs(component) if of in j["metadata"]["name"]]
        assert jobs, (component, self.names("Job"))
        for job in jobs:
            last = job["spec"]["template"]["spec"]["containers"][-1]["name"]
            state = {"terminated": {"exitCode": 0 if result.ok else 1, "message": result.to_json(), "reason": "Error"}}
            self._pod(job, "Succeeded" if result.ok else "Failed", [{"name": last, "state": state}])
            now = timestamp(self.now)
            kind = "Complete" if result.ok else "Failed"
            job["status"] = {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": now}]}
            if not result.ok:
                job["status"]["failed"] = 7

    def fail_once(self, component: str, result: tasks.TaskResult) -> None:
        """One pod of the running Job ends badly; the Job goes on."""
        job = self.job(component)
        name = job["spec"]["template"]["spec"]["containers"][-1]["name"]
        state = {"terminated": {"exitCode": 1, "message": result.to_json(), "reason": "Error"}}
        self._pod(job, "Failed", [{"name": name, "state": state}])

    def resolve(self, found: contract.ResolvedSource | None = None) -> None:
        """Finish the resolve Job well."""
        self.finish("resolve", tasks.TaskResult(ok=True, reason="Resolved", resolved=found or resolved()))

    def build(self) -> None:
        """Finish the build Job well."""
        chat = contract.ChatFacts(template=True, context_length=8192)
        self.finish("build", tasks.TaskResult(ok=True, reason="Published", bytes=100 << 20, seconds=3.0, chat=chat))

    def ready(self, name: str, count: int | None = None, *, engine: str | None = None) -> None:
        """Make `count` pods (all, when left out) of a model's Deployments ready, or of those of one engine."""
        for deployment in self.all("Deployment"):
            if labels(deployment)[names.MODEL] != name or engine not in (None, labels(deployment)[names.ENGINE]):
                continue
            wanted = deployment["spec"]["replicas"]
            up = wanted if count is None else min(count, wanted)
            deployment["status"] = {"replicas": wanted, "readyReplicas": up}

    def pod_waits(self, name: str, why: str) -> None:
        """Give a model's newest Deployment a pod that no node takes."""
        newest = self.all("Deployment")[-1]
        pod = self._pod(newest, "Pending", [])
        pod["metadata"]["labels"] = dict(newest["spec"]["template"]["metadata"]["labels"])
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
        pod["status"]["conditions"] = [condition]

    def lost(self, name: str, why: str, component: str = "serving") -> Json:
        """Give a Deployment or Job a pod of its template that no node takes."""
        kind = "Deployment" if component == "serving" else "Job"
        parent = self.get(kind, name)
        pod = self._pod(parent, "Pending", [])
        template = parent["spec"]["template"]
        pod["metadata"]["labels"] = dict(template["metadata"]["labels"])
        pod["spec"] = copy.deepcopy(template["spec"])
        pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": why}]
        return pod

    def _pod(self, parent: Json, phase: str, statuses: list[Json]) -> Json:
        self._uid += 1
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{parent['metadata']['name']}-{self._uid}",
                "namespace": parent["metadata"]["namespace"],
                "uid": f"uid-{self._uid}",
                "creationTimestamp": timestamp(self.now),
                "labels": dict(parent["metadata"]["labels"]),
                "ownerReferences": [{"kind": parent["kind"], "uid": parent["metadata"]["uid"]}],
            },
            "status": {"phase": phase, "containerStatuses": statuses},
        }
        self.objects["Pod", pod["metadata"]["name"]] = pod
        return pod
