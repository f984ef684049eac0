"""The three kinds on a real API server: structural, with messages, columns, subresources and short names."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ax_operator.kinds import AXHOSTEDAPI, CRD, Kind
from ax_operator.kube import Kube
from ax_operator.kube_errors import KubeError
from local import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "manifests"
FOREIGN = {"ScaledObject"}  # of KEDA, which is not installed here

MODEL = """
apiVersion: serving.axmodel.io/v1alpha1
kind: AXModel
metadata: {name: ax-4-0, namespace: %s}
spec:
  model: A.X-4.0
"""
STATUS = """
observedGeneration: 1
conditions:
- {type: Ready, status: "False", reason: Building, message: compiles, lastTransitionTime: "2026-01-02T03:04:05Z"}
- {type: Routed, status: "True", reason: Hosted, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}
engine: {name: ax-4-0-0123456789, serving: ax-4-0-fedcba9876}
replicas: 2
readyReplicas: 1
selector: serving.axmodel.io/model=ax-4-0
queue: {running: 7, waiting: 3, held: 0}
"""


def documents(path: Path, namespace: str) -> list[dict[str, Any]]:
    found = [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]
    for document in found:
        if document["kind"] != "AXHostedAPI":
            document["metadata"]["namespace"] = namespace
    return found


def refusals(path: Path) -> list[str]:
    return [line[11:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# refused: ")]


@pytest.fixture
async def model(kube: Kube, namespace: str) -> dict[str, Any]:
    """An AXModel with a status."""
    made = await kube.apply(yaml.safe_load(MODEL % namespace))
    status = {k: made[k] for k in ("apiVersion", "kind")} | {"status": yaml.safe_load(STATUS)}
    return await kube.apply(status | {"metadata": {"name": "ax-4-0", "namespace": namespace}}, status=True)


async def test_schemas_are_structural(kube: Kube) -> None:
    for name in ("axmodels", "axengines", "axhostedapis"):
        found = await kube.get(CRD, f"{name}.serving.axmodel.io")
        assert found is not None
        conditions = {c["type"]: c["status"] for c in found["status"]["conditions"]}
        assert conditions["Established"] == "True"
        assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("path", sorted((DATA / "good").glob("*.yaml")), ids=lambda p: p.stem)
async def test_good_manifest_is_created_unchanged(path: Path, kube: Kube, shared_namespace: str) -> None:
    (manifest,) = documents(path, shared_namespace)
    made = await kube.apply(manifest)
    spec = made["spec"]
    if manifest["kind"] == "AXModel":  # the only defaults: what the scale subresource reads
        scaling = manifest["spec"].get("scaling", {})
        assert spec.pop("scaling") == {"replicas": 1} | scaling
        manifest["spec"].pop("scaling", None)
    assert spec == manifest["spec"]


@pytest.mark.parametrize("path", sorted((DATA / "bad").glob("*.yaml")), ids=lambda p: p.stem)
async def test_bad_manifest_is_refused_with_its_message(path: Path, kube: Kube, namespace: str) -> None:
    *before, last = documents(path, namespace)
    for manifest in before:
        await kube.apply(manifest)
    with pytest.raises(KubeError) as caught:
        await kube.apply(last)
    for message in refusals(path):
        assert message in str(caught.value)


def test_examples_pass_a_strict_dry_run(cluster: Cluster) -> None:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        kept = [d for d in documents(path, "default") if d["kind"] not in FOREIGN]
        text = "---\n".join(map(yaml.safe_dump, kept))
        out = cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=text)
        assert out.count("created (server dry run)") == len(kept), path.name


@pytest.mark.parametrize("name", ["axm", "axmodel", "axmodels"])
def test_columns_say_what_matters(cluster: Cluster, model: dict[str, Any], name: str) -> None:
    head, row = cluster.kubectl("-n", model["metadata"]["namespace"], "get", name).splitlines()
    assert head.split() == ["NAME", "READY", "REASON", "ENGINE", "REPLICAS", "QUEUE", "ROUTE", "AGE"]
    assert row.split()[:7] == ["ax-4-0", "False", "Building", "ax-4-0-fedcba9876", "1", "3", "Hosted"]


def test_wide_columns_have_the_message_and_the_category_has_all_kinds(cluster: Cluster, model: dict[str, Any]) -> None:
    namespace = model["metadata"]["namespace"]
    assert "compiles" in cluster.kubectl("-n", namespace, "get", "axm", "-o", "wide")
    cluster.kubectl("-n", namespace, "apply", "-f", str(DATA / "good" / "axengine-gguf.yaml"))
    listed = cluster.kubectl("-n", namespace, "get", "ax", "-o", "name")
    assert "axmodel.serving.axmodel.io/ax-4-0" in listed
    assert "axengine.serving.axmodel.io/smollm2-0123456789" in listed
    row = cluster.kubectl("-n", namespace, "get", "axe").splitlines()
    assert row[0].split() == ["NAME", "READY", "REASON", "ARTIFACT", "PHASE", "PERCENT", "IN", "USE", "AGE"]


async def test_short_name_of_hosted_apis_and_their_columns(cluster: Cluster, kube: Kube) -> None:
    cluster.kubectl("apply", "-f", str(DATA / "good" / "axhostedapi-least.yaml"))
    head, *rows = cluster.kubectl("get", "axh").splitlines()
    assert head.split() == ["NAME", "MODEL", "REACHABLE", "SPENT", "TODAY", "AGE"]
    assert "least" in {row.split()[0] for row in rows}
    await kube.delete(AXHOSTEDAPI, "least")


async def test_scale_reads_and_writes_replicas(cluster: Cluster, kube: Kube, model: dict[str, Any]) -> None:
    namespace = model["metadata"]["namespace"]
    scale = yaml.safe_load(
        cluster.kubectl("-n", namespace, "get", "axm", "ax-4-0", "--subresource=scale", "-o", "yaml")
    )
    assert scale["spec"]["replicas"] == 1
    assert scale["status"] == {"replicas": 2, "selector": "serving.axmodel.io/model=ax-4-0"}
    cluster.kubectl("-n", namespace, "scale", "axm", "ax-4-0", "--replicas=0")
    found = await kube.get(Kind("serving.axmodel.io", "v1alpha1", "AXModel", "axmodels"), "ax-4-0", namespace)
    assert found is not None
    assert found["spec"]["scaling"] == {"replicas": 0}
    assert found["metadata"]["generation"] == model["metadata"]["generation"] + 1


async def test_status_is_a_subresource(kube: Kube, model: dict[str, Any]) -> None:
    namespace = model["metadata"]["namespace"]
    manifest = yaml.safe_load(MODEL % namespace) | {"status": {"replicas": 99}}
    assert (await kube.apply(manifest))["status"]["replicas"] == 2
    sneaky = {
        "apiVersion": model["apiVersion"],
        "kind": "AXModel",
        "spec": {"model": "other"},
        "status": {"replicas": 3},
    }
    made = await kube.apply(sneaky | {"metadata": {"name": "ax-4-0", "namespace": namespace}}, status=True)
    assert (made["spec"]["model"], made["status"]["replicas"]) == ("A.X-4.0", 3)
    assert made["metadata"]["generation"] == model["metadata"]["generation"]


async def test_conditions_are_one_per_type(kube: Kube, model: dict[str, Any]) -> None:
    meta = {"name": "ax-4-0", "namespace": model["metadata"]["namespace"]}
    twice = [
        {"type": "Ready", "status": s, "reason": "X", "lastTransitionTime": "2026-01-02T03:04:05Z"}
        for s in ("True", "False")
    ]
    head = {"apiVersion": model["apiVersion"], "kind": "AXModel", "metadata": meta}
    with pytest.raises(KubeError, match="duplicate entries"):
        await kube.apply(head | {"status": {"conditions": twice}}, status=True)


def test_every_field_is_explained(cluster: Cluster) -> None:
    text = cluster.kubectl("explain", "axm.spec.scaling")
    for word in ("minReplicas", "0 allows scaling to zero", "Default: builtin"):
        assert word in text
