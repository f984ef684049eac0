"""The client against a real API server."""

import asyncio
import json

import pytest

from ax_operator.control.occupancy import LIVING
from ax_operator.kinds import CONFIGMAP, DEPLOYMENT, EVENT, NAMESPACE, POD, SECRET, Kind, kind_of
from ax_operator.kube import Kube
from ax_operator.kube_errors import Conflict, Forbidden, Invalid, Missing, Unreachable

pytestmark = pytest.mark.cluster

NOW = "2026-01-02T03:04:05.000006Z"


def config(namespace: str, name: str, labels: dict | None = None, **data: str) -> dict:
    meta = {"name": name, "namespace": namespace} | ({"labels": labels} if labels else {})
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def names(found) -> list[str]:
    return sorted(item["metadata"]["name"] for item in found)


async def test_an_object_is_applied_read_listed_and_deleted(kube, namespace):
    made = await kube.apply(config(namespace, "a", {"x": "1"}, key="1"))
    assert made["data"] == {"key": "1"}
    changed = await kube.apply(config(namespace, "a", key="2"))
    assert changed["data"] == {"key": "2"}
    assert "labels" not in changed["metadata"]  # what we no longer want of our own fields goes
    assert (await kube.apply(config(namespace, "a", key="2")))["metadata"]["resourceVersion"] == changed["metadata"][
        "resourceVersion"
    ]
    assert (await kube.get(CONFIGMAP, "a", namespace))["data"] == {"key": "2"}
    await kube.delete(CONFIGMAP, "a", namespace)
    assert await kube.get(CONFIGMAP, "a", namespace) is None
    await kube.delete(CONFIGMAP, "a", namespace)


async def test_metadata_comes_without_the_data(kube, namespace):
    assert await kube.get_metadata(SECRET, "s", namespace) is None
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": namespace}}
    secret["metadata"]["labels"] = {"x": "1"}
    await kube.apply(secret | {"stringData": {"token": "never-to-be-read"}})
    found = await kube.get_metadata(SECRET, "s", namespace)
    assert found["metadata"]["labels"] == {"x": "1"}
    assert "data" not in found


async def test_what_others_own_is_left_alone_and_what_we_own_is_taken_back(cluster, kube, namespace):
    await kube.apply(config(namespace, "a", ours="1"))
    async with Kube(cluster.kubeconfig, manager="somebody") as other:
        await other.apply(config(namespace, "a", ours="stolen", theirs="1"))
    assert (await kube.apply(config(namespace, "a", ours="1")))["data"] == {"ours": "1", "theirs": "1"}


async def test_a_list_goes_over_pages_and_obeys_labels_and_namespaces(cluster, kube, namespace):
    for n in range(7):
        await kube.apply(config(namespace, f"c{n}", {"even": str(n % 2 == 0).lower()}))
    async with Kube(cluster.kubeconfig, page=3) as paging:
        items, version = await paging.list(CONFIGMAP, namespace, "even")
        everywhere, _ = await paging.list(CONFIGMAP, labels="even=true")
    assert names(items) == [f"c{n}" for n in range(7)]
    assert int(version) > 0
    assert {kind_of(item) for item in items} == {CONFIGMAP}
    assert names(everywhere) == ["c0", "c2", "c4", "c6"]


async def test_a_refused_object_says_why_in_the_servers_words(kube, namespace):
    bad = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": namespace}}
    with pytest.raises(Invalid, match=r"spec\.selector: Required value"):
        await kube.apply(bad | {"spec": {"template": {"spec": {"containers": []}}}})
    with pytest.raises(Invalid, match="field not declared in schema"):
        await kube.apply(bad | {"spec": {"replicsa": 1}})
    assert await kube.get(DEPLOYMENT, "d", namespace) is None


async def test_a_namesake_is_not_deleted(kube, namespace):
    first = await kube.apply(config(namespace, "a"))
    await kube.delete(CONFIGMAP, "a", namespace, uid=first["metadata"]["uid"])
    second = await kube.apply(config(namespace, "a"))
    with pytest.raises(Conflict):
        await kube.delete(CONFIGMAP, "a", namespace, uid=first["metadata"]["uid"])
    assert (await kube.get(CONFIGMAP, "a", namespace))["metadata"]["uid"] == second["metadata"]["uid"]


async def test_an_unknown_user_and_one_without_rights_are_forbidden(cluster, kube, namespace, tmp_path):
    account = {"name": "nobody", "namespace": namespace}
    await kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    token = await asyncio.to_thread(cluster.kubectl, "create", "token", "nobody", "-n", namespace)
    for secret in (token.strip(), "no-token-at-all"):
        theirs = json.loads(cluster.kubeconfig.read_text())
        theirs["users"][0]["user"] = {"token": secret}
        file = tmp_path / "kubeconfig"
        file.write_text(json.dumps(theirs))
        async with Kube(file) as nobody:
            with pytest.raises(Forbidden):
                await nobody.get(CONFIGMAP, "a", namespace)


async def test_a_kind_that_is_not_installed_is_missing(kube):
    with pytest.raises(Missing):
        await kube.list(Kind("nowhere.example", "v1", "Thing", "things"))


async def test_a_server_that_is_not_there_is_unreachable(cluster, tmp_path):
    away = json.loads(cluster.kubeconfig.read_text())
    away["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(away))
    async with Kube(file) as kube:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            await kube.get(CONFIGMAP, "a", "default")


async def test_a_status_is_written_apart_and_only_to_what_exists(kube, crds, namespace):
    base = {"apiVersion": "serving.axmodel.io/v1alpha1", "kind": "AXModel"}
    model = base | {"metadata": {"name": "m", "namespace": namespace}}
    with pytest.raises(Missing):
        await kube.apply(model | {"status": {"replicas": 1}}, status=True)
    made = await kube.apply(model | {"spec": {"model": "A.X-4.0-Light"}})
    written = await kube.apply(model | {"status": {"replicas": 1}}, status=True)
    assert written["spec"] == made["spec"]
    assert written["status"]["replicas"] == 1
    assert written["metadata"]["generation"] == made["metadata"]["generation"]


async def test_an_event_is_seen_where_its_object_is(kube, namespace):
    about = await kube.apply(config(namespace, "a"))
    await kube.create_event(about, reason="Built", note="x" * 3000, action="Reconcile", now=NOW, warning=True)
    [event] = (await kube.list(EVENT, namespace))[0]
    assert event["regarding"]["uid"] == about["metadata"]["uid"]
    assert (event["type"], event["reason"], len(event["note"])) == ("Warning", "Built", 1024)
    where = await kube.get(NAMESPACE, namespace)
    await kube.create_event(where, reason="Seen", note="", action="Look", now=NOW)
    assert "Seen" in [e["reason"] for e in (await kube.list(EVENT, "default"))[0]]


async def test_a_watch_tells_what_is_there_and_then_what_changes(kube, namespace):
    await kube.apply(config(namespace, "a", {"x": "1"}, v="1"))
    await kube.apply(config(namespace, "ignored", v="1"))
    heard = []
    synced = asyncio.Event()
    done = asyncio.Event()

    async def listen() -> None:
        async for event in kube.watch(CONFIGMAP, namespace, "x"):
            heard.append((event.type, event.object.get("metadata", {}).get("name")))
            if event.type == "SYNCED":
                synced.set()
            if event.type == "DELETED":
                done.set()

    listener = asyncio.create_task(listen())
    async with asyncio.timeout(20):
        await synced.wait()
        await kube.apply(config(namespace, "b", {"x": "1"}, v="1"))
        await kube.apply(config(namespace, "b", {"x": "1"}, v="2"))
        await kube.apply(config(namespace, "b", v="2"))  # no longer of the selection: gone, as far as we care
        await done.wait()
    listener.cancel()
    assert heard == [("ADDED", "a"), ("SYNCED", None), ("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]


async def test_a_pod_of_a_kind_without_rights_is_no_reason_to_stop_watching(cluster, kube, namespace, tmp_path):
    """A watch that is refused tries again, and works once the right is there."""
    account = {"name": "late", "namespace": namespace}
    await kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    token = await asyncio.to_thread(cluster.kubectl, "create", "token", "late", "-n", namespace)
    theirs = json.loads(cluster.kubeconfig.read_text())
    theirs["users"][0]["user"] = {"token": token.strip()}
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(theirs))
    async with Kube(file) as late:
        watch = late.watch(POD, namespace)
        first = asyncio.create_task(anext(watch))
        await asyncio.to_thread(
            cluster.kubectl, "create", "rolebinding", "late", "--clusterrole=view",
            f"--serviceaccount={namespace}:late", "-n", namespace,
        )  # fmt: skip
        async with asyncio.timeout(30):
            assert (await first).type == "SYNCED"
        await watch.aclose()


async def test_pods_are_listed_by_the_node_they_are_on(kube, namespace):
    container = {"name": "c", "image": "registry.test/none:1"}
    for name, where in (("here", "node-a"), ("there", "node-b")):
        spec = {"nodeName": where, "containers": [container]}
        meta = {"name": name, "namespace": namespace}
        await kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    found, _ = await kube.list(POD, namespace, fields=f"spec.nodeName=node-a,{LIVING}")
    assert names(found) == ["here"]
