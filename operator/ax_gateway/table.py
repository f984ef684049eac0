"""Who answers for which model name: AXModels and ready endpoints become a RouteTable.

Pure. The gateway's agents configure Envoy from it and the operator reports `Routed` from it, so both always agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ax_operator.api.axmodel import AXModelSpec
from ax_operator.api.names import MODEL, PORT_HTTP
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
class ModelRoute:
    """What an AXModel asks of the gateway; `created` is its RFC 3339 creation time, `hold_timeout` in seconds."""

    namespace: str
    name: str
    created: str = ""
    served_names: tuple[str, ...] = ()
    policy: Policy = "OnPremFirst"
    while_unavailable: Unavailable = "Hold"
    hold_timeout: float = 300.0
    residency: Residency = "OnPrem"
    hosted: str | None = None

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
class Route:
    """One model as the gateway serves it: every name that leads to it, and its ready replicas."""

    model: ModelRoute
    names: tuple[str, ...]
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def key(self) -> str:
        """`<namespace>/<name>` of the model."""
        return self.model.key


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes, sorted by key, each name in exactly one of them; and the names that could not be given."""

    routes: tuple[Route, ...] = ()
    conflicts: tuple[Conflict, ...] = field(default=())

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
    )


def endpoints_by_model(slices: Iterable[Mapping[str, Any]]) -> dict[str, tuple[Endpoint, ...]]:
    """Return the ready endpoints per `<namespace>/<name>` from EndpointSlices that carry the model's label.

    A terminating pod has left, whatever it says about its readiness; an unknown readiness counts as ready, as the
    API says. The same address in two slices counts once.
    """
    found: dict[str, set[Endpoint]] = {}
    for each in slices:
        meta = each["metadata"]
        model = (meta.get("labels") or {}).get(MODEL)
        ports = [port["port"] for port in each.get("ports") or () if port.get("name") == PORT_HTTP]
        if not model or not ports or each.get("addressType") not in ("IPv4", "IPv6"):
            continue
        ready = found.setdefault(f"{meta['namespace']}/{model}", set())
        for endpoint in each.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if conditions.get("ready") is not False and not conditions.get("terminating"):
                ready.add(Endpoint(endpoint["addresses"][0], ports[0]))
    return {key: tuple(sorted(ready)) for key, ready in found.items()}


def route_table(
    models: Iterable[ModelRoute],
    endpoints: Mapping[str, tuple[Endpoint, ...]],
    bare_names: BareNames = frozenset(),
) -> RouteTable:
    """Give every model its names: `<namespace>/<name>`, and the served names that are free.

    Served names count only from the namespaces in `bare_names`. The oldest model keeps a name, then the first by
    key; nobody takes a name that is another model's `<namespace>/<name>`.
    """
    by_age = sorted(models, key=lambda model: (model.created, model.key))
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
    routes = (Route(model, tuple(sorted(names[model.key])), endpoints.get(model.key, ())) for model in by_age)
    return RouteTable(
        tuple(sorted(routes, key=lambda route: route.key)),
        tuple(sorted(conflicts, key=lambda conflict: (conflict.model, conflict.served_name))),
    )
