"""What the cluster says, as far as the gateway needs it: kept in memory by watches, and on the pod's volume.

The file lets a restarted agent serve its last world while the API server cannot be reached. It holds keys, so the
volume is one in memory and the file is this user's alone.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from ax_gateway.hosted import HostedAPI, Refused, hosted_api
from ax_gateway.keys import BadKey, Client, client_of, is_client_key, secret_value
from ax_gateway.table import ModelRoute, Replicas, model_route, replicas_by_model
from ax_operator.api.names import CLIENT_KEY, MODEL, SLOTS

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]
Key = tuple[str, str]
KINDS = ("AXModel", "AXHostedAPI", "EndpointSlice", "Secret")


class Change(Protocol):
    """A watch's event, as `ax_operator.kube.WatchEvent`."""

    @property
    def type(self) -> str: ...
    @property
    def object(self) -> Manifest: ...


class World:
    """The objects by kind, namespace and name, and what they mean."""

    def __init__(self, plain_http: bool = False) -> None:
        self._plain_http = plain_http
        self._objects: dict[str, dict[Key, Manifest]] = {kind: {} for kind in KINDS}
        self._slices_of: dict[str, set[Key]] = {}
        self.models: dict[Key, ModelRoute] = {}
        self.replicas: dict[str, Replicas] = {}
        """By `<namespace>/<name>`, with at least one endpoint or known slots."""
        self.apis: dict[str, HostedAPI] = {}
        self.problems: dict[str, str] = {}
        """Why an AXHostedAPI cannot be used as it is written, by name."""
        self.clients: dict[str, Client] = {}
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
        old = self._objects[kind].get(key)
        new = None if event.type == "DELETED" else _pruned(kind, event.object)
        if old == new:
            return False
        self._set(kind, key, new)
        return True

    def hosted_key(self, api: HostedAPI) -> str | None:
        """Return the key of a hosted API, None where its Secret is missing or has none."""
        if api.secret is None:
            return None
        name, entry = api.secret
        for (_, found), secret in self._objects["Secret"].items():
            if found == name:
                try:
                    return secret_value(secret, entry)
                except BadKey as problem:
                    _left_out("Secret", name, problem)
        return None

    def save(self, path: Path) -> None:
        """Write the world for a later start; readable by this user alone."""
        listed = {kind: list(objects.values()) for kind, objects in self._objects.items()}
        draft = path.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(json.dumps(listed, separators=(",", ":")))  # ten times as fast as json.dump
        draft.replace(path)

    def load(self, path: Path) -> bool:
        """Read what `save` wrote; return whether there was a world. A broken file counts as none and is logged."""
        try:
            listed = json.loads(path.read_bytes())
            for kind in KINDS:
                for manifest in listed[kind]:
                    meta = manifest["metadata"]
                    self._set(kind, (meta.get("namespace") or "", meta["name"]), manifest)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError) as problem:
            logger.warning("Found no usable last world", extra={"path": str(path), "reason": str(problem)})
            return False
        return True

    def _set(self, kind: str, key: Key, manifest: Manifest | None) -> None:
        """Put an object in place of the old one, or remove it, and know what follows from it."""
        old = self._objects[kind].pop(key, None)
        if manifest is not None:
            self._objects[kind][key] = manifest
        if kind == "EndpointSlice":
            for each in (old, manifest):
                if each is not None:
                    self._count(each)
        elif kind == "AXModel":
            _learn(self.models, key, kind, manifest, model_route)
        elif kind == "AXHostedAPI":
            self.problems.pop(key[1], None)
            reason = _learn(self.apis, key[1], kind, manifest, lambda found: hosted_api(found, self._plain_http))
            if reason:
                self.problems[key[1]] = reason
        elif is_client_key(manifest or old or {"metadata": {}}):
            _learn(self.clients, key[1], kind, manifest, client_of)

    def _count(self, manifest: Manifest) -> None:
        meta = manifest["metadata"]
        model, key = f"{meta['namespace']}/{meta['labels'][MODEL]}", (meta["namespace"], meta["name"])
        mine = self._slices_of.setdefault(model, set())
        mine.add(key)
        mine &= self._objects["EndpointSlice"].keys()
        slices = [self._objects["EndpointSlice"][each] for each in mine]
        found = replicas_by_model(slices).get(model)
        if found:
            self.replicas[model] = found
        else:
            self.replicas.pop(model, None)


def _learn(
    into: dict[Any, Any], key: Any, kind: str, manifest: Manifest | None, read: Callable[[Manifest], Any]
) -> str:
    """Keep what an object means under its key, or nothing; return why it means nothing."""
    into.pop(key, None)
    if manifest is None:
        return ""
    try:
        into[key] = read(manifest)
    except (ValidationError, Refused, BadKey) as problem:
        _left_out(kind, manifest["metadata"]["name"], problem)
        return str(problem)
    return ""


def _left_out(kind: str, name: str, problem: Exception) -> None:
    logger.warning("Left out an object that cannot be used", extra={"kind": kind, "object": name, "why": str(problem)})


def _pruned(kind: str, manifest: Manifest) -> Manifest:
    """Keep what a route depends on: everything else changes too often to look at."""
    meta = manifest["metadata"]
    kept: Manifest = {"metadata": {key: meta[key] for key in ("namespace", "name", "creationTimestamp") if key in meta}}
    labels = meta.get("labels") or {}
    if kind in ("AXModel", "AXHostedAPI"):
        return kept | {"spec": manifest.get("spec")}
    if kind == "Secret":
        kept["metadata"]["labels"] = {CLIENT_KEY: labels.get(CLIENT_KEY)}
        return kept | {"data": manifest.get("data") or {}}
    kept["metadata"]["labels"] = {MODEL: labels.get(MODEL), SLOTS: labels.get(SLOTS)}
    return kept | {key: manifest.get(key) for key in ("addressType", "ports", "endpoints")}
