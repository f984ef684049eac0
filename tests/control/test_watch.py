"""Watches that break, fall silent or grow too old; and tokens that are rotated: against a scripted API server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from ax_operator.changes import WatchEvent
from ax_operator.kinds import POD
from ax_operator.kube import Kube

Stream = Callable[["web.StreamResponse"], Awaitable[None]]


class Scripted:
    """Answers lists and watches in the order in which they were put down."""

    def __init__(self) -> None:
        self.lists: list[dict] = []
        self.streams: list[Stream] = []
        self.resumed_at: list[str] = []
        self.token: str | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "message": "Unauthorized"}, status=401)
        if "watch" not in request.query:
            return web.json_response(self.lists.pop(0))
        self.resumed_at.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if self.streams:
            await self.streams.pop(0)(response)
        else:
            await asyncio.Event().wait()
        return response


def pod(name: str, version: int, uid: str = "") -> dict:
    return {"metadata": {"name": name, "namespace": "ns", "uid": uid or name, "resourceVersion": str(version)}}


def listing(version: int, *items: dict) -> dict:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


def lines(*events: tuple[str, dict]) -> Stream:
    async def write(response: web.StreamResponse) -> None:
        for kind, manifest in events:
            await response.write(json.dumps({"type": kind, "object": manifest}).encode() + b"\n")

    return write


async def silence(response: web.StreamResponse) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def serving(script: Scripted, folder: Path, token: str = "") -> AsyncIterator[Path]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    file = folder / "kubeconfig"
    write_config(file, port, token)
    try:
        yield file
    finally:
        await runner.cleanup()


def write_config(file: Path, port: int, token: str) -> None:
    named = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x"} | named))


async def collect(kube: Kube, count: int) -> list[tuple[str, str | None]]:
    found: list[WatchEvent] = []
    watch = kube.watch(POD, "ns")
    async with asyncio.timeout(30):
        async for event in watch:
            found.append(event)
            if len(found) == count:
                break
    await watch.aclose()
    return [(e.type, e.object.get("metadata", {}).get("name")) for e in found]


async def test_a_stream_that_ends_is_resumed_where_it_was(tmp_path):
    script = Scripted()
    script.lists = [listing(10, pod("a", 5))]
    bookmark = ("BOOKMARK", {"metadata": {"resourceVersion": "20"}})
    script.streams = [lines(("MODIFIED", pod("a", 11)), bookmark), lines(("ADDED", pod("b", 21)))]
    async with serving(script, tmp_path) as config, Kube(config) as kube:
        assert await collect(kube, 4) == [("ADDED", "a"), ("SYNCED", None), ("MODIFIED", "a"), ("ADDED", "b")]
    assert script.resumed_at == ["10", "20"]


async def test_a_silent_stream_is_given_up_and_resumed(tmp_path):
    script = Scripted()
    script.lists = [listing(10)]
    script.streams = [silence, lines(("ADDED", pod("b", 11)))]
    async with serving(script, tmp_path) as config, Kube(config, silence=0.2) as kube:
        assert await collect(kube, 2) == [("SYNCED", None), ("ADDED", "b")]
    assert script.resumed_at == ["10", "10"]


async def test_a_version_that_is_too_old_leads_to_a_new_list_and_its_differences(tmp_path):
    script = Scripted()
    before = [pod("same", 1), pod("changed", 2), pod("gone", 3), pod("replaced", 4, "old")]
    after = [pod("same", 1), pod("changed", 12), pod("new", 13), pod("replaced", 14, "young")]
    script.lists = [listing(10, *before), listing(20, *after)]
    script.streams = [lines(("ERROR", {"kind": "Status", "code": 410, "message": "too old"}))]
    async with serving(script, tmp_path) as config, Kube(config) as kube:
        heard = await collect(kube, 11)
    assert heard[:5] == [("ADDED", m["metadata"]["name"]) for m in before] + [("SYNCED", None)]
    assert heard[5:] == [
        ("DELETED", "gone"), ("DELETED", "replaced"),
        ("MODIFIED", "changed"), ("ADDED", "new"), ("ADDED", "replaced"), ("SYNCED", None),
    ]  # fmt: skip


async def test_a_line_cut_in_half_is_no_event(tmp_path):
    async def half(response: web.StreamResponse) -> None:
        await response.write(b'{"type": "ADDED", "object": {"metad')

    script = Scripted()
    script.lists = [listing(10)]
    script.streams = [half, lines(("ADDED", pod("b", 11)))]
    async with serving(script, tmp_path) as config, Kube(config) as kube:
        assert await collect(kube, 2) == [("SYNCED", None), ("ADDED", "b")]


async def test_a_rotated_token_is_read_again(tmp_path):
    script = Scripted()
    script.lists = [listing(1), listing(2)]
    script.token = "first"
    async with serving(script, tmp_path, "first") as config, Kube(config) as kube:
        assert await kube.list(POD) == ([], "1")
        script.token = "second"
        port = int(json.loads(config.read_text())["clusters"][0]["cluster"]["server"].rpartition(":")[2])
        write_config(config, port, "second")
        assert await kube.list(POD) == ([], "2")
        assert (await kube.connection()).token == "second"
