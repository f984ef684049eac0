"""What changed between two looks at a collection of objects. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Manifest = dict[str, Any]
Manifests = list[Manifest]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change; SYNCED carries no object and follows the last object of every list."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "SYNCED"]
    object: Manifest


def key_of(manifest: Manifest) -> tuple[str | None, str]:
    """Return an object's namespace and name."""
    return manifest["metadata"].get("namespace"), manifest["metadata"]["name"]


def difference(known: dict[tuple[str | None, str], Manifest], items: Manifests) -> list[WatchEvent]:
    """Bring `known` up to a fresh list and return what changed, deletions first."""
    listed = {key_of(item): item for item in items}
    events: list[WatchEvent] = []
    for key, old in list(known.items()):
        if key not in listed or listed[key]["metadata"]["uid"] != old["metadata"]["uid"]:
            events.append(WatchEvent("DELETED", known.pop(key)))
    for key, item in listed.items():
        if key not in known:
            events.append(WatchEvent("ADDED", item))
        elif item["metadata"]["resourceVersion"] != known[key]["metadata"]["resourceVersion"]:
            events.append(WatchEvent("MODIFIED", item))
        known[key] = item
    return events
