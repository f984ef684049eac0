"""From a request's path and model name to a route: one look-up in a hash map, however many models there are."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from ax_gateway.envoy.lua import Choice, choose
from ax_gateway.envoy.matching import (
    ANYTHING,
    both,
    either,
    first_of,
    fits,
    header,
    is_one_of,
    negated,
    nested,
    route,
)
from ax_gateway.envoy.replies import direct, retry_after
from ax_gateway.envoy.words import (
    CLIENT_HEADER,
    FINAL_HEADER,
    FIRST_BYTE_HEADER,
    HOLD_HEADER,
    MODEL_HEADER,
    NEEDS_FILTER,
    RESIDENCY_HEADER,
    ROUTES,
    SERVED_BY_HEADER,
    USAGE_HEADER,
    USER_HEADER,
    Resource,
    extension,
    first_cluster,
    gate,
    on_prem_cluster,
    over_cluster,
    stay_cluster,
    typed,
)
from ax_gateway.keys import LIMITED, RESIDENT
from ax_gateway.table import Route, RouteTable

COMPLETIONS = r"/v1/(chat/)?completions(\?.*)?"
MODELS = r"/v1/models/?(\?.*)?"
RETRY_ON = "connect-failure,refused-stream,reset,5xx,retriable-status-codes,retriable-headers"
REMOVED = ["authorization", "cookie", "proxy-authorization", "x-envoy-external-address"]
MAX_DIRECT_RESPONSE_BYTES = 4 * 1024 * 1024
CHOOSE = "choose"
LUA_CLUSTER = "envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a request may take to its first byte at a replica, and between two bytes."""

    first_byte: float = 600.0
    idle: float = 300.0


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the accounts say of clients now, by tag."""

    blocked: frozenset[str] = frozenset()
    """Too many tokens this minute: 429."""
    on_prem: frozenset[str] = frozenset()
    """The day's money is spent: no hosted answer."""


def route_configuration(
    table: RouteTable,
    entries: dict[str, Resource],
    gateways: int = 1,
    verdicts: Verdicts | None = None,
    accounts: bool = True,
) -> Resource:
    """Return the RouteConfiguration of all models; `entries` are their `on_match` by name.

    With `accounts` our own frontends are asked to tell the usage so far now and then; no other server knows the header.
    """
    verdicts = verdicts or Verdicts()
    by_model: Resource = {"on_no_match": nested(_nobody())}
    if table.routes:
        by_model["matcher_tree"] = {"input": header(MODEL_HEADER), "exact_match_map": {"map": entries}}
    cases = [
        (both(fits(":method", "POST"), fits(":path", COMPLETIONS)), nested(by_model)),
        (both(fits(":method", "GET"), fits(":path", MODELS)), route(**_model_list(table))),
        (fits(":path", COMPLETIONS), route(**direct(405, "Use POST for this path."))),
    ]
    if verdicts.blocked:
        cases.insert(0, _blocked(verdicts))
    matcher = first_of(cases, otherwise=route(**direct(404, "There is nothing at this path.", code="not_found")))
    said = {SERVED_BY_HEADER: "%UPSTREAM_METADATA(ax:by)%", FIRST_BYTE_HEADER: "%RESPONSE_DURATION%"}
    host = {
        "name": "all",
        "domains": ["*"],
        "include_request_attempt_count": True,
        "request_headers_to_add": [{"header": {"key": USAGE_HEADER, "value": "continuous"}}] if accounts else [],
        "request_headers_to_remove": REMOVED,
        "response_headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in said.items()
        ],
        "matcher": matcher,
    }
    choices = {name: choice(each, gateways) for each in table.routes if each.hosted for name in each.names}
    lua = typed(LUA_CLUSTER, default_cluster="nobody", source_code={"inline_string": choose(choices, verdicts.on_prem)})
    return typed(
        "envoy.config.route.v3.RouteConfiguration",
        name=ROUTES,
        virtual_hosts=[host],
        validate_clusters=False,
        max_direct_response_body_size_bytes=MAX_DIRECT_RESPONSE_BYTES,
        response_headers_to_remove=[HOLD_HEADER, FINAL_HEADER, "x-envoy-upstream-service-time"],
        cluster_specifier_plugins=[{"extension": {"name": CHOOSE, "typed_config": lua}}] if choices else [],
    )


def on_match(found: Route, patience: Patience, limited: tuple[str, ...] | None = None) -> Resource:
    """Return the map entry of one model.

    `limited` are the clients, by tag, among those with a list of models, that may use this one; None means that no
    client has a list. A request that must not leave takes a route that names nothing but the model's replicas.
    """
    # The choice of a replica by the user needs its header; there the cluster removes it.
    hidden = [] if found.model.sticky else [USER_HEADER]
    stay = route(
        route=_way(found, patience) | {"cluster": _staying(found)},
        metadata=_said(found, "OnPrem"),
        request_headers_to_remove=hidden,
    )
    cases = []
    if limited is not None:
        stranger = fits(CLIENT_HEADER, LIMITED)
        if limited:
            stranger = both(stranger, negated(is_one_of(CLIENT_HEADER, limited)))
        cases.append((stranger, route(**_unknown())))
    if found.hosted is None:
        return nested(first_of(cases, otherwise=stay)) if cases else stay
    cases.append((either(fits(RESIDENCY_HEADER, ANYTHING), fits(CLIENT_HEADER, RESIDENT)), stay))
    leave: Resource = {"route": _way(found, patience) | {"cluster_specifier_plugin": CHOOSE}}
    leave |= {"metadata": _said(found, "Any"), "request_headers_to_remove": hidden}
    if found.hosted.lacks or found.hosted.context_length:
        leave["typed_per_filter_config"] = {NEEDS_FILTER: _needs(found)}
    return nested(first_of(cases, otherwise=route(**leave)))


def _staying(found: Route) -> str:
    """Return the cluster of requests that must not leave: replicas, and where to wait for them."""
    waits_elsewhere = found.hosted_meanwhile and not found.endpoints
    return stay_cluster(found.key) if waits_elsewhere else on_prem_cluster(found.key)


def choice(found: Route, gateways: int) -> Choice:
    """Return the clusters among which the requests of a model with a hosted API are spread."""
    if found.hosted is None:
        raise ValueError(f"{found.key} has no hosted API")
    on_prem, first, over = _staying(found), first_cluster(found.key), over_cluster(found.key)
    way_out, most = gate(found.hosted.name), found.hosted.max_concurrency
    gate_limit = math.ceil(most / max(1, gateways)) if most else -1
    limit = -1 if found.limit is None else found.limit
    match found.model.policy:
        case "HostedOnly":
            return Choice(on_prem, way_out, way_out, -1, way_out, gate_limit)
        case "HostedFirst":
            return Choice(on_prem, over, over, -1, way_out, gate_limit)
        case _:
            if not found.endpoints and not found.hosted_meanwhile:
                return Choice(on_prem, on_prem, on_prem, -1, way_out, -1)
            return Choice(on_prem, first, over, limit, way_out, gate_limit)


def _way(found: Route, patience: Patience) -> Resource:
    # A request that is let go from waiting comes back as a retry, so the one retry of a failed replica comes on top.
    retries = 1 if found.endpoints or found.model.while_unavailable != "Hold" else 2
    first_byte = max(patience.first_byte, found.model.hold_timeout + 5)
    by_user = {"header": {"header_name": USER_HEADER}}
    return {
        "timeout": "0s",
        "hash_policy": [by_user] if found.model.sticky else [],
        "idle_timeout": f"{first_byte + patience.idle:g}s",
        "retry_policy": {
            "retry_on": RETRY_ON,
            "retriable_status_codes": [429],
            "retriable_headers": [{"name": HOLD_HEADER, "string_match": {"exact": "released"}}],
            "num_retries": retries,
            "per_try_timeout": f"{first_byte:g}s",
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
            "retry_host_predicate": [
                extension(
                    "envoy.retry_host_predicates.previous_hosts",
                    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                )
            ],
            "host_selection_retry_max_attempts": 20,
        },
    }


def _said(found: Route, residency: str) -> Resource:
    """Return what the accounts and the access log say of a route."""
    return {"filter_metadata": {"ax": {"model": found.key, "residency": residency}}}


def _needs(found: Route) -> Resource:
    data: Resource = {"lacks": dict.fromkeys(found.hosted.lacks, True) if found.hosted else {}}
    if found.hosted and found.hosted.context_length:
        data["context"] = found.hosted.context_length
    return typed("envoy.extensions.filters.http.lua.v3.LuaPerRoute", name="needs", filter_context=data)


def _blocked(verdicts: Verdicts) -> tuple[Resource, Resource]:
    answer: Resource = {"direct_response": {"status": 429}}
    answer["response_headers_to_add"] = [retry_after(60)]
    return is_one_of(CLIENT_HEADER, sorted(verdicts.blocked)), route(**answer)


def _unknown() -> Resource:
    message = (
        f"The model '%REQ({MODEL_HEADER}):200%' does not exist or you do not have access to it: "
        "GET /v1/models lists the names."
    )
    return direct(404, message, code="model_not_found", param="model")


def _nobody() -> Resource:
    """Return the matcher for a request whose model nobody serves, or that names none."""
    no_model = direct(400, "The body must be a JSON object with the string 'model' in it.", param="model")
    no_json = direct(404, "No model was named: send a JSON body with 'Content-Type: application/json'.", param="model")
    return first_of(
        [
            (fits(MODEL_HEADER, ANYTHING), route(**_unknown())),
            (fits("content-type", "application/json.*"), route(**no_model)),
        ],
        otherwise=route(**no_json),
    )


def _model_list(table: RouteTable) -> Resource:
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": each.model.namespace}
        for each in table.routes
        for name in each.names
    ]
    body = json.dumps({"object": "list", "data": sorted(listed, key=lambda each: str(each["id"]))})
    kind = {"key": "content-type", "value": "application/json"}
    return {
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [{"header": kind, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }
