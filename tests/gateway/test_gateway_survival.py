"""Parts of the gateway die, restart or change under load; clients see nothing of it."""

from __future__ import annotations

import asyncio
import random
import signal
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]


class Traffic:
    """Streams that never cease while a test changes things; each must be answered by the model it names."""

    def __init__(self, rig: Rig, models: dict[str, str], clients: int) -> None:
        self._rig = rig
        self._models = models
        self._clients = clients
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.answered = 0

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self._clients)]
        await until(lambda: self.answered >= self._clients, "traffic flows")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        names = sorted(self._models)
        while not self._over.is_set():
            model = names[number % len(names)]
            events = await self._rig.stream(model)
            wanted = self._models[model]
            assert all(wanted in event for event in events[:-2]), (model, events)
            self.answered += 1
            number += 1

    async def more(self, count: int) -> None:
        """Wait until `count` more streams have ended well."""
        wanted = self.answered + count
        await until(lambda: self.answered >= wanted or any(t.done() for t in self._tasks), "traffic goes on")
        assert not any(task.done() for task in self._tasks)


async def test_agent_killed_and_restarted_under_load(own_rig: Rig, replica: Start) -> None:
    one, two = await replica("alpha"), await replica("beta")
    one.interval = two.interval = 0.01
    models = {await own_rig.serve("alpha", one): "alpha", await own_rig.serve("beta", two): "beta"}
    async with Traffic(own_rig, models, clients=10) as traffic:
        for _ in range(2):
            await own_rig.end(own_rig.agent)
            await traffic.more(50)
            await own_rig.start_agent()
            await until(own_rig.is_ready, "the agent answers again")
            await traffic.more(50)
        three = await replica("alpha")
        await own_rig.scale("t/alpha", three)
        await traffic.more(20)
        assert three.seen
    assert (await own_rig.load())["models"]["t/alpha"]["running"] == 0


async def test_requests_held_while_the_agent_is_restarted_are_not_lost_silently(own_rig: Rig, replica: Start) -> None:
    key = await own_rig.serve("held")
    waiting = asyncio.create_task(own_rig.ask(key))
    await until(lambda: _held(own_rig, key), "the request waits")
    await own_rig.end(own_rig.agent)
    status, body = await waiting
    assert (status, body["error"]["code"]) == (503, "model_unavailable")
    await own_rig.start_agent()
    await until(own_rig.is_ready, "the agent answers again")
    waiting = asyncio.create_task(own_rig.ask(key))
    await until(lambda: _held(own_rig, key), "requests wait again")
    own_rig.replicas(key, await replica())
    assert (await waiting)[0] == 200


async def test_restarts_without_the_api_server(own_rig: Rig, replica: Start) -> None:
    one = await replica("kept")
    key = await own_rig.serve("kept", one)
    world = own_rig.folder / "state" / "world.json"
    await until(lambda: world.exists() and str(one.port) in world.read_text(), "the world is saved")
    assert world.stat().st_mode & 0o077 == 0
    await own_rig.api.stop()
    await own_rig.end(own_rig.envoy)
    await own_rig.start_envoy()
    await until(own_rig.is_ready, "a new Envoy is configured by the old agent")
    assert (await own_rig.ask(key))[0] == 200
    await own_rig.end(own_rig.envoy)
    await own_rig.end(own_rig.agent)
    await own_rig.start_agent()
    await own_rig.start_envoy()
    await until(own_rig.is_ready, "a new Envoy is configured by a new agent from the last world")
    assert (await own_rig.ask(key))[0] == 200
    assert not (await own_rig.load())["complete"]
    await own_rig.api.start()
    two = await replica("new")
    await own_rig.scale(key, two)
    assert (await own_rig.load())["complete"]
    assert (await own_rig.ask(key))[1]["choices"][0]["message"]["content"] == "new"


async def test_nothing_is_configured_before_the_world_is_known(tmp_path: Path) -> None:
    rig = Rig(tmp_path, patience=0.1)
    try:
        await rig.api.start()
        rig.api.kubeconfig(tmp_path / "kubeconfig")
        await rig.api.stop()
        await rig.start_agent()
        await rig.start_envoy()
        await until(lambda: "Got no answer from the API server" in rig.log(), "patience is over")
        assert not await rig.is_ready()
        with pytest.raises(aiohttp.ClientConnectorError):
            await rig.ask("any")
        await rig.api.start()
        await until(rig.is_ready, "the gateway gets ready with the API server")
        assert (await rig.ask("any"))[0] == 404
    finally:
        await rig.stop()


async def test_thousand_endpoint_updates_under_load(rig: Rig, replica: Start) -> None:
    alphas = [await replica("alpha") for _ in range(3)]
    betas = [await replica("beta") for _ in range(3)]
    for each in (*alphas, *betas):
        each.interval = 0.005
    models = {await rig.serve("up-alpha", *alphas): "alpha", await rig.serve("up-beta", *betas): "beta"}
    choose = random.Random(7)
    async with Traffic(rig, models, clients=20) as traffic:
        for number in range(1000):
            key, group = choose.choice([("t/up-alpha", alphas), ("t/up-beta", betas)])
            rig.replicas(key, *choose.sample(group, choose.randint(0 if number % 50 == 0 else 1, 3)))
            if number % 10 == 0:
                rig.model(f"noise-{number % 70}", servedNames=[f"noise-name-{number}"])
                await traffic.more(1)
            await asyncio.sleep(0)
        await rig.scale("t/up-alpha", *alphas)
        await rig.scale("t/up-beta", *betas)
        await traffic.more(100)
    assert traffic.answered >= 200
    assert (await rig.load())["rejected"] == {}


async def test_streams_outlive_their_own_model(rig: Rig, replica: Start) -> None:
    one = await replica("one")
    one.chunks, one.interval = 20, 0.1
    key = await rig.serve("short-lived", one)
    running = [asyncio.create_task(rig.stream(key)) for _ in range(5)]
    await until(lambda: one.running == 5, "streams run")
    rig.remove(key)
    await until(lambda: _gone(rig, key), "the model is gone")
    assert [len(events) for events in await asyncio.gather(*running)] == [22] * 5


async def test_drain_waits_for_streams(own_rig: Rig, replica: Start) -> None:
    one = await replica("one")
    one.chunks, one.interval = 20, 0.1
    key = await own_rig.serve("drained", one)
    running = asyncio.create_task(own_rig.stream(key))
    await until(lambda: one.running == 1, "a stream runs")
    async with own_rig.session.get(f"http://127.0.0.1:{own_rig.api_port}/drain") as response:
        assert (response.status, await response.text()) == (200, "drained\n")
    assert running.done() or len(await running) == 22
    assert len(await running) == 22
    assert not await own_rig.is_ready()
    await own_rig.end(own_rig.envoy, signal.SIGTERM)
    await own_rig.end(own_rig.agent, signal.SIGTERM)
    assert own_rig.agent is not None
    assert own_rig.agent.returncode == 0


async def test_tls_from_files_that_are_swapped(tmp_path: Path, replica: Start) -> None:
    """As the kubelet does it: the files are links through `..data`, which a rename replaces."""
    folder = tmp_path / "tls"
    folder.mkdir()
    for name in ("tls.crt", "tls.key"):
        (folder / name).symlink_to(f"..data/{name}")
    _certificate(folder, "broken")
    (folder / ".broken" / "tls.crt").write_text("no certificate")
    rig = Rig(tmp_path, tls="required", tls_folder=folder)
    try:
        await rig.start(ready=False)
        await until(lambda: _rejected(rig), "Envoy refuses what is no certificate")
        assert not await rig.is_ready()
        _certificate(folder, "first")
        await until(rig.is_ready, "a good certificate opens the listener")
        assert (await rig.load())["rejected"] == {}
        key = await rig.serve_without_looking("secure", await replica())
        await until(lambda: _answers(rig, folder / "..data" / "tls.crt", key), "the first certificate is served")
        first = folder / ".first" / "tls.crt"
        _certificate(folder, "second")
        await until(lambda: _answers(rig, folder / "..data" / "tls.crt", key), "the second certificate is served")
        assert not await _answers(rig, first, key)
        (folder / "..data" / "tls.key").write_text("no key")
        await until(lambda: _rejected(rig), "Envoy refuses what is no key")
        assert await _answers(rig, folder / "..data" / "tls.crt", key), "the last good pair stays"
        with pytest.raises(aiohttp.ClientError):
            await rig.session.get(f"http://127.0.0.1:{rig.port}/v1/models")
    finally:
        await rig.stop()


def _certificate(folder: Path, version: str) -> None:
    """Make a certificate and put it in place with one rename."""
    target = folder / f".{version}"
    target.mkdir()
    files = ["-keyout", str(target / "tls.key"), "-out", str(target / "tls.crt")]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", f"/CN={version}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *kind, *files, *names], check=True, capture_output=True)
    link = folder / "..new"
    link.symlink_to(f".{version}")
    link.rename(folder / "..data")


async def _answers(rig: Rig, trusted: Path, model: str) -> bool:
    context = ssl.create_default_context(cafile=str(trusted))
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
            session.post(f"{rig.url}/v1/chat/completions", json=rig.body(model), ssl=context) as response,
        ):
            return response.status == 200
    except aiohttp.ClientConnectorError:
        return False


async def _held(rig: Rig, key: str) -> bool:
    try:
        return bool((await rig.load())["models"][key]["held"])
    except (aiohttp.ClientError, KeyError):
        return False


async def _rejected(rig: Rig) -> bool:
    try:
        return any("Secret" in kind for kind in (await rig.load())["rejected"])
    except aiohttp.ClientError:
        return False


async def _gone(rig: Rig, key: str) -> bool:
    return not await rig.is_listed(key)
