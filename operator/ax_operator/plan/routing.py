"""Step five: who answers, as far as the plan can tell; the gateway's agents compute the same from the same objects."""

from __future__ import annotations

from ax_operator.api.axmodel import Routing
from ax_operator.api.conditions import ROUTED, Fact
from ax_operator.plan.serving import ServingStep
from ax_operator.plan.world import Json, World


def routed(model: Json, routing: Routing, serving: ServingStep, world: World) -> Fact:
    """Return the condition Routed: a taken name and a missing or forbidden hosted API are the user's to mend."""
    namespace, name = model["metadata"]["namespace"], model["metadata"]["name"]
    taken = [
        (bare, holder)
        for bare in routing.served_names
        if (holder := world.names.get(bare)) and holder != f"{namespace}/{name}"
    ]
    if taken:
        bare, holder = taken[0]
        message = f"served name {bare!r} is held by {holder}, which is older: choose another; {namespace}/{name} works"
        return Fact(ROUTED, "False", "NameConflict", message)
    if world.refused:
        message = f"Envoy refused its newest configuration and keeps the last good one: {world.refused}"
        return Fact(ROUTED, "False", "ConfigurationRefused", message)
    hosted = routing.hosted is not None
    if routing.hosted:
        api = world.hosted.get(routing.hosted.api_ref)
        if api is None:
            message = f"AXHostedAPI {routing.hosted.api_ref!r} does not exist"
            return Fact(ROUTED, "False", "HostedAPINotFound", message)
        if namespace not in api.allowed_namespaces:
            message = f"AXHostedAPI {routing.hosted.api_ref!r} does not list namespace {namespace} in allowedNamespaces"
            return Fact(ROUTED, "False", "HostedAPINotAllowed", message)
    return _route(routing, serving, hosted=hosted and routing.policy != "OnPremOnly")


def _route(routing: Routing, serving: ServingStep, *, hosted: bool) -> Fact:
    if routing.policy == "HostedOnly":
        return Fact(ROUTED, "True", "Hosted", "the hosted API answers")
    if serving.ready:
        if hosted:
            return Fact(ROUTED, "True", "Both", f"on-prem and hosted, {routing.policy}")
        return Fact(ROUTED, "True", "OnPrem", "ready replicas answer")
    if hosted and (routing.while_unavailable == "Hosted" or routing.policy == "HostedFirst"):
        return Fact(ROUTED, "True", "Hosted", "the hosted API answers until a replica is ready")
    if routing.while_unavailable == "Hold":
        return Fact(ROUTED, "True", "Held", f"requests wait for a replica, {routing.hold_timeout} at most")
    return Fact(ROUTED, "False", "NoReplica", "requests get 503 until a replica is ready")
