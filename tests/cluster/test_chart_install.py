"""The chart on a real API server: installed with helm, PodSecurity `restricted` enforced, rights as they are needed."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ax_gateway.agent import WATCHES
from ax_operator.control.observe import OWNED, WATCHED
from ax_operator.kinds import (
    AXENGINE,
    AXHOSTEDAPI,
    AXMODEL,
    CONFIGMAP,
    CRD,
    DEPLOYMENT,
    EVENT,
    NAMESPACE,
    NODE,
    POD,
    PVC,
    SECRET,
    Kind,
)
from ax_operator.kube import Kube
from local import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]

ROOT = Path(__file__).parents[2]
HOME, OPEN, SHUT = "chart-home", "chart-open", "chart-shut"
OPERATOR, GATEWAY = f"system:serviceaccount:{HOME}:ax-operator", f"system:serviceaccount:{HOME}:ax-gateway"

Question = tuple[str, str, str, str, str | None]
"""Who, verb, group, resource (with its subresource), namespace or everywhere."""


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[str]:
    """The release's namespace, in which PodSecurity enforces `restricted`."""
    for name in (HOME, OPEN, SHUT):
        cluster.kubectl("create", "namespace", name)
        cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    values = {
        "image": {"registry": "registry.example/team"},
        "gateway": {"tls": {"secretName": "gateway-tls"}, "bareNames": ["*"]},
        "secretNamespaces": [OPEN],
    }
    path = cluster.folder / "chart-values.json"
    path.write_text(json.dumps(values))
    chart = str(ROOT / "charts" / "ax-operator")
    cluster.helm("install", "ax", chart, "--namespace", HOME, "--values", str(path), "--take-ownership")
    yield HOME
    cluster.helm("uninstall", "ax", "--namespace", HOME)
    left = json.loads(cluster.kubectl("-n", HOME, "get", "all,configmaps,netpol,pdb,role,rolebinding", "-o", "json"))
    owned = [o["metadata"]["name"] for o in left["items"] if o["metadata"]["name"].startswith("ax")]
    assert [n for n in owned if "-operator-" not in n and "-gateway-" not in n] == []  # pods may still be going
    assert "axmodels.serving.axmodel.io" in cluster.kubectl("get", "crd", "-o", "name"), "crds.keep"


def allowed(cluster: Cluster, questions: list[Question]) -> dict[Question, bool]:
    """Ask the API server who may do what, all at once: what `kubectl auth can-i` asks one by one."""

    def review(question: Question) -> dict[str, Any]:
        who, verb, group, resource, namespace = question
        plural, _, subresource = resource.partition("/")
        what = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "namespace": namespace}
        spec = {"user": who, "groups": ["system:authenticated", "system:serviceaccounts"], "resourceAttributes": what}
        return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}

    body = {"apiVersion": "v1", "kind": "List", "items": list(map(review, questions))}
    one_word = 'jsonpath={.status.allowed}{" "}'
    words = cluster.kubectl("create", "-f", "-", "-o", one_word, input=json.dumps(body)).split()
    return {question: word == "true" for question, word in zip(questions, words, strict=True)}


def ask(who: str, kind: Kind, *verbs: str, sub: str = "", namespace: str | None = OPEN) -> list[Question]:
    resource = f"{kind.plural}/{sub}" if sub else kind.plural
    return [(who, verb, kind.group, resource, namespace if kind.namespaced else None) for verb in verbs]


def needed() -> list[Question]:
    """What the operator and the agent do, read from what they import."""
    found: list[Question] = []
    for kind in WATCHED:
        found += ask(OPERATOR, kind, "list", "watch", namespace=None)
    for kind in (*OWNED, AXENGINE):
        found += ask(OPERATOR, kind, "patch")
        if kind != POD:
            found += ask(OPERATOR, kind, "get", "create")
        if kind not in (POD, PVC):
            found += ask(OPERATOR, kind, "delete")
    for kind in (AXMODEL, AXENGINE, AXHOSTEDAPI):
        found += ask(OPERATOR, kind, "patch", sub="status")
    found += ask(OPERATOR, EVENT, "create")
    found += ask(OPERATOR, SECRET, "get")
    for kind, _ in WATCHES:
        found += ask(GATEWAY, kind, "list", "watch", namespace=HOME if kind is SECRET else None)
    return found


def forbidden() -> list[Question]:
    """What neither may do, whatever somebody makes of the process."""
    found: list[Question] = []
    found += ask(OPERATOR, SECRET, "get", namespace=SHUT) + ask(OPERATOR, SECRET, "get", namespace=None)
    for namespace in (OPEN, SHUT, HOME, None):
        found += ask(OPERATOR, SECRET, "list", "watch", "create", "patch", "update", "delete", namespace=namespace)
        found += ask(GATEWAY, SECRET, "create", "patch", "update", "delete", namespace=namespace)
        if namespace != HOME:
            found += ask(GATEWAY, SECRET, "get", "list", "watch", namespace=namespace)
    found += ask(OPERATOR, AXMODEL, "create", "patch", "update", "delete")
    found += ask(OPERATOR, POD, "create", "delete") + ask(OPERATOR, POD, "create", sub="exec")
    found += ask(OPERATOR, PVC, "delete") + ask(OPERATOR, NODE, "patch") + ask(OPERATOR, NAMESPACE, "create", "delete")
    found += ask(OPERATOR, CRD, "patch") + ask(
        OPERATOR, Kind("", "v1", "ServiceAccount", "serviceaccounts"), "create", sub="token"
    )
    for kind in (Kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", namespaced=False),):
        found += ask(OPERATOR, kind, "create", "patch", "escalate", "bind")
    for kind in (POD, DEPLOYMENT, CONFIGMAP, AXENGINE, AXHOSTEDAPI):
        found += ask(GATEWAY, kind, "create", "patch", "delete")
    return found


@pytest.mark.usefixtures("installed")
def test_each_verb_that_the_programs_need_is_allowed(cluster: Cluster) -> None:
    answers = allowed(cluster, needed())
    assert [q for q, yes in answers.items() if not yes] == []


@pytest.mark.usefixtures("installed")
def test_what_the_programs_must_not_do_is_forbidden(cluster: Cluster) -> None:
    answers = allowed(cluster, forbidden())
    assert [q for q, yes in answers.items() if yes] == []


@pytest.mark.usefixtures("installed")
def test_editors_of_a_namespace_edit_its_models_but_not_engines_and_viewers_only_look(cluster: Cluster) -> None:
    for who, role in (("ed", "edit"), ("vi", "view")):
        cluster.kubectl("-n", OPEN, "create", "rolebinding", who, f"--clusterrole={role}", f"--user={who}")
    may = ask("ed", AXMODEL, "create", "patch", "delete", "watch") + ask("ed", AXMODEL, "update", sub="scale")
    may += ask("ed", AXENGINE, "list") + ask("vi", AXMODEL, "list") + ask("vi", AXENGINE, "get")
    must_not = ask("ed", AXENGINE, "create", "patch") + ask("ed", AXMODEL, "patch", sub="status")
    must_not += ask("vi", AXMODEL, "create", "patch") + ask("ed", AXHOSTEDAPI, "create")
    must_not += ask("ed", AXMODEL, "create", namespace=SHUT)

    def settled() -> bool:  # a controller adds our rules to `edit` and `view`
        answers = allowed(cluster, may + must_not)
        return all(answers[q] for q in may) and not any(answers[q] for q in must_not)

    assert poll(settled), allowed(cluster, may + must_not)


def poll(probe: Callable[[], bool], tries: int = 50) -> bool:
    for _ in range(tries):
        if probe():
            return True
        time.sleep(0.1)
    return False


async def test_pods_of_both_deployments_pass_restricted(kube: Kube, cluster: Cluster, installed: str) -> None:
    deployments, _ = await kube.list(DEPLOYMENT, installed)
    assert {d["metadata"]["name"] for d in deployments} == {"ax-operator", "ax-gateway"}
    for deployment in deployments:
        template = deployment["spec"]["template"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": "probe"},
            "spec": template["spec"],
        }
        out = cluster.kubectl("-n", installed, "create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(pod))
        assert "pod/probe created" in out
    pods: list[Any] = []

    def made() -> bool:
        nonlocal pods
        pods = json.loads(cluster.kubectl("-n", installed, "get", "pods", "-o", "json"))["items"]
        return len(pods) == 3

    assert poll(made), "the API server must let the Deployments make their pods"


async def test_installing_again_changes_nothing(kube: Kube, cluster: Cluster, installed: str) -> None:
    async def state() -> dict[str, int]:
        found, _ = await kube.list(DEPLOYMENT, installed)
        return {d["metadata"]["name"]: d["metadata"]["generation"] for d in found}

    before = await state()
    values = str(cluster.folder / "chart-values.json")
    cluster.helm("upgrade", "ax", str(ROOT / "charts" / "ax-operator"), "--namespace", installed, "--values", values)
    assert await state() == before


def test_scraping_objects_and_both_ways_of_tls_pass_the_api_server(cluster: Cluster, installed: str) -> None:
    values = str(ROOT / "tests" / "data" / "chart" / "everything.values.yaml")
    chart = str(ROOT / "charts" / "ax-operator")
    flags = (
        "--set",
        "monitors.enabled=false",
        "--set",
        "alerts.prometheusRule=false",
        "--set-json",
        "secretNamespaces=[]",
    )
    text = cluster.helm("template", "ax", chart, "--namespace", installed, "--values", values, *flags)
    out = cluster.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-", input=text
    )
    assert "deployment.apps/ax-gateway" in out


def test_catalogue_chart_makes_models_that_the_api_server_takes(cluster: Cluster, installed: str) -> None:
    chart = str(ROOT / "charts" / "ax-models")
    names = yaml.safe_load((ROOT / "charts" / "ax-models" / "values.yaml").read_text())["models"]
    on = [flag for name in names for flag in ("--set", f"models.{name}.enabled=true")]
    commit = ("--set", f"models.ax-4-0-vl-light.spec.source.huggingFace.revision={'0' * 40}")
    text = cluster.helm("template", "models", chart, "--namespace", OPEN, *on, *commit)
    out = cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=text)
    assert out.count("axmodel.serving.axmodel.io/") == len(names)
