"""The cluster's seam: an API server that lists and watches what a test puts into it, and nothing else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from ax_operator.kinds import Kind, kind_of

Manifest = dict[str, Any]


class FakeApi:
    """Objects by path; every change is one event to every watch. `stop` makes it unreachable."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Manifest]] = {}
        self._events: list[tuple[int, str, str, Manifest]] = []
        self._version = 1
        self._wake: set[asyncio.Event] = set()
        self._connections: set[asyncio.Transport] = set()
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on loopback; again on the same port after `stop`."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._read)
        app.router.add_patch("/{path:.*}", self._apply)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Hang up on everybody."""
        for connection in list(self._connections):
            connection.abort()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self, path: Path) -> Path:
        """Write the file that points to this server."""
        cluster = {"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
        user = {"name": "fake", "user": {}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "fake"}
        config |= {"clusters": [cluster], "contexts": [context], "users": [user]}  # type: ignore[dict-item]
        path.write_text(json.dumps(config))
        return path

    def put(self, manifest: Manifest) -> None:
        """Make or replace an object."""
        self._version += 1
        meta = manifest["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        meta |= {"resourceVersion": str(self._version), "uid": "-".join(key)}
        objects = self._objects.setdefault(kind_of(manifest).path(), {})
        change = "MODIFIED" if key in objects else "ADDED"
        objects[key] = manifest
        self._tell(kind_of(manifest).path(), change, manifest)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Remove an object."""
        self._version += 1
        gone = self._objects[kind.path()].pop((namespace, name))
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._tell(kind.path(), "DELETED", gone)

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return an object as it is now."""
        return self._objects.get(kind.path(), {}).get((namespace, name))

    def names(self, kind: Kind, namespace: str, label: str) -> set[str]:
        """Return the names of the objects of a namespace that carry a label `key=value`."""
        key, _, value = label.partition("=")
        found = self._objects.get(kind.path(), {}).items()
        return {n for (ns, n), m in found if ns == namespace and m["metadata"].get("labels", {}).get(key) == value}

    def _tell(self, path: str, change: str, manifest: Manifest) -> None:
        self._events.append((self._version, path, change, json.loads(json.dumps(manifest))))
        for event in self._wake:
            event.set()

    async def _read(self, request: web.Request) -> web.StreamResponse:
        path, namespace, name = _split(request.path)
        if name:
            found = self._objects.get(path, {}).get((namespace, name))
            missing = {"kind": "Status", "code": 404, "message": f"{name} not found"}
            return web.json_response(found or missing, status=200 if found else 404)
        if request.query.get("watch"):
            return await self._watch(request, path, namespace, int(request.query["resourceVersion"]))
        items = [m for (n, _), m in self._objects.get(path, {}).items() if not namespace or n == namespace]
        return web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": items})

    async def _watch(self, request: web.Request, path: str, namespace: str, since: int) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        connection = request.transport
        self._connections.add(connection)
        wake = asyncio.Event()
        self._wake.add(wake)
        try:
            while True:
                for version, where, change, manifest in list(self._events):
                    mine = not namespace or manifest["metadata"].get("namespace") == namespace
                    if where == path and version > since and mine:
                        await response.write(json.dumps({"type": change, "object": manifest}).encode() + b"\n")
                        since = version
                await wake.wait()
                wake.clear()
        finally:
            self._wake.discard(wake)
            self._connections.discard(connection)

    async def _apply(self, request: web.Request) -> web.Response:
        manifest = json.loads(await request.read())
        old = self.get(kind_of(manifest), manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])
        if old and "data" in manifest:
            manifest["data"] = old.get("data", {}) | manifest["data"]
        self.put(manifest)
        return web.json_response(manifest)


def _split(path: str) -> tuple[str, str, str]:
    """Return (path of the collection over all namespaces, namespace, name)."""
    parts = path.strip("/").split("/")
    head = 2 if parts[0] == "api" else 3
    base, rest = parts[:head], parts[head:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    return "/" + "/".join([*base, rest[0]]), namespace, name
