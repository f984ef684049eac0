"""From a request's path and model name to a route: one look-up in a hash map, however many models there are."""

from __future__ import annotations

import json
from typing import Any

from ax_gateway.envoy.replies import direct
from ax_gateway.envoy.words import (
    FINAL_HEADER,
    HOLD_HEADER,
    MODEL_HEADER,
    ROUTES,
    Resource,
    extension,
    on_prem_cluster,
    typed,
)
from ax_gateway.table import Route, RouteTable

COMPLETIONS = r"^/v1/(chat/)?completions(\?.*)?$"
MODELS = r"^/v1/models/?(\?.*)?$"
RETRY_ON = "connect-failure,refused-stream,reset,5xx,retriable-status-codes,retriable-headers"
MAX_DIRECT_RESPONSE_BYTES = 4 * 1024 * 1024
DAY = "86400s"


def route_configuration(table: RouteTable, entries: dict[str, Resource] | None = None) -> Resource:
    """Return the RouteConfiguration of all models; `entries` (name → `on_match`) may be filled in by the caller."""
    if entries is None:
        entries = {name: on_match(route) for route in table.routes for name in route.names}
    by_model: Resource = {"on_no_match": {"matcher": _nobody()}}
    if table.routes:
        by_model["matcher_tree"] = {"input": _header(MODEL_HEADER), "exact_match_map": {"map": entries}}
    host = {
        "name": "all",
        "domains": ["*"],
        "include_request_attempt_count": True,
        "matcher": _first(
            [
                (_all(_is(":method", "^POST$"), _is(":path", COMPLETIONS)), {"matcher": by_model}),
                (_all(_is(":method", "^GET$"), _is(":path", MODELS)), _action(_model_list(table))),
                (_is(":path", COMPLETIONS), _action(direct(405, "Use POST for this path."))),
            ],
            otherwise=_action(direct(404, "There is nothing at this path.", code="not_found")),
        ),
    }
    return typed(
        "envoy.config.route.v3.RouteConfiguration",
        name=ROUTES,
        virtual_hosts=[host],
        validate_clusters=False,
        max_direct_response_body_size_bytes=MAX_DIRECT_RESPONSE_BYTES,
        response_headers_to_remove=[HOLD_HEADER, FINAL_HEADER, "x-envoy-upstream-service-time"],
    )


def on_match(route: Route) -> Resource:
    """Return the map entry of one model."""
    return _action({"route": _to_replicas(route)})


def _to_replicas(route: Route) -> Resource:
    # A request that is let go from waiting comes back as a retry, so the one retry of a failed replica comes on top.
    retries = 1 if route.endpoints else 2
    return {
        "cluster": on_prem_cluster(route.key),
        "timeout": "0s",
        "idle_timeout": DAY,
        "retry_policy": {
            "retry_on": RETRY_ON,
            "retriable_status_codes": [429],
            "retriable_headers": [{"name": HOLD_HEADER, "string_match": {"exact": "released"}}],
            "num_retries": retries,
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


def _nobody() -> Resource:
    """Return the matcher for a request whose model nobody serves, or that names none."""
    unknown = (
        f"The model '%REQ({MODEL_HEADER}):200%' does not exist or you do not have access to it: "
        "GET /v1/models lists the names."
    )
    return _first(
        [
            (
                _is(MODEL_HEADER, "(?s).*"),
                _action(direct(404, unknown, code="model_not_found", param="model")),
            ),
            (
                _is("content-type", "^application/json.*"),
                _action(direct(400, "The body must be a JSON object with the string 'model' in it.", param="model")),
            ),
        ],
        otherwise=_action(
            direct(404, "No model was named: send a JSON body with 'Content-Type: application/json'.", param="model")
        ),
    )


def _model_list(table: RouteTable) -> Resource:
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": route.model.namespace}
        for route in table.routes
        for name in route.names
    ]
    body = json.dumps({"object": "list", "data": sorted(listed, key=lambda each: str(each["id"]))})
    header = {"key": "content-type", "value": "application/json"}
    return {
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


# --- the matcher's grammar ---


def _header(name: str) -> Resource:
    return extension("header", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name)


def _is(header: str, regex: str) -> Resource:
    value = {"safe_regex": {"google_re2": {}, "regex": regex}}
    return {"single_predicate": {"input": _header(header), "value_match": value}}


def _all(*predicates: Resource) -> Resource:
    return {"and_matcher": {"predicate": list(predicates)}}


def _first(cases: list[tuple[Resource, Resource]], otherwise: Resource) -> Resource:
    matchers = [{"predicate": predicate, "on_match": then} for predicate, then in cases]
    return {"matcher_list": {"matchers": matchers}, "on_no_match": otherwise}


def _action(route: dict[str, Any]) -> Resource:
    return {"action": extension("route", "envoy.config.route.v3.Route", match={"prefix": "/"}, **route)}
