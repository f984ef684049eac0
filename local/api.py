"""The few requests that this package makes itself to a cluster's API server, with the standard library only.

PID 1 of a node and the volumes loop live beside the cluster and must start in no time; everything richer goes
through kubectl.
"""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Api:
    """A connection as the cluster's administrator, from the files in its state folder."""

    def __init__(self, server: str, folder: Path) -> None:
        self.server = server
        context = ssl.create_default_context(cafile=str(folder / "pki" / "ca.crt"))
        context.load_cert_chain(folder / "pki" / "admin.crt", folder / "pki" / "admin.key")
        # A proxy of the environment must never see these requests.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def ready(self) -> bool:
        """Tell whether the API server says that it is ready; refused connections mean no."""
        try:
            return bool(self._open("GET", "/readyz", None, 5).read() == b"ok")
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> dict[str, Any] | None:
        """Return an object or a list, or None where there is none."""
        try:
            return self._json("GET", path, None)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.NOT_FOUND:
                return None
            raise

    def create(self, path: str, body: dict[str, Any]) -> bool:
        """Create an object; False if one of that name is there already."""
        try:
            self._json("POST", path, body)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.CONFLICT:
                return False
            raise
        return True

    def delete(self, path: str) -> None:
        """Delete an object; one that is gone is fine."""
        try:
            self._json("DELETE", path, None)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.NOT_FOUND:
                raise

    def changes(self, path: str, version: str, seconds: int) -> Iterator[dict[str, Any]]:
        """Yield watch events after a resourceVersion for some seconds."""
        query = f"{path}?watch=1&resourceVersion={version}&timeoutSeconds={seconds}"
        with self._open("GET", query, None, seconds + 10) as stream:
            for line in stream:
                yield json.loads(line)

    def _json(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        with self._open(method, path, body, 30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _open(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> Any:
        data = None if body is None else json.dumps(body).encode()
        url, headers = self.server + path, {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310  always https
        return self._opener.open(request, timeout=timeout)
