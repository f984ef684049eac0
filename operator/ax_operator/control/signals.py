"""Asks pods all the time: serving pods for their queues, gateways for their load, build pods how far they are.

A request that is held where there was none, or load that comes to an idle model or leaves it, calls for a reconcile
at once; otherwise the plan looks again when it wants to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from ax_engines.tasks import Progress
from ax_operator.api.names import COMPONENT, COMPONENT_BUILD, COMPONENT_GATEWAY, COMPONENT_SERVING, ENGINE, MODEL
from ax_operator.control.cache import Cache
from ax_operator.control.measures import GatewayMeasure, Measured, PodMeasure, measured
from ax_operator.control.metrics import Metrics
from ax_operator.control.occupancy import Lister, Occupancy
from ax_operator.control.questions import NoAnswer, Questions
from ax_operator.control.wakes import EVERYTHING, Key, Wake, hosted_key, model_key, store_key
from ax_operator.kinds import POD
from ax_operator.kube_errors import KubeError
from ax_operator.plan.hosted import Told
from ax_operator.plan.scaling import Requests

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]
GATEWAYS_SECONDS = 3.0
"""Between two looks for gateway pods."""
RETRY_SECONDS = 1.0
OCCUPANCY_SECONDS = 30.0
"""Between two looks for others' pods on GPU nodes."""


class Signals:
    """Asks and remembers; `measured` and `progress` answer from memory.

    wake: called with the key of a model or a store that should be looked at now.
    gateway_namespace: where gateway pods are; None if there is no gateway.
    """

    def __init__(
        self,
        kube: Lister,
        cache: Cache,
        questions: Questions,
        metrics: Metrics,
        wake: Wake,
        *,
        gateway_namespace: str | None,
        pods_every: float,
        builds_every: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._questions = questions
        self._metrics = metrics
        self._wake = wake
        self._gateway_namespace = gateway_namespace
        self._pods_every = pods_every
        self._builds_every = builds_every
        self._clock = clock
        self.foreign = Occupancy(kube, cache)
        self._pods: dict[Key, dict[str, PodMeasure]] = {}
        self._gateways: dict[str, GatewayMeasure] = {}
        self._pollers: dict[str, asyncio.Task[None]] = {}
        self._progress: dict[str, dict[str, Progress]] = {}
        self._states: dict[Key, tuple[bool, bool]] = {}
        self._usual: dict[Key, Requests] = {}
        self._started = clock()
        self._looked = False

    def measured(self, key: Key) -> Measured | None:
        """Return what is known of one model; None until serving pods have been asked once."""
        if not self._looked:
            return None
        now = self._clock()
        found = measured(
            f"{key.namespace}/{key.name}",
            self._pods.get(key, {}).values(),
            self._gateways.values(),
            self._gateways_age(now),
            now,
            fresh=2 * self._pods_every + 2,
            usual=self._usual.get(key),
        )
        if found.requests.seconds > 0:
            self._usual[key] = found.requests
        return found

    def busy(self, key: Key) -> Mapping[str, float]:
        """Return the requests that each of a model's pods has, as last told; a pod that never answered is left out."""
        return {pod.name: pod.requests for pod in self._pods.get(key, {}).values() if pod.at is not None}

    def closed(self) -> frozenset[str]:
        """Return the hosted APIs that a gateway must not use now: no help in need."""
        return frozenset(
            name
            for each in self._gateways.values()
            for name, state in (each.load.hosted.items() if each.load else ())
            if state.closed
        )

    def hosted(self, api: str) -> tuple[Told, ...]:
        """Return what each gateway says of a hosted API."""
        found = (each.load.hosted.get(api) for each in self._gateways.values() if each.load)
        return tuple(Told(state.state, state.spent_today, state.closed) for state in found if state)

    def refused(self) -> str | None:
        """Return what an Envoy refused of its newest configuration, if it did."""
        for each in self._gateways.values():
            for what, reason in sorted((each.load.rejected if each.load else {}).items()):
                return f"{what}: {reason}"
        return None

    def progress(self, namespace: str) -> Mapping[str, Progress]:
        """Return how far the builds of a namespace are, by AXEngine."""
        return self._progress.get(namespace, {})

    async def first(self) -> None:
        """Ask everybody once, so that the first plan knows what the last one knew."""
        if self._gateway_namespace is not None:
            await self.find_gateways()
        await asyncio.gather(self.ask_pods(), self.ask_builds(), self.foreign.look())

    async def run(self) -> None:
        """Ask for ever; ends only with an error, or when it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_every(self._pods_every, self.ask_pods))
                group.create_task(_every(self._builds_every, self.ask_builds))
                group.create_task(_every(OCCUPANCY_SECONDS, self.foreign.look))
                if self._gateway_namespace is not None:
                    group.create_task(_every(GATEWAYS_SECONDS, self.find_gateways))
        finally:
            for poller in self._pollers.values():
                poller.cancel()
            await asyncio.gather(*self._pollers.values(), return_exceptions=True)

    async def ask_pods(self) -> None:
        """Ask every serving pod that is ready, once, all at the same time."""
        now = self._clock()
        before, self._pods = self._pods, {}
        for address, pod in _addresses(self._cache.select(POD, labels={COMPONENT: COMPONENT_SERVING}), ready=True):
            meta = pod["metadata"]
            key = model_key(meta["namespace"], meta["labels"].get(MODEL, ""))
            known = before.get(key, {}).get(address)
            self._pods.setdefault(key, {})[address] = known or PodMeasure(now, meta["name"])
        await asyncio.gather(*(self._ask_pod(a, m) for pods in self._pods.values() for a, m in pods.items()))
        self._looked = True
        self._look(before.keys() | self._pods.keys())

    async def _ask_pod(self, address: str, measure: PodMeasure) -> None:
        try:
            gauges = await self._questions.gauges(address)
        except NoAnswer as error:
            self._metrics.scrapes.labels("pod", "failed").inc()
            logger.debug("Got no answer from a serving pod", extra={"error": str(error)})
            return
        self._metrics.scrapes.labels("pod", "answered").inc()
        measure.answered(gauges, self._clock())

    async def ask_builds(self) -> None:
        """Ask every build pod that runs how far it is; wake the stores where that is news."""
        told: dict[str, dict[str, Progress]] = defaultdict(dict)

        async def ask(address: str, pod: Manifest) -> None:
            try:
                found = await self._questions.progress(address)
            except NoAnswer as error:
                logger.debug("Got no progress from a build pod", extra={"error": str(error)})
                return
            told[pod["metadata"]["namespace"]][pod["metadata"]["labels"].get(ENGINE, "")] = found

        pods = self._cache.select(POD, labels={COMPONENT: COMPONENT_BUILD})
        await asyncio.gather(*(ask(address, pod) for address, pod in _addresses(pods, ready=False)))
        before, self._progress = self._progress, dict(told)
        for namespace in before.keys() | told.keys():
            if before.get(namespace) != told.get(namespace):
                self._wake(store_key(namespace))

    async def find_gateways(self) -> None:
        """Follow every gateway pod with a long poll of its own."""
        try:
            pods, _ = await self._kube.list(POD, self._gateway_namespace, f"{COMPONENT}={COMPONENT_GATEWAY}")
        except KubeError as error:
            logger.warning("Could not list the gateway's pods", extra={"error": str(error)})
            return
        found = dict(_addresses(pods, ready=False))
        for address in found.keys() - self._gateways.keys():
            self._gateways[address] = GatewayMeasure(self._clock())
            self._pollers[address] = asyncio.create_task(self._poll(address), name=f"gateway {address}")
        for address in self._gateways.keys() - found.keys():
            self._pollers.pop(address).cancel()
            del self._gateways[address]

    async def _poll(self, address: str) -> None:
        gateway = self._gateways[address]
        while True:
            try:
                load = await self._questions.load(address, gateway.load.version if gateway.load else 0)
            except NoAnswer as error:
                self._metrics.scrapes.labels("gateway", "failed").inc()
                logger.info("Got no load from a gateway", extra={"address": address, "error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._metrics.scrapes.labels("gateway", "answered").inc()
            before = gateway.load
            gateway.answered(load, self._clock())
            for name, state in load.hosted.items():
                if before is None or before.hosted.get(name) != state:
                    self._wake(hosted_key(name))
            if (before.rejected if before else {}) != load.rejected:
                self._wake(EVERYTHING)
            self._look(model_key(*name.split("/", 1)) for name in load.models if "/" in name)

    def _look(self, keys: Iterable[Key]) -> None:
        """Wake the models to which requests came, or which they left."""
        for key in keys:
            found = self.measured(key)
            if found is None:
                continue
            state = (found.held > 0, found.busy)
            if self._states.get(key, (False, False)) != state:
                self._states[key] = state
                self._wake(key, first=found.held > 0)

    def forget(self, key: Key) -> None:
        """Drop what was remembered of a model that is gone."""
        self._states.pop(key, None)
        self._usual.pop(key, None)

    def _gateways_age(self, now: float) -> float:
        """Seconds since the gateway from which nothing was heard for longest has answered."""
        if self._gateway_namespace is None:
            return 0.0
        return max((each.age(now) for each in self._gateways.values()), default=now - self._started)


async def _every(seconds: float, ask: Callable[[], Awaitable[None]]) -> None:
    while True:
        await ask()
        await asyncio.sleep(seconds)


def _addresses(pods: Iterable[Manifest], *, ready: bool) -> Iterator[tuple[str, Manifest]]:
    """Yield the addresses of pods that can answer: running, and ready where that is asked."""
    for pod in pods:
        status = pod.get("status") or {}
        going = pod["metadata"].get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed")
        is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
        if status.get("podIP") and not going and (is_ready or not ready):
            yield status["podIP"], pod
