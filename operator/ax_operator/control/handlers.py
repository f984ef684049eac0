"""kopf, and nothing else: it watches, and tells what it hears. The only module that imports it.

Only `on.event` is used for objects: kopf's other handlers keep state in annotations and finalizers of users' objects.
A handler does no I/O and cannot fail the object that it is about: it updates the cache and wakes the queue. kopf's
start and stop frame ours; between them it owns the process's signals.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import kopf

from ax_engines.catalogue import load as load_catalogue
from ax_engines.hardware_table import load_gpus
from ax_operator.control.http import Http
from ax_operator.control.observe import OWNED, WATCHED, Fixed
from ax_operator.control.operator import OURS, Operator, death
from ax_operator.control.questions import Ports, Questions
from ax_operator.control.signals import Signals
from ax_operator.kinds import Kind
from ax_operator.kube import Kube
from ax_operator.plan.world import Settings
from ax_operator.settings import ProcessSettings

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 90.0
"""A watch without a byte for this long is opened anew: the server sends a bookmark every minute."""
LOGIN_SECONDS = 300.0
"""Credentials are read again this often: a pod's token is rotated within the hour."""


class Patience:
    """Seconds between two attempts, without end: kopf gives up a watch for good when they run out."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 3, 5, 8)
        while True:
            yield 10.0


def configure(settings: kopf.OperatorSettings) -> None:
    """Set kopf up as a watcher that writes nothing."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True  # our kinds are there before we start; namespaces do not matter
    settings.networking.enforce_retry_after = True
    settings.networking.error_backoffs = Patience()
    settings.networking.connect_timeout = 10.0
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.watching.server_timeout = 290
    for kind in OWNED:
        # A tuple: a string would be taken for a resource of that name, match nothing, and filter nothing.
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = OURS


def dead_watches() -> list[Kind]:
    """Return the kinds whose watch is no longer a living task of kopf's."""
    alive = {task.get_name() for task in asyncio.all_tasks()}
    return [kind for kind in WATCHED if f"watcher for {_kopf_name(kind)}@None" not in alive]


def _kopf_name(kind: Kind) -> str:
    return f"{kind.plural}.{kind.version}.{kind.group}".rstrip(".")


async def run(settings: Settings, process: ProcessSettings, kubeconfig: str | None = None) -> None:
    """Run the operator until a signal stops it, or an error ends it."""
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(Kube(kubeconfig))
        questions = await stack.enter_async_context(Questions(Ports(gateway=process.gateway_port)))
        made: list[Signals] = []

        def make_signals(cache: Any, metrics: Any, wake: Any) -> Signals:
            made.append(
                Signals(
                    kube,
                    cache,
                    questions,
                    metrics,
                    wake,
                    gateway_namespace=settings.namespace if settings.gateway_replicas else None,
                    pods_every=process.signals_seconds,
                    builds_every=process.progress_seconds,
                )
            )
            return made[0]

        fixed = Fixed(settings, load_catalogue(), load_gpus())
        operator = Operator(kube, fixed, process, signals=make_signals)
        framed = _Framed(operator, made[0])
        http = Http(process.http_port, operator.render_metrics, framed.ailments, lambda: operator.ready)
        framed.http = await stack.enter_async_context(http)
        logger.info("Listening", extra={"port": http.port})
        await kopf.operator(
            registry=_registry(framed, kube),
            settings=framed.kopf_settings,
            standalone=True,
            clusterwide=True,
            # Without peers it means nothing, but kopf would look its user up, and a pod's user has no name.
            identity=cast(Any, "ax-operator"),
        )


class _Framed:
    """The operator within kopf's life."""

    def __init__(self, operator: Operator, signals: Signals) -> None:
        self.operator = operator
        self.http: Http | None = None
        self.kopf_settings = kopf.OperatorSettings()
        configure(self.kopf_settings)
        self._signals = signals
        self._asking: asyncio.Task[None] | None = None
        self._watching = False

    async def start(self) -> None:
        await self.operator.start()
        self._asking = asyncio.create_task(self._signals.run(), name="signals")

    async def stop(self) -> None:
        self._watching = False
        await self.operator.stop()
        if self._asking:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self.http:
            await self.http.close()

    def heard(self, kind: Kind, event: Any) -> None:
        self._watching = True
        self.operator.heard(kind, event["type"], dict(event["object"]))

    def ailments(self) -> list[str]:
        found = self.operator.ailments()
        if self._asking is not None and self._asking.done():
            found.append(f"the signals are dead: {death(self._asking)}")
        if self._watching:
            found += [f"the watch of {kind.plural} has ended" for kind in dead_watches()]
        return found


def _registry(framed: _Framed, kube: Kube) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    # A bug at the start must end the process, not be tried again every minute behind its back.
    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def startup(**_: Any) -> None:
        await framed.start()

    @kopf.on.cleanup(registry=registry)
    async def cleanup(**_: Any) -> None:
        await framed.stop()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        found = await kube.connection()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            insecure=found.insecure,
            certificate_path=found.certificate_path,
            private_key_path=found.private_key_path,
            scheme="Bearer" if found.token else None,
            token=found.token,
            expiration=datetime.now(UTC) + timedelta(seconds=LOGIN_SECONDS) if found.token else None,
        )

    for kind in WATCHED:
        _listen(registry, kind, framed)
    return registry


def _listen(registry: kopf.OperatorRegistry, kind: Kind, framed: _Framed) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)
    async def event(event: Any, **_: Any) -> None:  # kopf would run a plain function in a thread of its own
        framed.heard(kind, event)
