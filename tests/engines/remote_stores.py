"""Stand-ins on loopback for a model hub and an S3-compatible store, with faults that a test asks for.

They answer the routes, headers and error codes that the real ones answer (hub: `/api/models/…/revision/…?blobs=true`
and `/…/resolve/…`, X-Error-Code; S3: ListObjectsV2, HEAD, ranged GET with If-Match), from files in memory.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Remote:
    """What a stand-in serves and what it was asked for."""

    files: dict[str, bytes]
    token: str | None = None
    gated: bool = False
    resets: int = 0
    """So many downloads of weights to their end break with a TCP reset after half of what was asked for."""
    cuts: int = 0
    """So many downloads of weights to their end stop after half, politely."""
    busy: int = 0
    """So many downloads are answered 503."""
    flips: int = 0
    """So many downloads of weights to their end arrive with one bit turned."""
    answer: bytes | None = None
    """What the hub's API says instead of a listing."""
    ranges: bool = True
    redirect: str | None = None
    """Where downloads are sent on to."""
    stall: threading.Event | None = None
    """Downloads of weights to their end stop after half until this is set."""
    url: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def spend(self, what: str) -> bool:
        """Use up one fault of a kind; False when there is none left."""
        with self.lock:
            left: int = getattr(self, what)
            setattr(self, what, max(left - 1, 0))
            return left > 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    remote: Remote
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output quiet; what was asked is in `remote.requests`."""

    def _note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        with self.remote.lock:
            self.remote.requests.append((path, {k.lower(): v for k, v in self.headers.items()}))
        return path

    def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send(self, name: str, **headers: str) -> None:
        """Answer a download, ranged if asked, with the faults that are left."""
        remote = self.remote
        if remote.spend("busy"):
            self._say(503)
            return
        data, start, end = remote.files[name], 0, len(remote.files[name])
        status = 200
        wanted = self.headers.get("Range")
        if remote.ranges and wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last) + 1, end) if last else end, 206
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        part = bytearray(data[start:end])
        weights = name.endswith((".safetensors", ".gguf"))
        copying = weights and not (wanted and wanted[-1] != "-")
        if copying and remote.spend("flips"):
            part[-1] ^= 1
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if copying and remote.stall:
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            remote.stall.wait(60)
            self.wfile.write(part[len(part) // 2 :])
        elif copying and remote.spend("resets"):
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            # Closing with a linger time of zero makes the kernel send RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif copying and remote.spend("cuts"):
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        else:
            self.wfile.write(part)


class HubHandler(_Handler):
    """Answers for the repository `skt/tiny` with the branch `main`."""

    def do_GET(self) -> None:
        """Answer the API's listing and downloads."""
        path, remote = self._note(), self.remote
        allowed = self.headers.get("Authorization") == f"Bearer {remote.token}" if remote.token else True
        parts = path.strip("/").split("/")
        repo, revision = ("/".join(parts[2:4]), parts[5]) if parts[0] == "api" else ("/".join(parts[:2]), parts[3])
        if not allowed and not remote.gated:
            self._say(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif repo != "skt/tiny":
            self._say(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif revision not in ("main", COMMIT):
            self._say(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        elif parts[0] == "api":
            self._say(200, self._listing(), Content_Type="application/json")
        elif not allowed:
            self._say(403, X_Error_Code="GatedRepo", X_Error_Message="Access to model skt/tiny is restricted")
        elif remote.redirect:
            self._say(302, Location=remote.redirect + self.path)
        else:
            self._send("/".join(parts[4:]))

    def _listing(self) -> bytes:
        if self.remote.answer is not None:
            return self.remote.answer
        rows: list[dict[str, Any]] = []
        for name, data in self.remote.files.items():
            row: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if name.endswith((".safetensors", ".gguf")):
                row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            rows.append(row)
        return json.dumps({"id": "skt/tiny", "sha": COMMIT, "siblings": rows}).encode()


class S3Handler(_Handler):
    """Answers for the bucket `models`, path-style; keys are the files' names."""

    def do_HEAD(self) -> None:
        """Answer like GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer ListObjectsV2, HEAD and GET."""
        path, remote = self._note(), self.remote
        bucket, _, key = path.lstrip("/").partition("/")
        if remote.token and remote.token not in self.headers.get("Authorization", ""):
            self._error(403, "AccessDenied")
        elif bucket != "models":
            self._error(404, "NoSuchBucket")
        elif not key:
            self._list(parse_qs(urlsplit(self.path).query))
        elif key not in remote.files:
            self._error(404, "NoSuchKey")
        elif self.headers.get("If-Match") not in (None, self._tag(key)):
            self._error(412, "PreconditionFailed")
        elif self.command == "HEAD":
            self.send_response(200)
            self.send_header("Content-Length", str(len(remote.files[key])))
            self.send_header("ETag", self._tag(key))
            self.end_headers()
        else:
            self._send(key, ETag=self._tag(key))

    def _tag(self, key: str) -> str:
        return f'"{hashlib.md5(self.remote.files[key]).hexdigest()}"'

    def _error(self, status: int, code: str) -> None:
        self._say(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

    def _list(self, query: dict[str, list[str]]) -> None:
        """Two objects a page, so that pages are followed."""
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", [""])[0]
        keys = sorted(k for k in self.remote.files if k.startswith(prefix) and "/" not in k[len(prefix) :])
        page = [k for k in keys if k > after][:2]
        more = bool(page) and page[-1] != keys[-1]
        rows = "".join(
            f"<Contents><Key>{escape(k)}</Key><Size>{len(self.remote.files[k])}</Size>"
            f"<ETag>{escape(self._tag(k))}</ETag></Contents>"
            for k in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        body = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        self._say(200, body.encode(), Content_Type="application/xml")


@contextmanager
def serving(handler: type[_Handler], remote: Remote) -> Iterator[Remote]:
    """Serve a stand-in on a free loopback port; its address is in `remote.url`."""
    bound = type("Bound", (handler,), {"remote": remote})
    server = _QuietServer(("127.0.0.1", 0), bound)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    remote.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield remote
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _QuietServer(ThreadingHTTPServer):
    """A client that hangs up in the middle is what some tests are about; its traceback is not."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
