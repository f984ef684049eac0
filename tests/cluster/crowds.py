"""Users of many models: what the pods and the gateway of a simulated cluster would tell of their requests."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

from ax_engines import wire
from ax_engines.tasks import Progress
from ax_operator.api.names import COMPONENT, COMPONENT_SERVING, MODEL
from ax_operator.control.cache import Cache
from ax_operator.control.questions import GatewayLoad, ModelLoad, NoAnswer
from ax_operator.kinds import POD

SECONDS = 4.0
"""A request keeps its slot for this long."""


class Crowds:
    """Answers the operator's questions: so many requests per model, at its pods if it has any, else held.

    Stands where `control.questions.Questions` does. Every answer is one request more or less than the mean.
    """

    def __init__(self, namespace: str, slots: int) -> None:
        self.cache = Cache()
        self._namespace = namespace
        self._slots = slots
        self._demand: dict[str, int] = {}
        self._noise = random.Random(1)
        self._versions = itertools.count(1)
        self._changed = asyncio.Event()
        self._counted: dict[str, tuple[float, float]] = {}

    def want(self, requests: int, *models: str) -> None:
        """Have so many requests in each of these models from now on."""
        self._demand.update(dict.fromkeys(models, requests))
        self._changed.set()

    async def gauges(self, address: str) -> dict[str, float]:
        """Return the gauges of the pod with this address: its share of the model's requests."""
        pods = self.cache.select(POD, self._namespace, {COMPONENT: COMPONENT_SERVING})
        pod = next((p for p in pods if (p.get("status") or {}).get("podIP") == address), None)
        if pod is None:
            raise NoAnswer(f"{address} is nobody's")
        name = pod["metadata"]["labels"][MODEL]
        here = self._requests(name) / max(1, self._ready(name))
        running = min(here, self._slots)
        now = time.monotonic()
        last, count = self._counted.get(address, (now, 0.0))
        self._counted[address] = now, count + running * (now - last) / SECONDS
        found = dict.fromkeys((wire.METRIC_PROMPT_TOKENS, wire.METRIC_GENERATED_TOKENS), 100 * count)
        return found | {
            wire.METRIC_RUNNING: running,
            wire.METRIC_WAITING: here - running,
            wire.METRIC_TTFT_COUNT: self._counted[address][1],
        }

    async def load(self, address: str, version: int) -> GatewayLoad:
        """Return the gateway's counts half a second later, or as soon as somebody comes or leaves."""
        try:
            async with asyncio.timeout(0.5):
                await self._changed.wait()
                self._changed.clear()
        except TimeoutError:
            pass  # nobody came or left
        models = {}
        for name in self._demand:
            requests, at_pods = self._requests(name), self._ready(name) > 0
            models[f"{self._namespace}/{name}"] = ModelLoad(
                running=requests if at_pods else 0, held=0 if at_pods else requests
            )
        return GatewayLoad(version=next(self._versions), models=models)

    async def progress(self, address: str) -> Progress:
        """Return nothing: builds end at once here."""
        raise NoAnswer(f"{address} tells no progress")

    def _requests(self, name: str) -> int:
        mean = self._demand.get(name, 0)
        return mean and mean + self._noise.choice((-1, 0, 1))

    def _ready(self, name: str) -> int:
        pods = self.cache.select(POD, self._namespace, {MODEL: name, COMPONENT: COMPONENT_SERVING})
        return sum(bool((pod.get("status") or {}).get("podIP")) for pod in pods if not _going(pod))


def _going(pod: dict[str, dict[str, object]]) -> bool:
    return "deletionTimestamp" in pod["metadata"]
