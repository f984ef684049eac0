"""A model's life on a real cluster: applied, asked, shared, scaled, rolled, killed, deleted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import openai
import pytest

from local import product
from tests.e2e.site import Json, Site

pytestmark = pytest.mark.e2e


def spec(path: str = product.MODEL_FILE, replicas: int = 1, **more: object) -> Json:
    """Return the demo model's spec."""
    return {
        "model": "SmolLM2-135M-Instruct",
        "source": {"pvc": {"claimName": "models", "path": path}},
        "scaling": {"mode": "fixed", "replicas": replicas},
        **more,
    }


def test_from_apply_to_a_streamed_answer(site: Site) -> None:
    site.apply("smol", spec(routing={"servedNames": ["smol-chat"]}))
    found = site.ready("smol")
    reasons = {c["type"]: (c["status"], c["reason"]) for c in found["status"]["conditions"]}
    assert reasons == {
        "Accepted": ("True", "Accepted"),
        "EngineReady": ("True", "Built"),
        "Available": ("True", "MinimumReplicasAvailable"),
        "Routed": ("True", "OnPrem"),
        "Ready": ("True", "Serving"),
    }
    assert "Seoul" in site.ask(f"{site.namespace}/smol")
    assert "Seoul" in site.ask("smol-chat")
    with site.client() as client:
        listed = {m.id for m in client.models.list()}
        assert {f"{site.namespace}/smol", "smol-chat"} <= listed
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    assert unknown.value.body["code"] == "model_not_found"  # type: ignore[index]


def test_events_tell_each_transition_once(site: Site) -> None:
    events = [e for e in site.items("events.events.k8s.io") if e["regarding"]["kind"] == "AXModel"]
    told = [(e["regarding"]["name"], e["note"].partition(":")[0], e["reason"]) for e in events]
    assert ("smol", "Ready=True", "Serving") in told
    assert len(told) == len(set(told))


def test_the_operators_metrics_tell_of_its_own_domain(site: Site) -> None:
    text = site.cluster.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{product.NAMESPACE}/services/ax-operator:8080/proxy/metrics"
    )
    assert re.search(r'^ax_operator_builds_total\{reason="Built",result="succeeded"\} [1-9]', text, re.MULTILINE)
    assert "ax_operator_reconciles_total" in text


def test_a_second_model_with_the_same_recipe_starts_without_a_build(site: Site) -> None:
    jobs = {j["metadata"]["uid"] for j in site.items("jobs", "-l", "app.kubernetes.io/component=build")}
    engines = site.names("axengines")
    site.apply("twin", spec())
    site.ready("twin")
    assert site.names("axengines") == engines
    assert {j["metadata"]["uid"] for j in site.items("jobs", "-l", "app.kubernetes.io/component=build")} == jobs
    assert "Seoul" in site.ask(f"{site.namespace}/twin")
    site.kubectl("delete", "axm", "twin")


def test_scaling_to_two_to_zero_and_back_loses_no_request(site: Site) -> None:
    name = f"{site.namespace}/smol"
    with site.load(name) as outcomes:
        site.kubectl("scale", "axm/smol", "--replicas=2")
        product.until("two ready", lambda: site.model("smol")["status"]["readyReplicas"] == 2, patience=90)
        site.kubectl("scale", "axm/smol", "--replicas=0")
        product.until("no pod", lambda: not site.pods(), patience=90)
        assert site.until_condition("smol", "Ready", "ScaledToZero")
        site.kubectl("scale", "axm/smol", "--replicas=1")
        site.ready("smol")
        done = outcomes["ok"]
        product.until("answers after waking", lambda: outcomes["ok"] >= done + 4, patience=60)
    assert set(outcomes) == {"ok"}, outcomes


def test_a_changed_context_limit_rolls_pods_without_a_build_and_no_request_fails(site: Site) -> None:
    engines, before = site.names("axengines"), site.names("deployments")
    with site.load(f"{site.namespace}/smol") as outcomes:
        site.apply("smol", spec(engine={"limits": {"maxTotalTokens": 1024}}, routing={"servedNames": ["smol-chat"]}))
        site.ready("smol")
        product.until("the old pods gone", lambda: len(site.pods()) == 1, patience=90)
    assert site.names("axengines") == engines
    assert site.names("deployments") != before
    assert set(outcomes) == {"ok"}, outcomes
    assert outcomes["ok"] >= 4


def test_a_changed_source_builds_and_rolls_while_the_old_one_serves_even_if_the_operator_is_killed(site: Site) -> None:
    old = site.names("axengines")
    with site.load(f"{site.namespace}/smol") as outcomes:
        site.apply("smol", spec("copy.gguf"))
        product.until("a build", lambda: len(site.names("axengines")) == 2, patience=60)
        site.kill_operator()
        product.until("the new revision", lambda: len(site.names("deployments")) == 2, patience=120)
        site.kill_operator()
        site.ready("smol", patience=240)
        product.until("the old engine gone", lambda: len(site.names("axengines")) == 1, patience=90)
    assert site.names("axengines") != old
    assert set(outcomes) == {"ok"}, outcomes
    product.until("the old bytes swept", lambda: _folders(site.store()) == site.names("axengines"), patience=90)
    assert "Seoul" in site.ask(f"{site.namespace}/smol")


def test_a_request_is_answered_with_the_operator_scaled_to_zero(site: Site) -> None:
    site.scale_operator(0)
    try:
        assert "Seoul" in site.ask(f"{site.namespace}/smol")
    finally:
        site.scale_operator(1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{not json", 400),
        (b'{"model": "%s", "messages": "hello"}', 400),
        (b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}], "temperature": NaN}', 400),
        (b'{"model": "%s", "messages": [{"role": "user", "content": "' + b"word " * 20_000 + b'"}]}', 400),
        (b'{"model": "%s", "messages": [{"role": "user", "content": "' + b"x" * (20 << 20) + b'"}]}', 413),
    ],
    ids=["not JSON", "wrong type", "NaN", "longer than the context", "20 MB"],
)
def test_a_bad_body_gets_its_status_and_restarts_nothing(site: Site, body: bytes, status: int) -> None:
    before = _restarts(site)
    content = body.replace(b"%s", f"{site.namespace}/smol".encode())
    answer = httpx.post(
        f"{site.url}/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.status_code == status, answer.text[:500]
    assert answer.json()["error"]["message"]
    assert _restarts(site) == before
    assert "Seoul" in site.ask(f"{site.namespace}/smol")


def test_triton_listens_on_loopback_only(site: Site) -> None:
    address = site.pods()[0]["status"]["podIP"]
    for port in (8010, 8011, 8012):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{address}:{port}/v2/health/ready", timeout=5)


def test_deleting_leaves_nothing_but_the_stores_claim(site: Site) -> None:
    store = site.store()
    site.kubectl("delete", "axm", "--all")
    kinds = "axm,axe,deployments,replicasets,jobs,pods,services,networkpolicies,pdb,serviceaccounts,configmaps,pvc"
    ours = "app.kubernetes.io/managed-by=ax-operator"
    product.until(
        "nothing left", lambda: site.names(kinds, "-l", ours) == ["ax-engines"] and not _folders(store), patience=120
    )
    left = json.loads(site.kubectl("get", kinds, "-l", ours, "-o", "json"))["items"]
    assert [o["kind"] for o in left] == ["PersistentVolumeClaim"]


def _folders(store: Path) -> list[str]:
    """Return what lies in a store, our own staging folder only if something is in it."""
    return sorted(p.name for p in store.iterdir() if p.name != ".staging" or any(p.iterdir()))


def _restarts(site: Site) -> dict[str, int]:
    statuses = [
        (p["metadata"]["name"], s)
        for p in site.pods()
        if not p["metadata"].get("deletionTimestamp")
        for s in [*p["status"].get("containerStatuses", ()), *p["status"].get("initContainerStatuses", ())]
    ]
    return {f"{pod}/{s['name']}": s["restartCount"] for pod, s in statuses}
