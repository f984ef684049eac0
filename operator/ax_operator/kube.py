"""Verbs × resources of the Kubernetes API, on plain dicts: the only module that imports `kubernetes`.

The client library brings addresses, certificates and tokens; paths come from `kinds`. Every failure is translated
here, once, into one of `kube_errors`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from ax_operator.api.names import FIELD_MANAGER
from ax_operator.changes import Manifest, Manifests, WatchEvent, difference, key_of
from ax_operator.events import event
from ax_operator.kinds import EVENT, Kind, kind_of
from ax_operator.kube_errors import Expired, KubeError, Missing, Unreachable, message_of, refused

logger = logging.getLogger(__name__)

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PAGE = 500
"""Objects per answer of a list."""
CONNECTIONS = 100
REQUEST = aiohttp.ClientTimeout(total=30.0)
WATCH_SECONDS = 290
"""The server ends a watch after this long; it is resumed where it was."""
PAUSE_SECONDS = 0.5
"""Between two streams, lest a server that hangs up at once is asked without end."""
SILENCE_SECONDS = 90.0
"""A watch without a byte for this long is dead: the server sends a bookmark every minute."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API server is and who we are, for another client of the same process; paths are files."""

    server: str
    ca_path: str | None
    insecure: bool
    certificate_path: str | None
    private_key_path: str | None
    token: str | None = field(repr=False)


class Kube:
    """A connection to one API server; an async context manager.

    kubeconfig: a file's path; None means the pod's own account, or outside a pod $KUBECONFIG or ~/.kube/config.
    """

    def __init__(
        self,
        kubeconfig: str | os.PathLike[str] | None = None,
        *,
        manager: str = FIELD_MANAGER,
        page: int = PAGE,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self._kubeconfig = str(kubeconfig) if kubeconfig else None
        self._manager = manager
        self._page = page
        self._silence = silence
        self._config = Configuration()
        self._client: ApiClient | None = None

    async def __aenter__(self) -> Self:
        self._config = await self._read_config()
        self._client = ApiClient(self._config)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client:
            await self._client.close()  # type: ignore[no-untyped-call]
            self._client = None

    async def connection(self) -> Connection:
        """Return the address and the credentials as they are now: tokens are rotated."""
        config = await self._read_config()
        auth: Any = await config.auth_settings()
        words = auth["BearerToken"]["value"].split() if auth else []
        return Connection(
            server=config.host,
            ca_path=config.ssl_ca_cert,
            insecure=not config.verify_ssl,
            certificate_path=config.cert_file,
            private_key_path=config.key_file,
            token=words[-1] if words else None,
        )

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        """Return the object, or None where there is none."""
        try:
            return await self._json("GET", kind.path(namespace, name))
        except Missing:
            return None

    async def get_metadata(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        """Return an object's metadata alone: a Secret's labels without its data. None where there is none."""
        try:
            return await self._json("GET", kind.path(namespace, name), accept=METADATA)
        except Missing:
            return None

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> tuple[Manifests, str]:
        """Return all objects (of one namespace, or of all) that match both selectors, and the list's version."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {key: value for key, value in selectors.items() if value}
        for _ in range(3):
            try:
                return await self._pages(kind, namespace, query)
            except Expired:
                logger.info("Started a list again because its pages had expired", extra={"kind": kind.kind})
        raise Unreachable(f"the list of {kind.plural} expired three times while it was read")

    async def apply(self, manifest: Manifest, *, status: bool = False) -> Manifest:
        """Server-side apply the fields of `manifest`, taking them over by force; return the whole object.

        With `status` only `.status` is written, and an object that is gone raises Missing.
        """
        meta = manifest["metadata"]
        path = kind_of(manifest).path(meta.get("namespace"), meta["name"], "status" if status else None)
        query = {"fieldManager": self._manager, "force": "true"}
        return await self._json("PATCH", path, query, manifest, APPLY)

    async def delete(
        self, kind: Kind, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> Manifest | None:
        """Delete the object, its dependents in the background; return what is left of it, None if it is gone.

        What is left has a deletionTimestamp: finalizers or a grace period keep it for a while.
        With `uid` a namesake that was made since raises Conflict and stays.
        """
        body: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            answer = await self._json("DELETE", kind.path(namespace, name), body=body)
        except Missing:
            return None
        # The answer is a Status, or the object: as it was when it is gone, or as it waits for its end.
        meta = answer.get("metadata") or {}
        waits = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds")
        return answer if meta.get("deletionTimestamp") and waits else None

    async def create_event(
        self, regarding: Manifest, *, reason: str, note: str, action: str, now: str, warning: bool = False
    ) -> None:
        """Record one Event about an object; `now` is RFC 3339 with microseconds, texts are cut to what fits."""
        body = event(regarding, reason, note, action, now, self._manager, warning=warning)
        await self._json("POST", EVENT.path(body["metadata"]["namespace"]), body=body)

    async def watch(
        self, kind: Kind, namespace: str | None = None, labels: str | None = None
    ) -> AsyncIterator[WatchEvent]:
        """Yield every object as ADDED, then SYNCED, then the changes, for ever.

        A stream that ends or falls silent is resumed where it was. Where the server has forgotten that point,
        everything is listed again: what vanished meanwhile comes as DELETED, then SYNCED. Errors are logged and
        tried again with back-off; a consumer's world only grows old.
        """
        known: dict[tuple[str | None, str], Manifest] = {}
        version: str | None = None
        failures = 0
        while True:
            try:
                if version is None:
                    items, listed = await self.list(kind, namespace, labels)
                    for each in difference(known, items):
                        yield each
                    version = listed
                    yield WatchEvent("SYNCED", {})
                async for change, manifest in self._stream(kind, namespace, labels, version):
                    failures = 0
                    version = manifest["metadata"]["resourceVersion"]
                    if change == "DELETED":
                        known.pop(key_of(manifest), None)
                        yield WatchEvent("DELETED", manifest)
                    elif change != "BOOKMARK":
                        seen = WatchEvent("MODIFIED" if key_of(manifest) in known else "ADDED", manifest)
                        known[key_of(manifest)] = manifest
                        yield seen
                await asyncio.sleep(PAUSE_SECONDS)
            except Expired:
                version = None
            except KubeError as error:
                failures += 1
                version = None if failures % 5 == 0 else version
                extra = {"kind": kind.kind, "error": str(error), "tries": failures}
                logger.warning("Lost a watch and tries again", extra=extra)
                await asyncio.sleep(min(30.0, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1))  # noqa: S311

    async def _read_config(self) -> Configuration:
        config = Configuration()
        config.connection_pool_maxsize = CONNECTIONS
        if self._kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            kube_config.load_incluster_config(client_configuration=config)  # type: ignore[no-untyped-call]
        else:
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=self._kubeconfig, client_configuration=config, persist_config=False
            )
        return config

    async def _pages(self, kind: Kind, namespace: str | None, query: Mapping[str, str]) -> tuple[Manifests, str]:
        items: Manifests = []
        query = {"limit": str(self._page), **query}
        while True:
            page = await self._json("GET", kind.path(namespace), query)
            for item in page["items"]:  # the server leaves these two out in lists of its own kinds
                items.append({"apiVersion": kind.api_version, "kind": kind.kind} | item)
            if not page["metadata"].get("continue"):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = page["metadata"]["continue"]

    async def _stream(
        self, kind: Kind, namespace: str | None, labels: str | None, version: str
    ) -> AsyncIterator[tuple[str, Manifest]]:
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        query |= {"resourceVersion": version} | ({"labelSelector": labels} if labels else {})
        within = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=self._silence)
        response = await self._send("GET", kind.path(namespace), query, within=within)
        try:
            async for line in response.content:
                change = json.loads(line)
                if change["type"] == "ERROR":
                    raise refused(change["object"].get("code", 0), change["object"].get("message", ""))
                yield change["type"], change["object"]
        except TimeoutError:
            logger.info("Resumed a watch that had fallen silent", extra={"kind": kind.kind})
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"the watch of {kind.plural} broke: {error}") from error
        finally:
            response.close()

    async def _json(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content: str = JSON,
        accept: str = JSON,
    ) -> Manifest:
        response = await self._send(verb, path, query, body, content, accept)
        try:
            found: Manifest = await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"{verb} {path}: the answer broke off: {error}") from error
        finally:
            response.release()
        return found

    async def _send(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content: str = JSON,
        accept: str = JSON,
        within: aiohttp.ClientTimeout = REQUEST,
        again: bool = True,
    ) -> aiohttp.ClientResponse:
        if self._client is None:
            raise RuntimeError("Kube is used outside of its `async with`")
        headers = {"Accept": accept, "Content-Type": content, "User-Agent": self._manager}
        auth: Any = await self._config.auth_settings()
        headers |= {each["key"]: each["value"] for each in auth.values()}
        url = f"{self._config.host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            answer = await self._client.rest_client.request(  # type: ignore[no-untyped-call]
                verb, url, headers=headers, body=body, _request_timeout=within
            )
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{verb} {path}: {error or type(error).__name__}") from error
        response: aiohttp.ClientResponse = answer.response
        if response.status < 400:
            return response
        text = await response.text()
        response.release()
        if response.status == 401 and again:
            self._config.api_key = (await self._read_config()).api_key  # the token had been rotated
            return await self._send(verb, path, query, body, content, accept, within, again=False)
        raise refused(response.status, f"{verb} {path}: {message_of(text)}")
