"""The cache: the newest wins, the gone stay gone, and selections do not look at everything."""

from ax_operator.api.names import MODEL
from ax_operator.control.cache import Cache
from ax_operator.kinds import DEPLOYMENT, NODE, POD


def pod(name: str, version: int, uid: str = "", namespace: str = "ns", **extra) -> dict:
    meta = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta | extra}


def names(found) -> list[str]:
    return [m["metadata"]["name"] for m in found]


def changed(found) -> list[str]:
    return sorted({o["metadata"]["name"] for change in found for o in change.objects})


def test_the_newest_version_wins_whoever_brings_it():
    cache = Cache()
    assert cache.put(POD, pod("a", 9))
    assert cache.put(POD, pod("a", 10))  # as numbers: "10" < "9" as text
    assert not cache.put(POD, pod("a", 9))
    assert cache.get(POD, "ns", "a")["metadata"]["resourceVersion"] == "10"


def test_what_is_gone_is_not_raised_by_a_late_answer():
    cache = Cache()
    cache.put(POD, pod("a", 1))
    assert cache.remove(POD, pod("a", 5))
    assert not cache.put(POD, pod("a", 4))
    assert cache.get(POD, "ns", "a") is None
    assert cache.put(POD, pod("a", 6, uid="another"))


def test_a_late_deletion_does_not_remove_the_successor():
    cache = Cache()
    cache.put(POD, pod("a", 1, uid="first"))
    cache.put(POD, pod("a", 7, uid="second"))
    assert not cache.remove(POD, pod("a", 5, uid="first"))
    assert cache.get(POD, "ns", "a")["metadata"]["uid"] == "second"


def test_selection_by_label_and_owner_follows_changes():
    cache = Cache()
    owner = [{"uid": "m1", "kind": "AXModel", "name": "m"}]
    cache.put(POD, pod("a", 1, labels={MODEL: "m", "x": "1"}, ownerReferences=owner))
    cache.put(POD, pod("b", 1, labels={MODEL: "m"}))
    cache.put(POD, pod("c", 1, labels={MODEL: "n"}))
    cache.put(POD, pod("a", 1, uid="other", namespace="elsewhere", labels={MODEL: "m"}))
    assert names(cache.select(POD, "ns", {MODEL: "m"})) == ["a", "b"]
    assert names(cache.select(POD, "ns", {MODEL: "m", "x": "1"})) == ["a"]
    assert names(cache.select(POD, "ns", {"x": "1"})) == ["a"]
    assert len(list(cache.select(POD))) == 4
    assert [m["metadata"]["name"] for _, m in cache.owned("m1")] == ["a"]
    cache.put(POD, pod("a", 2, labels={MODEL: "n"}))
    assert names(cache.select(POD, "ns", {MODEL: "m"})) == ["b"]
    assert names(cache.select(POD, "ns", {MODEL: "n"})) == ["a", "c"]
    assert cache.owned("m1") == []
    assert list(cache.select(DEPLOYMENT, "ns")) == []


def test_a_list_brings_what_is_new_and_takes_what_is_gone_but_not_what_is_newer_than_itself():
    cache = Cache()
    cache.put(POD, pod("kept", 1))
    cache.put(POD, pod("gone", 2))
    cache.put(POD, pod("made-after-the-list", 30))
    assert not cache.synced([POD])
    assert changed(cache.replace(POD, [pod("kept", 1), pod("new", 5)], "20")) == ["gone", "new"]
    assert names(cache.select(POD)) == ["kept", "made-after-the-list", "new"]
    assert cache.synced([POD])
    assert not cache.synced([POD, NODE])
    assert cache.count(POD) == 3


def test_indexes_do_not_grow_with_names_long_gone():
    cache = Cache()
    for n in range(500):
        meta = {"labels": {MODEL: f"m{n}"}, "ownerReferences": [{"uid": f"o{n}"}]}
        cache.put(POD, pod(f"p{n}", 2 * n + 1, **meta))
        cache.remove(POD, pod(f"p{n}", 2 * n + 2))
    assert cache._labelled == {}
    assert cache._owned == {}
