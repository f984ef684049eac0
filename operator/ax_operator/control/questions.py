"""Questions to pods over HTTP: a serving pod's gauges, a gateway's load, a build's progress. Bounded in time and size.

Pods answer for themselves and may lie, hang or send without end; whatever is not an answer is `NoAnswer`.
"""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ax_engines import wire
from ax_engines.contract import METRICS_PORT
from ax_engines.tasks import PROGRESS_PORT, Progress

LIMIT_BYTES = 4 * 1024 * 1024
QUICK_SECONDS = 2.0
POLL_SECONDS = 5.0
"""How long a gateway may wait for news before it answers."""

GAUGES = (
    wire.METRIC_RUNNING,
    wire.METRIC_WAITING,
    wire.METRIC_PROMPT_TOKENS,
    wire.METRIC_GENERATED_TOKENS,
    wire.METRIC_TTFT_COUNT,
)


class NoAnswer(Exception):  # noqa: N818
    """The pod did not answer, or not in the agreed words; the message says which."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where pods listen."""

    metrics: int = METRICS_PORT
    progress: int = PROGRESS_PORT
    gateway: int = 8081


class ModelLoad(BaseModel):
    """One model at one gateway: requests at pods, held, and sent to a hosted API for want of room so far."""

    model_config = ConfigDict(frozen=True)

    running: int = Field(0, ge=0)
    held: int = Field(0, ge=0)
    overflowed: int = Field(0, ge=0)


class HostedState(BaseModel):
    """One hosted API at one gateway."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel)

    state: str = Field("unknown", max_length=64)
    spent_today: float = Field(0.0, ge=0, allow_inf_nan=False)
    """KRW since midnight in Seoul, of all gateways."""
    closed: str | None = None
    """Why it must not be used now: its budget is spent, its key is missing, its name is not resolved."""


class GatewayLoad(BaseModel):
    """What a gateway's agent answers."""

    model_config = ConfigDict(frozen=True)

    version: int
    complete: bool = True
    rejected: dict[str, str] = Field(default_factory=dict, max_length=100)
    """What Envoy refused of its newest configuration, by type; the last good one stays."""
    hosted: dict[str, HostedState] = Field(default_factory=dict, max_length=10_000)
    models: dict[str, ModelLoad] = Field(default_factory=dict, max_length=100_000)


class Questions:
    """Asks pods; an async context manager."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Questions:
        # No proxy of the environment: these requests stay inside the cluster.
        self._session = aiohttp.ClientSession(trust_env=False, connector=aiohttp.TCPConnector(limit=64))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def gauges(self, address: str) -> dict[str, float]:
        """Return the sums of our metric families at a serving pod; one that is missing counts as zero."""
        return sums(await self._ask(address, self._ports.metrics, "/metrics", QUICK_SECONDS), GAUGES)

    async def load(self, address: str, version: int) -> GatewayLoad:
        """Return a gateway's load as soon as it is another than `version`, or after POLL_SECONDS."""
        path = f"/v1/load?version={version}&wait={POLL_SECONDS:g}"
        text = await self._ask(address, self._ports.gateway, path, POLL_SECONDS + QUICK_SECONDS)
        try:
            return GatewayLoad.model_validate_json(text)
        except ValidationError as error:
            raise NoAnswer(f"{address} answered no load: {error.error_count()} errors") from error

    async def progress(self, address: str) -> Progress:
        """Return how far a build is."""
        text = await self._ask(address, self._ports.progress, "/progress", QUICK_SECONDS)
        try:
            return Progress.from_json(text)
        except ValidationError as error:
            raise NoAnswer(f"{address} answered no progress: {error.error_count()} errors") from error

    async def _ask(self, address: str, port: int, path: str, seconds: float) -> bytes:
        if self._session is None:
            raise RuntimeError("Questions are asked outside of their `async with`")
        host = f"[{address}]" if ":" in address else address
        try:
            timeout = aiohttp.ClientTimeout(total=seconds)
            async with self._session.get(f"http://{host}:{port}{path}", timeout=timeout) as response:
                if response.status != 200:
                    raise NoAnswer(f"{address}:{port} answered with status {response.status}")
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > LIMIT_BYTES:
                        raise NoAnswer(f"{address}:{port} sent more than {LIMIT_BYTES} bytes")
                return bytes(body)
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(f"{address}:{port}: {error or type(error).__name__}") from error


def sums(text: bytes, families: tuple[str, ...]) -> dict[str, float]:
    """Return the sum over all label sets of each family in Prometheus' text format."""
    found = dict.fromkeys(families, 0.0)
    for line in text.decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition("{")
        if rest:
            value = rest.rpartition("} ")[2]
        else:
            name, _, value = line.partition(" ")
        if name in found:
            try:
                found[name] += float(value.split()[0])
            except (ValueError, IndexError) as error:
                raise NoAnswer(f"{name} has no number: {value[:50]!r}") from error
    return found
