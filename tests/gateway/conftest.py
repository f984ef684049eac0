"""One gateway for all tests that leave it whole; tests that kill parts of it start their own."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.gateway.accounting import client, status_is
from tests.gateway.hybrid import Hybrid
from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.crt and the certificate of `localhost` that it signed: localhost.crt and localhost.key."""
    folder = tmp_path_factory.mktemp("authority")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    signed = ["-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key"), *names]
    for name, more in (("ca", []), ("localhost", signed)):
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
        subprocess.run(
            ["openssl", "req", "-x509", *kind, f"/CN={name}", *files, *more], check=True, capture_output=True
        )
    return folder


@pytest.fixture(scope="session")
def hosted_settings(authority: Path) -> dict[str, Any]:
    """Settings of a gateway that trusts the stand-in of a hosted API."""
    waits = {"first_byte_seconds": 2, "hosted_first_byte_seconds": 2}
    return {"ca_bundle": authority / "ca.crt", "hosted_networks": "127.0.0.0/8,::1/128", **waits}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rig(tmp_path_factory: pytest.TempPathFactory, hosted_settings: dict[str, Any]) -> AsyncIterator[Rig]:
    found = Rig(tmp_path_factory.mktemp("gateway"), **hosted_settings)
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def counting(tmp_path_factory: pytest.TempPathFactory, hosted_settings: dict[str, Any]) -> AsyncIterator[Rig]:
    """A gateway that asks for keys, counts and logs; its own client is `owner`."""
    more = hosted_settings | {"client_keys": "required", "access_log": "stdout", "node": "gateway-a"}
    rig = Rig(tmp_path_factory.mktemp("counting"), **more)
    try:
        await rig.start()
        rig.session.headers.update(client(rig, "owner"))
        await until(lambda: status_is(rig, "nobody's", 404), "the owner's key is known")
        yield rig
    finally:
        await rig.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def own_rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A gateway that a test may break."""
    found = Rig(tmp_path)
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def replica() -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    """Start replicas that end with the test."""
    started: list[Replica] = []

    async def start(name: str = "replica") -> Replica:
        started.append(await Replica(name).start())
        return started[-1]

    yield start
    for each in started:
        await each.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def hosted(authority: Path) -> AsyncIterator[Replica]:
    """A stand-in of a hosted API behind TLS, as `https://localhost:<port>`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "localhost.crt", authority / "localhost.key")
    found = await Replica("hosted").start(context)
    yield found
    await found.stop()


@pytest.fixture
def hybrid(rig: Rig, hosted: Replica) -> Hybrid:
    """Return a model, not served yet, that may leave."""
    return Hybrid(rig, hosted)
