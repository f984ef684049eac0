"""Which work a change in the cluster calls for. Pure: from one object before and after to keys of the queue.

AXModel                      itself; its namespace's store if its spec changed
AXEngine                     its namespace's store, and the models that use it
what we made                 the model or the store whose label it carries
AXHostedAPI                  itself; all models, a little later, if its spec changed
Node                         all models, a little later
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from ax_operator.api.names import COMPONENT, COMPONENT_BUILD, COMPONENT_STORE, COMPONENT_SWEEP, ENGINE, MODEL
from ax_operator.control.cache import Change
from ax_operator.kinds import AXENGINE, AXHOSTEDAPI, AXMODEL, CONFIGMAP, DEPLOYMENT, NODE, POD, Kind


class Key(NamedTuple):
    """One piece of work: a model, a namespace's store, a hosted API, or everything."""

    kind: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Wake(Protocol):
    """Has a key looked at soon; `first`: before all others, since requests are held for it."""

    def __call__(self, key: Key, *, first: bool = False) -> None: ...


EVERYTHING = Key("Everything")
_STORE_COMPONENTS = (COMPONENT_BUILD, COMPONENT_STORE, COMPONENT_SWEEP)


def model_key(namespace: str, name: str) -> Key:
    """Return the key of one AXModel."""
    return Key("AXModel", namespace, name)


def store_key(namespace: str) -> Key:
    """Return the key of a namespace's store: all its AXEngines in one pass."""
    return Key("Store", namespace)


def hosted_key(name: str) -> Key:
    """Return the key of one AXHostedAPI."""
    return Key("AXHostedAPI", "", name)


def own_key(kind: Kind, metadata: dict[str, Any]) -> Key:
    """Return the key under which a status of ours was written."""
    if kind == AXHOSTEDAPI:
        return hosted_key(metadata["name"])
    return store_key(metadata["namespace"]) if kind == AXENGINE else model_key(metadata["namespace"], metadata["name"])


def keys_of(change: Change) -> set[Key]:
    """Return what has to be looked at anew; models that use an AXEngine are added by who knows them."""
    return set(_keys(change))


def _keys(change: Change) -> Iterator[Key]:
    meta = change.objects[0]["metadata"]
    namespace = meta.get("namespace") or ""
    if change.kind == AXMODEL:
        yield model_key(namespace, meta["name"])
        if change.respecified:
            yield store_key(namespace)
    elif change.kind == AXENGINE:
        yield store_key(namespace)
    elif change.kind == AXHOSTEDAPI:
        yield hosted_key(meta["name"])
        if change.respecified:
            yield EVERYTHING
    elif change.kind == NODE:
        if node_changed(change):
            yield EVERYTHING
    else:
        yield from _of_ours(change, namespace)


def _of_ours(change: Change, namespace: str) -> Iterator[Key]:
    # A serving pod carries its engine's label too, but only a Deployment's coming or going changes who uses it.
    came_or_went = change.old is None or change.new is None
    for each in change.objects:
        labels = each["metadata"].get("labels") or {}
        if MODEL in labels:
            yield model_key(namespace, labels[MODEL])
            if change.kind == POD and ENGINE in labels and became_ready(change):
                yield store_key(namespace)  # how long it took belongs to its engine
            if came_or_went and change.kind in (DEPLOYMENT, CONFIGMAP):
                yield store_key(namespace)
        elif ENGINE in labels or labels.get(COMPONENT) in _STORE_COMPONENTS:
            yield store_key(namespace)


def became_ready(change: Change) -> bool:
    """Whether a pod is ready that was not."""
    return change.new is not None and _is_ready(change.new) and not (change.old and _is_ready(change.old))


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def node_changed(change: Change) -> bool:
    """Whether what a plan reads of a node changed: heartbeats and images come every few seconds."""
    return change.old is None or change.new is None or _read(change.old) != _read(change.new)


def _read(node: dict[str, Any]) -> tuple[Any, ...]:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    ready = [c["status"] for c in status.get("conditions") or () if c["type"] == "Ready"]
    return (
        node["metadata"].get("labels"),
        spec.get("taints"),
        spec.get("unschedulable"),
        status.get("allocatable"),
        ready,
    )
