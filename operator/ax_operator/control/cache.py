"""What the cluster looks like, as far as was heard: an index of objects, fed by watches, lists and own writes.

Whoever brings an object, the newest wins: versions are compared as the integers that they are, so that the answer
to an own write is visible at once and a late event cannot undo it. An object that is gone stays gone: its uid is
remembered. Objects are shared, never copied: whoever reads one leaves it as it is.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ax_operator.api.names import ENGINE, MODEL
from ax_operator.kinds import Kind

Manifest = dict[str, Any]
Address = tuple[Kind, str | None, str]

INDEXED = (MODEL, ENGINE)
"""Labels by which `select` finds objects without looking at every one of the namespace."""
TOMBSTONES = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """One object before and after; None where it was not there."""

    kind: Kind
    old: Manifest | None
    new: Manifest | None

    @property
    def objects(self) -> tuple[Manifest, ...]:
        """What there is of before and after."""
        return tuple(each for each in (self.old, self.new) if each is not None)

    @property
    def respecified(self) -> bool:
        """Whether the object came, went, is going, or got another spec: all but its status and its managers."""
        if self.old is None or self.new is None:
            return True
        return any(self.old["metadata"].get(k) != self.new["metadata"].get(k) for k in _IDENTITY)


_IDENTITY = ("uid", "generation", "deletionTimestamp", "labels")


def address_of(kind: Kind, manifest: Manifest) -> Address:
    """Return where an object lies."""
    return kind, manifest["metadata"].get("namespace"), manifest["metadata"]["name"]


def version_of(manifest: Manifest) -> int:
    """Return the resource version as a number; 0 where it is missing."""
    return int(manifest["metadata"].get("resourceVersion") or 0)


class Cache:
    """Objects by kind, namespace and name, by owner and by label."""

    def __init__(self) -> None:
        self._objects: dict[tuple[Kind, str | None], dict[str, Manifest]] = defaultdict(dict)
        self._labelled: dict[tuple[Kind, str, str], dict[Address, Manifest]] = defaultdict(dict)
        self._owned: dict[str, dict[Address, Manifest]] = defaultdict(dict)
        self._namespaces: dict[Kind, set[str | None]] = defaultdict(set)
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._synced: set[Kind] = set()

    def put(self, kind: Kind, manifest: Manifest) -> Change | None:
        """Keep the object if it is newer than what is known; return what changed thereby."""
        address = address_of(kind, manifest)
        uid = manifest["metadata"]["uid"]
        old = self.get(*address)
        if uid in self._gone or (old is not None and version_of(manifest) <= version_of(old)):
            return None
        if old is not None:
            self._forget(address, old)
            if old["metadata"]["uid"] != uid:
                self._bury(old)
        self._objects[address[:2]][address[2]] = manifest
        self._namespaces[kind].add(address[1])
        for index in self._indexes(kind, manifest):
            index[address] = manifest
        return Change(kind, old, manifest)

    def remove(self, kind: Kind, manifest: Manifest) -> Change | None:
        """Forget the object, and anything older of its name; return what changed thereby."""
        address = address_of(kind, manifest)
        self._bury(manifest)
        old = self.get(*address)
        if old is None or (
            old["metadata"]["uid"] != manifest["metadata"]["uid"] and version_of(old) > version_of(manifest)
        ):
            return None
        self._forget(address, old)
        return Change(kind, old, None)

    def replace(self, kind: Kind, items: Iterable[Manifest], version: str) -> list[Change]:
        """Bring a kind up to a complete list made at `version`; return what was new, newer or gone."""
        changed: list[Change] = []
        listed = set()
        for item in items:
            listed.add(item["metadata"]["uid"])
            if change := self.put(kind, item):
                changed.append(change)
        for old in list(self.select(kind)):
            if old["metadata"]["uid"] not in listed and version_of(old) <= int(version):
                changed += filter(None, [self.remove(kind, old)])
        self._synced.add(kind)
        return changed

    def synced(self, kinds: Iterable[Kind]) -> bool:
        """Whether each of the kinds has been listed completely at least once."""
        return self._synced.issuperset(kinds)

    def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        """Return the object at an address, if it is known."""
        return self._objects[kind, namespace].get(name) if (kind, namespace) in self._objects else None

    def select(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[Manifest]:
        """Yield the objects of a kind, in one namespace or in all, that carry all of the labels, by name."""
        wanted = dict(labels or {})
        key = next((key for key in INDEXED if key in wanted), None)
        if key is not None:
            found = self._labelled.get((kind, key, wanted[key]), {})
            pool = [(a[1] or "", a[2], m) for a, m in found.items() if namespace is None or a[1] == namespace]
        else:
            places = self._namespaces[kind] if namespace is None else {namespace}
            pool = [(p or "", n, m) for p in places for n, m in self._objects.get((kind, p), {}).items()]
        for _, _, manifest in sorted(pool, key=lambda entry: entry[:2]):
            own = manifest["metadata"].get("labels") or {}
            if all(own.get(k) == v for k, v in wanted.items()):
                yield manifest

    def owned(self, uid: str) -> list[tuple[Kind, Manifest]]:
        """Return the objects with this owner, in the order of their kinds and names."""
        found = self._owned.get(uid, {})
        return [(a[0], found[a]) for a in sorted(found, key=lambda a: (a[0].kind, a[2]))]

    def count(self, kind: Kind) -> int:
        """How many objects of a kind are known."""
        return sum(len(self._objects[kind, place]) for place in self._namespaces[kind])

    def _indexes(self, kind: Kind, manifest: Manifest) -> Iterator[dict[Address, Manifest]]:
        labels = manifest["metadata"].get("labels") or {}
        for key in INDEXED:
            if key in labels:
                yield self._labelled[kind, key, labels[key]]
        for owner in manifest["metadata"].get("ownerReferences") or ():
            yield self._owned[owner["uid"]]

    def _forget(self, address: Address, old: Manifest) -> None:
        del self._objects[address[:2]][address[2]]
        for index in self._indexes(address[0], old):
            index.pop(address, None)
        # Empty indexes go, or names of models long gone would fill the memory.
        for key, value in (old["metadata"].get("labels") or {}).items():
            if key in INDEXED and not self._labelled[address[0], key, value]:
                del self._labelled[address[0], key, value]
        for owner in old["metadata"].get("ownerReferences") or ():
            if not self._owned[owner["uid"]]:
                del self._owned[owner["uid"]]

    def _bury(self, manifest: Manifest) -> None:
        self._gone[manifest["metadata"]["uid"]] = None
        if len(self._gone) > TOMBSTONES:
            self._gone.popitem(last=False)
