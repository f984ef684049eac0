"""Who answers for which model name: AXModels and ready endpoints become a RouteTable.

Pure. The gateway's agents configure Envoy from it and the operator reports `Routed` from it, so both always agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ax_gateway.hosted import HostedAPI
from ax_operator.api.axmodel import AXModelSpec
from ax_operator.api.names import MODEL, PORT_HTTP, SLOTS
from ax_operator.api.schema import seconds

Policy = Literal["OnPremFirst", "HostedFirst", "OnPremOnly", "HostedOnly"]
Unavailable = Literal["Hosted", "Hold", "Reject"]
Residency = Literal["OnPrem", "Any"]
BareNames = Literal["*"] | frozenset[str]
"""Namespaces whose models may be called by a bare served name; `*` means all of them."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One ready replica: an IP address and the frontend's port."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Replicas:
    """The ready replicas of a model, and how many requests each of them serves at once (None: unknown)."""

    endpoints: tuple[Endpoint, ...] = ()
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """What an AXModel asks of the gateway; `created` is its RFC 3339 creation time, times are in seconds."""

    namespace: str
    name: str
    created: str = ""
    served_names: tuple[str, ...] = ()
    policy: Policy = "OnPremFirst"
    while_unavailable: Unavailable = "Hold"
    hold_timeout: float = 300.0
    residency: Residency = "OnPrem"
    hosted: str | None = None
    max_wait: float = 0.0
    sticky: bool = False
    """Whether requests of one `user` go to one replica."""

    @property
    def key(self) -> str:
        """`<namespace>/<name>`: the name that always works."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Conflict:
    """A served name that an older model holds."""

    model: str
    served_name: str
    holder: str


@dataclass(frozen=True, slots=True)
class HostedRefusal:
    """A hosted API that a model asks for and does not get now."""

    model: str
    api: str
    reason: Literal["NotFound", "NotAllowed", "Closed"]
    message: str


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What changes from minute to minute: gateways that share the load, closed APIs, how long requests take."""

    gateways: int = 1
    closed: Mapping[str, str] = field(default_factory=dict)
    """Why an API must not be used now, by its name."""
    service_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long a request of a model takes at a replica, by `<namespace>/<name>`."""


USUAL_SERVICE_SECONDS = 10.0
"""Assumed until a model's own requests have been measured."""


@dataclass(frozen=True, slots=True)
class Route:
    """One model as the gateway serves it: every name that leads to it, its ready replicas, its hosted API.

    `hosted` is None whenever no request of this model may leave: by residency, policy, permission or budget.
    `limit` is how many requests this gateway sends on-prem before others overflow; None means no bound.
    """

    model: ModelRoute
    names: tuple[str, ...]
    endpoints: tuple[Endpoint, ...] = ()
    hosted: HostedAPI | None = None
    limit: int | None = None

    @property
    def key(self) -> str:
        """`<namespace>/<name>` of the model."""
        return self.model.key

    @property
    def hosted_meanwhile(self) -> bool:
        """Whether a hosted API answers while no replica is ready; requests that must stay wait apart from others."""
        return self.hosted is not None and self.model.while_unavailable == "Hosted"


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes, sorted by key, each name in exactly one of them; and the names that could not be given."""

    routes: tuple[Route, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    refusals: tuple[HostedRefusal, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a client may put into `model`, sorted."""
        return tuple(sorted(name for route in self.routes for name in route.names))


def model_route(manifest: Mapping[str, Any]) -> ModelRoute:
    """Read an AXModel object; raises pydantic.ValidationError where its spec is not one."""
    meta = manifest["metadata"]
    routing = AXModelSpec.model_validate(manifest["spec"]).routing
    return ModelRoute(
        namespace=meta["namespace"],
        name=meta["name"],
        created=meta.get("creationTimestamp") or "",
        served_names=routing.served_names,
        policy=routing.policy,
        while_unavailable=routing.while_unavailable,
        hold_timeout=seconds(routing.hold_timeout),
        residency=routing.data_residency,
        hosted=routing.hosted.api_ref if routing.hosted else None,
        max_wait=seconds(routing.overflow.max_wait) if routing.overflow.max_wait else 0.0,
        sticky=routing.session_affinity == "User",
    )


def replicas_by_model(slices: Iterable[Mapping[str, Any]]) -> dict[str, Replicas]:
    """Return the ready replicas per `<namespace>/<name>` from EndpointSlices that carry the model's label.

    A terminating pod has left, whatever it says about its readiness; an unknown readiness counts as ready, as the
    API says. The same address in two slices counts once.
    """
    ready: dict[str, set[Endpoint]] = {}
    slots: dict[str, int] = {}
    for each in slices:
        meta = each["metadata"]
        labels = meta.get("labels") or {}
        ports = [port["port"] for port in each.get("ports") or () if port.get("name") == PORT_HTTP]
        if not labels.get(MODEL) or not ports or each.get("addressType") not in ("IPv4", "IPv6"):
            continue
        key = f"{meta['namespace']}/{labels[MODEL]}"
        found = ready.setdefault(key, set())
        if str(labels.get(SLOTS, "")).isdecimal():
            slots[key] = int(labels[SLOTS])
        for endpoint in each.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if conditions.get("ready") is not False and not conditions.get("terminating"):
                found.add(Endpoint(endpoint["addresses"][0], ports[0]))
    return {key: Replicas(tuple(sorted(found)), slots.get(key)) for key, found in ready.items()}


def route_table(
    models: Iterable[ModelRoute],
    replicas: Mapping[str, Replicas],
    bare_names: BareNames = frozenset(),
    apis: Mapping[str, HostedAPI] | None = None,
    now: Circumstances | None = None,
) -> RouteTable:
    """Give every model its names, its replicas and, where it may have one, its hosted API.

    Served names count only from the namespaces in `bare_names`. The oldest model keeps a name, then the first by
    key; nobody takes a name that is another model's `<namespace>/<name>`.
    """
    now = now or Circumstances()
    by_age = sorted(models, key=lambda model: (model.created, model.key))
    names, conflicts = _names(by_age, bare_names)
    routes, refusals = [], []
    for model in sorted(by_age, key=lambda model: model.key):
        found = replicas.get(model.key, Replicas())
        hosted = _hosted(model, apis or {}, now)
        if isinstance(hosted, HostedRefusal):
            refusals.append(hosted)
            hosted = None
        limit = _limit(model, found, now) if hosted else None
        routes.append(Route(model, tuple(sorted(names[model.key])), found.endpoints, hosted, limit))
    return RouteTable(tuple(routes), tuple(conflicts), tuple(refusals))


def _names(by_age: list[ModelRoute], bare_names: BareNames) -> tuple[dict[str, list[str]], list[Conflict]]:
    holders = {model.key: model.key for model in by_age}
    names: dict[str, list[str]] = {model.key: [model.key] for model in by_age}
    conflicts: list[Conflict] = []
    for model in by_age:
        if bare_names != "*" and model.namespace not in bare_names:
            continue
        for served in dict.fromkeys(model.served_names):
            holder = holders.setdefault(served, model.key)
            if holder != model.key:
                conflicts.append(Conflict(model.key, served, holder))
            elif served not in names[model.key]:
                names[model.key].append(served)
    return names, sorted(conflicts, key=lambda conflict: (conflict.model, conflict.served_name))


def _hosted(model: ModelRoute, apis: Mapping[str, HostedAPI], now: Circumstances) -> HostedAPI | HostedRefusal | None:
    """Return the API that may answer for a model now. Residency comes first: it holds in every other state."""
    if model.residency != "Any" or model.policy == "OnPremOnly" or model.hosted is None:
        return None
    api = apis.get(model.hosted)
    if api is None:
        message = f"AXHostedAPI {model.hosted!r} does not exist or cannot be used"
        return HostedRefusal(model.key, model.hosted, "NotFound", message)
    if model.namespace not in api.namespaces:
        message = f"AXHostedAPI {api.name!r} does not list namespace {model.namespace!r} in allowedNamespaces"
        return HostedRefusal(model.key, api.name, "NotAllowed", message)
    if api.name in now.closed:
        return HostedRefusal(model.key, api.name, "Closed", now.closed[api.name])
    return api


def _limit(model: ModelRoute, found: Replicas, now: Circumstances) -> int | None:
    """Return this gateway's share of the requests that the replicas serve, and let wait no longer than maxWait."""
    if found.slots is None:
        return None
    service = now.service_seconds.get(model.key, USUAL_SERVICE_SECONDS)
    room = found.slots * len(found.endpoints) * (1 + model.max_wait / service)
    return max(1, math.ceil(room / max(1, now.gateways)))
