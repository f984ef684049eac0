"""What the cluster says, as far as the gateway needs it: kept in memory by watches, and on the pod's volume.

The file lets a restarted agent serve its last world while the API server cannot be reached.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from ax_gateway.table import BareNames, Endpoint, ModelRoute, RouteTable, endpoints_by_model, model_route, route_table
from ax_operator.api.names import MODEL

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]
Key = tuple[str, str]
KINDS = ("AXModel", "EndpointSlice")


class Change(Protocol):
    """A watch's event, as `ax_operator.kube.WatchEvent`."""

    @property
    def type(self) -> str: ...
    @property
    def object(self) -> Manifest: ...


class World:
    """The objects by kind, namespace and name; `table` is computed from them."""

    def __init__(self, bare_names: BareNames) -> None:
        self._bare_names = bare_names
        self._objects: dict[str, dict[Key, Manifest]] = {kind: {} for kind in KINDS}
        self._models: dict[Key, ModelRoute] = {}
        self._slices_of: dict[str, set[Key]] = {}
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self.synced: set[str] = set()
        """Kinds whose whole list has arrived."""

    @property
    def complete(self) -> bool:
        """Whether every kind has been listed: before that something seems gone that is not."""
        return self.synced == set(KINDS)

    def change(self, kind: str, event: Change) -> bool:
        """Take over one event; return whether the gateway's world is another one now."""
        if event.type == "SYNCED":
            self.synced.add(kind)
            return True
        meta = event.object["metadata"]
        key = (meta.get("namespace") or "", meta["name"])
        if event.type == "DELETED":
            old = self._objects[kind].pop(key, None)
            self._forget(kind, key, old)
            return old is not None
        pruned = _pruned(kind, event.object)
        old = self._objects[kind].get(key)
        if old == pruned:
            return False
        self._objects[kind][key] = pruned
        self._forget(kind, key, old)
        self._learn(kind, key, pruned)
        return True

    def table(self) -> RouteTable:
        """Return who answers for which name."""
        return route_table(self._models.values(), self._endpoints, self._bare_names)

    def save(self, path: Path) -> None:
        """Write the world for a later start; readable by this user alone."""
        listed = {kind: list(objects.values()) for kind, objects in self._objects.items()}
        draft = path.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(listed, file, separators=(",", ":"))
        draft.replace(path)

    def load(self, path: Path) -> bool:
        """Read what `save` wrote; return whether there was a world. A broken file counts as none and is logged."""
        try:
            listed = json.loads(path.read_bytes())
            for kind in KINDS:
                for manifest in listed[kind]:
                    key = (manifest["metadata"]["namespace"], manifest["metadata"]["name"])
                    self._objects[kind][key] = manifest
                    self._learn(kind, key, manifest)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError) as problem:
            logger.warning("Found no usable last world", extra={"path": str(path), "reason": str(problem)})
            return False
        return True

    def _learn(self, kind: str, key: Key, manifest: Manifest) -> None:
        if kind == "AXModel":
            try:
                self._models[key] = model_route(manifest)
            except ValidationError as problem:
                logger.warning(
                    "Left out an AXModel whose spec is invalid",
                    extra={"namespace": key[0], "model": key[1], "reason": str(problem)},
                )
        elif kind == "EndpointSlice":
            self._slices_of.setdefault(_model_of(manifest), set()).add(key)
            self._count(_model_of(manifest))

    def _forget(self, kind: str, key: Key, old: Manifest | None) -> None:
        if old is None:
            return
        if kind == "AXModel":
            self._models.pop(key, None)
        elif kind == "EndpointSlice":
            self._slices_of[_model_of(old)].discard(key)
            self._count(_model_of(old))

    def _count(self, model: str) -> None:
        slices = [self._objects["EndpointSlice"][key] for key in self._slices_of[model]]
        found = endpoints_by_model(slices).get(model, ())
        if found:
            self._endpoints[model] = found
        else:
            self._endpoints.pop(model, None)


def _model_of(manifest: Manifest) -> str:
    meta = manifest["metadata"]
    return f"{meta['namespace']}/{(meta.get('labels') or {}).get(MODEL)}"


def _pruned(kind: str, manifest: Manifest) -> Manifest:
    """Keep what a route depends on: everything else changes too often to look at."""
    meta = manifest["metadata"]
    kept: Manifest = {"metadata": {key: meta[key] for key in ("namespace", "name", "creationTimestamp") if key in meta}}
    if kind == "AXModel":
        return kept | {"spec": manifest.get("spec")}
    kept["metadata"]["labels"] = {MODEL: (meta.get("labels") or {}).get(MODEL)}
    return kept | {key: manifest.get(key) for key in ("addressType", "ports", "endpoints")}
