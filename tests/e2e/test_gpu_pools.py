"""A.X models on GPU pools: simulated by kwok for every size, and stand-ins in real pods of the real node.

Simulated: nodes and their pods are kwok's; API server, scheduler, operator, resolve Jobs and the one build that only
downloads are real. A build pod ends with a published result as its termination message, because the test says so.

Real pods: the node pretends to have GPUs. Build Jobs run the stand-ins of `tests/standins` for TensorRT-LLM's programs;
serving pods run the real Triton, the real adaptor and the real frontend on a stand-in for the library `tensorrt_llm`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ax_engines.tasks import TaskResult
from local import Cluster, product
from tests.e2e import pools
from tests.e2e.site import Json, Site

pytestmark = pytest.mark.e2e
GOLDEN = Path(__file__).parents[1] / "data" / "e2e" / "gpu-pools.yaml"
PUBLISHED = TaskResult(ok=True, reason="Published", bytes=10 << 30, seconds=4.0)
WISHES: dict[str, tuple[str, str]] = {
    "ax4": ("A.X-4.0", "auto"),
    "ax4-light": ("A.X-4.0-Light", "NVIDIA-L40S"),
    "ax31": ("A.X-3.1", "NVIDIA-H100-80GB-HBM3"),
    "ax31-light": ("A.X-3.1-Light", "NVIDIA-A100-SXM4-80GB"),
    "vl-light": ("A.X-4.0-VL-Light", "NVIDIA-L40S"),
}
BEFORE = {"engineRetention": "0s", "drainSeconds": 30}
"""The settings of the session's cluster (`conftest.cluster`), put back at the end."""


def settings(version: str, retention: str = "1h") -> Json:
    """Return the chart's values of this module: the TensorRT-LLM of simulated pods, and how long engines are kept."""
    toolchains = [pools.toolchain(version), pools.standins(), product.values()["toolchains"][0]]
    return {
        **BEFORE,
        "engineRetention": retention,
        "allowTrustRemoteCode": True,
        "endpoints": [pools.hub_url("gpu-pools")],
        "toolchains": toolchains,
    }


@pytest.fixture(scope="module", autouse=True)
def gpus(cluster: Cluster) -> Iterator[None]:
    """Bring simulated GPU nodes, and the toolchains that need them."""
    cluster.add_fake_gpu_nodes(pools.NODES)
    product.install(cluster, settings("1.2.0"))
    yield
    product.install(cluster, BEFORE)
    cluster.kubectl("delete", "node", *(node["name"] for node in pools.NODES))


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    """A namespace without the demo's model, which no test here serves."""
    product.namespace(cluster, "gpu-pools")
    yield Site(cluster, "gpu-pools")
    cluster.kubectl("delete", "namespace", "gpu-pools", "--wait=false")


def spec(model: str, gpu: str, **more: object) -> Json:
    """Return the spec of a catalogue model that comes from the stand-in hub."""
    repo = f"skt/{model}"
    hub = {"repo": repo, "revision": pools.COMMIT, "endpoint": pools.hub_url("gpu-pools")}
    return {
        "model": model,
        "source": {"huggingFace": hub},
        "placement": {"gpu": gpu},
        "scaling": {"mode": "fixed", "replicas": 1},
        **more,
    }


def all_ready(site: Site, names: list[str]) -> bool:
    """Let simulated builds end; say whether all models are Ready and nothing goes on behind any."""
    pools.complete_builds(site, PUBLISHED)
    found = {m["metadata"]["name"]: m for m in site.items("axm")}
    return all(
        product.condition(found[n], "Ready").get("status") == "True"
        and not product.condition(found[n], "Reconciling")
        and not product.condition(found[n], "Stalled")
        for n in names
    )


@pytest.fixture(scope="module")
def served(site: Site) -> Site:
    """Serve all five A.X models."""
    pools.start_hub(site.cluster, site.namespace)
    for name, (model, gpu) in WISHES.items():
        site.apply(name, spec(model, gpu))
    product.until("five models Ready", lambda: all_ready(site, list(WISHES)), patience=150, pause=0.5)
    return site


def test_five_models_make_the_objects_that_they_should(served: Site) -> None:
    found = told(served)
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(yaml.safe_dump(found, sort_keys=True, width=110))
        pytest.fail(f"{GOLDEN.name} was written: review it")
    assert found == yaml.safe_load(GOLDEN.read_text())


def told(site: Site) -> Json:
    """Return what is in the namespace by kind, without hashes of images, and where each pod is and why."""
    ours = ("-l", "app.kubernetes.io/managed-by=ax-operator")
    kinds = ("axe", "jobs", "configmaps", "services", "networkpolicies", "serviceaccounts", "pdb", "pvc")
    found: Json = {kind: site.names(kind, *(ours if kind != "axe" else ())) for kind in kinds}
    found["jobs"] = [name for name in found["jobs"] if "-src-" not in name]  # go when they were read
    deployments = site.items("deployments", *ours)
    found["deployments"] = {
        d["metadata"]["labels"]["serving.axmodel.io/model"]: d["spec"]["replicas"] for d in deployments
    }
    found["pods"] = {}
    for pod in site.pods():
        labels, spec = pod["metadata"]["labels"], pod["spec"]
        options = json.loads(next(e["value"] for e in spec["initContainers"][0]["env"] if e["name"] == "AX_SERVING"))
        found["pods"][labels["serving.axmodel.io/model"]] = {
            "node": spec["nodeName"],
            "engine": labels["serving.axmodel.io/engine"],
            "gpus": spec["initContainers"][0]["resources"]["limits"]["nvidia.com/gpu"],
            "backend": options["backend"],
            "context": options["contextLength"],
            "slots": options["slots"],
        }
    return found


def test_builds_ran_on_the_pool_that_serves_with_as_many_gpus_as_ranks(served: Site) -> None:
    ran = {}
    for pod in served.pods("build"):
        limits = [c["resources"].get("limits", {}).get("nvidia.com/gpu") for c in pod["spec"]["initContainers"]]
        ran[pod["metadata"]["labels"]["serving.axmodel.io/engine"]] = (pod["spec"]["nodeName"], limits)
    where = {p["engine"]: (p["node"], p["gpus"]) for p in told(served)["pods"].values()}
    for engine, (node, limits) in ran.items():
        asked = [count for count in limits if count]
        if asked:
            assert (node, asked) == (where[engine][0], [where[engine][1]])
        else:
            assert node == served.cluster.node  # only downloads, which GPUs should not wait for


def test_an_operator_that_starts_plans_all_again_and_writes_nothing(served: Site) -> None:
    served.scale_operator(0)
    served.scale_operator(1)
    done = 'reconciles_total{kind="AXModel",result="done"}'
    product.until("all planned again", lambda: counted(served).get(done, 0) >= len(WISHES), patience=60)
    assert {name: count for name, count in counted(served).items() if "writes" in name} == {}


def counted(site: Site) -> dict[str, float]:
    """Return the operator's own series by name and labels."""
    address = f"/api/v1/namespaces/{product.NAMESPACE}/services/ax-operator:8080/proxy/metrics"
    lines = [line.rpartition(" ") for line in site.cluster.kubectl("get", "--raw", address, check=False).splitlines()]
    return {n.removeprefix("ax_operator_"): float(v) for n, _, v in lines if n.startswith("ax_operator_")}


def test_a_full_pool_says_what_is_needed_what_is_free_and_what_helps(served: Site) -> None:
    served.kubectl("scale", "axm/ax31", "--replicas=4")
    product.until("the pool full", lambda: served.model("ax31")["status"]["readyReplicas"] == 4, patience=30)
    served.apply("late", spec("A.X-4.0", "NVIDIA-H100-80GB-HBM3"))
    said = served.until_condition("late", "EngineReady", "Unschedulable", patience=60)
    assert "needs 4 GPUs of NVIDIA-H100-80GB-HBM3 on one node" in said
    assert "0 of 8 on gpu-h100" in said
    assert "scale down a model on these nodes" in said
    assert "Insufficient nvidia.com/gpu" in said
    served.kubectl("scale", "axm/ax31", "--replicas=5")
    said = served.until_condition("ax31", "Reconciling", "Unschedulable", patience=30)
    assert "needs 2 GPUs" in said
    assert served.condition("ax31", "Ready") == ("True", "Serving")
    served.kubectl("delete", "axm", "late")
    served.kubectl("scale", "axm/ax31", "--replicas=1")
    product.until("room again", lambda: all_ready(served, list(WISHES)), patience=60)


def test_a_new_toolchain_builds_and_rolls_one_model_of_a_pool_at_a_time(served: Site) -> None:
    old = set(served.names("axe"))
    product.install(served.cluster, settings("1.2.1"))
    both: set[str] = set()

    def rolled() -> bool:
        ready = all_ready(served, list(WISHES))
        deployments = served.items("deployments")
        count = Counter(d["metadata"]["labels"]["serving.axmodel.io/model"] for d in deployments)
        rolling = {name for name, n in count.items() if n > 1}
        assert not {"ax4-light", "vl-light"} <= rolling, "two of one pool at once"
        both.update(rolling)
        images = {d["spec"]["template"]["spec"]["initContainers"][0]["image"] for d in deployments}
        return ready and images == {"localhost/nobody:1.2.1"} and len(deployments) == len(WISHES)

    product.until("all on the new toolchain", rolled, patience=120, pause=0.5)
    serving = {served.model(name)["status"]["engine"]["serving"] for name in WISHES}
    assert len(serving - old) == 4  # the one that is only downloaded is the same for every toolchain
    assert {served.condition(name, "Ready") for name in WISHES} == {("True", "Serving")}
    targets = {
        e["spec"]["target"]["tensorrtLlm"] for e in served.items("axe") if e["metadata"]["name"] in serving - old
    }
    assert targets == {"1.2.1"}
    assert old <= set(served.names("axe")), "former engines are retained"
    served.kubectl("delete", "axm", "--all", "--wait=false")


# --- stand-ins in real pods ---


@pytest.fixture(scope="module")
def real(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Let the real node pretend to have two GPUs, and bring the stand-ins' image and a tiny model."""
    site.cluster.load_images([pools.standin_image()])
    product.model_claim(site.cluster, site.namespace, pools.tiny_model(tmp_path_factory.mktemp("tiny")), claim="tiny")
    pools.pretend_gpus(site.cluster, pools.REAL)
    yield site
    pools.pretend_gpus(site.cluster, None)


def tiny(quantization: str) -> Json:
    """Return the spec of the tiny model, built and served by the stand-ins."""
    limits = {"maxBatchSize": 4, "maxTotalTokens": 256}
    return {
        "source": {"pvc": {"claimName": "tiny"}},
        "engine": {"toolchain": "standins", "quantization": quantization, "limits": limits},
        "placement": {"gpu": pools.REAL["product"], "pod": {"cpu": "250m", "memory": "1Gi"}},
        "scaling": {"mode": "fixed", "replicas": 1},
    }


def serving(site: Site) -> str:
    """Return the engine that answers for the tiny model."""
    return str(site.model("tiny")["status"]["engine"]["serving"])


def tiny_engines(site: Site) -> set[str]:
    """Return the tiny model's AXEngines."""
    return {name for name in site.names("axe") if name.startswith("model-")}


def stored(site: Site) -> set[str]:
    """Return the folders of its engines."""
    return {p.name for p in site.store().glob("model-*")}


def builds(site: Site) -> set[str]:
    """Return the uids of build Jobs."""
    return {j["metadata"]["uid"] for j in site.items("jobs", "-l", "app.kubernetes.io/component=build")}


def test_real_pods_build_an_engine_and_answer_with_it(real: Site) -> None:
    real.apply("tiny", tiny("none"))
    real.ready("tiny")
    assert real.ask(f"{real.namespace}/tiny", "say:안녕하세요") == "안녕하세요"
    engine = serving(real)
    folder = real.store() / engine
    assert {"rank0.engine", "config.json", "manifest.json", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    job = f"job/{engine}"
    assert "TensorRT LLM version: 1.2.1 (stand-in for trtllm_build)" in real.kubectl("logs", job, "-c", "compile")
    pods = [p for p in real.pods("build") if p["metadata"]["labels"]["serving.axmodel.io/engine"] == engine]
    asked = {c["name"]: c["resources"]["limits"].get("nvidia.com/gpu") for c in pods[0]["spec"]["initContainers"]}
    assert (pods[0]["spec"]["nodeName"], asked) == (real.cluster.node, {"fetch": None, "compile": "1"})


def test_another_recipe_is_built_while_the_old_engine_answers_which_is_then_retained(real: Site) -> None:
    old, before = serving(real), {p["metadata"]["uid"] for p in real.pods()}
    with real.load(f"{real.namespace}/tiny") as outcomes:
        real.apply("tiny", tiny("int8-wo"))
        real.ready("tiny")
        product.until("the old pod gone", lambda: len(real.pods()) == 1, patience=60)
    assert set(outcomes) == {"ok"}, outcomes
    assert outcomes["ok"] >= 4
    assert not before & {p["metadata"]["uid"] for p in real.pods()}
    assert serving(real) != old
    assert tiny_engines(real) == stored(real) == {old, serving(real)}


def test_a_revert_needs_no_build_and_what_nobody_needs_is_collected(real: Site) -> None:
    newer, before = serving(real), builds(real)
    real.apply("tiny", tiny("none"))
    real.ready("tiny")
    assert serving(real) != newer
    assert builds(real) == before
    assert newer in stored(real)
    product.install(real.cluster, settings("1.2.1", retention="0s"))
    product.until("only what is served", lambda: tiny_engines(real) == stored(real) == {serving(real)}, patience=60)
    assert real.ask(f"{real.namespace}/tiny", "say:still here") == "still here"
