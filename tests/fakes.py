"""A hand-written cluster: objects with versions, server-side apply with owners of fields, deletion with dependents.

It keeps what a test asserts on: the state of the world, and how many calls it took. Its answers are those of a real
API server in what the operator relies on; tests/cluster holds it to that. Changes wait in `news` until a test
delivers them, as a watch would.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter, deque
from typing import Any

from ax_operator.api.names import FIELD_MANAGER
from ax_operator.kinds import Kind, kind_of
from ax_operator.kube_errors import Conflict, KubeError, Missing

Manifest = dict[str, Any]
Address = tuple[Kind, str | None, str]


class FakeCluster:
    """What `kube.Kube` is to the operator, in memory."""

    def __init__(self) -> None:
        self.objects: dict[Address, Manifest] = {}
        self.news: deque[tuple[Kind, str, Manifest]] = deque()
        self.events: list[Manifest] = []
        self.calls: Counter[str] = Counter()
        self.refuse: dict[Address, KubeError] = {}
        """Errors that applying to an address meets."""
        self.crash_at: int | None = None
        """The number of the write in which the operator's process dies: before it is done."""
        self.crashed = False
        self.writes = 0
        self._versions = itertools.count(100)
        self._uids = itertools.count(1)

    # --- as the operator uses it ---

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        self.calls[f"get {kind.kind}"] += 1
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def get_metadata(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        found = await self.get(kind, name, namespace)
        return found and {"metadata": found["metadata"]}

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> tuple[list[Manifest], str]:
        self.calls[f"list {kind.kind}"] += 1
        wanted = dict(pair.split("=", 1) for pair in labels.split(",")) if labels else {}
        found = []
        for (each, place, _), manifest in self.objects.items():
            own = manifest["metadata"].get("labels") or {}
            chosen = fields is None or _selected(manifest, fields)
            if chosen and each == kind and namespace in (None, place) and wanted.items() <= own.items():
                found.append(copy.deepcopy(manifest))
        return found, str(next(self._versions))

    async def apply(self, manifest: Manifest, *, status: bool = False) -> Manifest:
        kind = kind_of(manifest)
        self._write(f"{'status' if status else 'apply'} {kind.kind}")
        meta = manifest["metadata"]
        address = (kind, meta.get("namespace"), meta["name"])
        if address in self.refuse:
            raise self.refuse[address]
        if status:
            if address not in self.objects:
                raise Missing(f"{kind.plural} {meta['name']!r} not found", 404)
            return self._applied(address, {"status": manifest["status"]}, "status")
        return self._applied(address, {key: value for key, value in manifest.items() if key != "status"}, "")

    async def delete(
        self, kind: Kind, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> Manifest | None:
        self._write(f"delete {kind.kind}")
        found = self.objects.get((kind, namespace, name))
        if found and uid not in (None, found["metadata"]["uid"]):
            raise Conflict("the uid is another", 409)
        if found:
            self.remove((kind, namespace, name))
        return None

    async def create_event(self, regarding: Manifest, **facts: Any) -> None:
        self._write("create Event")
        self.events.append({"object": regarding["metadata"]["name"]} | facts)

    # --- as everybody else uses it ---

    def put(self, manifest: Manifest) -> Manifest:
        """Create or change an object as a user or a controller does: fields that are named are set."""
        kind = kind_of(manifest)
        meta = manifest["metadata"]
        address = (kind, meta.get("namespace"), meta["name"])
        return self._stored(address, _merged(self.objects.get(address, {}), manifest))

    def remove(self, address: Address) -> None:
        """Delete an object and, as the garbage collector does, all that it owns."""
        gone = self.objects.pop(address)
        gone["metadata"]["resourceVersion"] = str(next(self._versions))
        self.news.append((address[0], "DELETED", gone))
        for other, manifest in list(self.objects.items()):
            owners = manifest["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                self.remove(other)

    def all(self, kind: Kind, **labels: str) -> list[Manifest]:
        """Return the objects of a kind, by name."""
        found = [manifest for (each, _, _), manifest in self.objects.items() if each == kind]
        return sorted(found, key=lambda m: (m["metadata"].get("namespace") or "", m["metadata"]["name"]))

    def one(self, kind: Kind) -> Manifest:
        """Return the only object of a kind."""
        [found] = self.all(kind)
        return found

    # --- how it works ---

    def _write(self, call: str) -> None:
        self.calls[call] += 1
        self.writes += 1
        if self.crash_at is not None and self.writes >= self.crash_at:
            self.crashed = True
            raise Crash

    def _applied(self, address: Address, manifest: Manifest, subresource: str) -> Manifest:
        old = copy.deepcopy(self.objects.get(address, {}))
        entries = old.get("metadata", {}).get("managedFields", [])
        ours = next((e for e in entries if e.get("subresource", "") == subresource), None)
        new = _merged(_without(old, (ours or {}).get("fieldsV1", {}), manifest), manifest)
        entry = {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": _fields(_owned_part(manifest))}
        entry |= {"subresource": subresource} if subresource else {}
        new["metadata"]["managedFields"] = [*(e for e in entries if e is not ours), entry]
        return copy.deepcopy(self._stored(address, new))

    def _stored(self, address: Address, new: Manifest) -> Manifest:
        old = self.objects.get(address)
        if old is not None and old == new:
            return old
        new = copy.deepcopy(new)
        meta = new["metadata"]
        if old is None:
            meta["uid"] = f"uid-{next(self._uids)}"
            meta["generation"] = 1
            meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        elif old.get("spec") != new.get("spec"):
            meta["generation"] = old["metadata"]["generation"] + 1
        meta["resourceVersion"] = str(next(self._versions))
        self.objects[address] = new
        self.news.append((address[0], "ADDED" if old is None else "MODIFIED", copy.deepcopy(new)))
        return new


def _selected(manifest: Manifest, fields: str) -> bool:
    """Whether a manifest matches a field selector of `path=value` and `path!=value`."""
    for term in fields.split(","):
        path, _, value = term.partition("=")
        found: Any = manifest
        for step in path.rstrip("!").split("."):
            found = (found or {}).get(step)
        if (found == value) == path.endswith("!"):
            return False
    return True


class Crash(BaseException):
    """The operator's process is killed; no `except Exception` sees it."""


def _owned_part(manifest: Manifest) -> Manifest:
    """What server-side apply tracks: everything but an object's identity."""
    kept = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "metadata")}
    meta = {k: v for k, v in manifest.get("metadata", {}).items() if k not in ("name", "namespace")}
    return kept | ({"metadata": meta} if meta else {})


def _fields(value: Any) -> Manifest:
    """The fieldsV1 of a manifest; lists belong to their owner as a whole."""
    if not isinstance(value, dict):
        return {}
    return {f"f:{key}": _fields(each) for key, each in value.items()}


def _without(old: Any, owned: Manifest, wanted: Any) -> Any:
    """Drop from `old` what was owned and is wanted no more."""
    if not isinstance(old, dict):
        return old
    kept = {}
    for key, value in old.items():
        below = owned.get(f"f:{key}")
        named = isinstance(wanted, dict) and key in wanted
        if below is not None and not named:
            continue
        kept[key] = _without(value, below, wanted[key]) if below and named else value
    return kept


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return {key: _merged(old.get(key), new[key]) if key in new else old[key] for key in keys}
    return copy.deepcopy(new)
