"""The listener for clients: limits, the model's name out of the body, errors in OpenAI's shape, TLS."""

from __future__ import annotations

from dataclasses import dataclass

from ax_gateway.envoy import accounts
from ax_gateway.envoy.lua import NEEDS
from ax_gateway.envoy.replies import local_replies
from ax_gateway.envoy.words import (
    ADS,
    CERTIFICATE,
    CLIENT_HEADER,
    FINAL_HEADER,
    HOLD_HEADER,
    KEYS_FILTER,
    LISTENER,
    MAX_BODY_BYTES,
    MODEL_HEADER,
    NEEDS_FILTER,
    NEEDS_HEADER,
    RATES_FILTER,
    ROUTES,
    SERVED_BY_HEADER,
    TYPE_PREFIX,
    USAGE_HEADER,
    USER_HEADER,
    Resource,
    extension,
    typed,
)

FILTERS = "envoy.extensions.filters.http"
# The body is kept for a retry, so a connection may buffer a whole one.
BUFFER_BYTES = MAX_BODY_BYTES + 512 * 1024


INTERNAL = (
    MODEL_HEADER,
    USER_HEADER,
    USAGE_HEADER,
    CLIENT_HEADER,
    NEEDS_HEADER,
    HOLD_HEADER,
    FINAL_HEADER,
    SERVED_BY_HEADER,
)


@dataclass(frozen=True, slots=True)
class Front:
    """What clients meet: TLS or not, keys or not, and whether their requests are counted and logged."""

    tls: bool = False
    keys: bool = False
    accounts: bool = True
    access_log: bool = False


def listener(address: str, port: int, front: Front) -> Resource:
    """Return the listener for clients on `address`:`port`."""
    chain: Resource = {
        "filters": [
            extension(
                "envoy.filters.network.http_connection_manager",
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                **_connection_manager(front),
            )
        ]
    }
    if front.tls:
        chain["transport_socket"] = extension(
            "envoy.transport_sockets.tls",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [{"name": CERTIFICATE, "sds_config": ADS}],
            },
        )
    return typed(
        "envoy.config.listener.v3.Listener",
        name=LISTENER,
        address={"socket_address": {"address": address, "port_value": port}},
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        filter_chains=[chain],
    )


def certificate(chain: str, key: str) -> Resource:
    """Return the secret with the server's certificate chain and private key, both as PEM text."""
    return typed(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        name=CERTIFICATE,
        tls_certificate={"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}},
    )


def _connection_manager(front: Front) -> Resource:
    return {
        "stat_prefix": "clients",
        "rds": {"route_config_name": ROUTES, "config_source": ADS},
        "use_remote_address": True,
        "skip_xff_append": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "server_name": "ax-gateway",
        "max_request_headers_kb": 60,
        "request_headers_timeout": "10s",
        "request_timeout": "120s",
        "stream_idle_timeout": "300s",
        "drain_timeout": "10s",
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 1000,
            "initial_stream_window_size": 256 * 1024,
            "initial_connection_window_size": 1024 * 1024,
        },
        "early_header_mutation_extensions": [
            extension(
                "envoy.http.early_header_mutation.header_mutation",
                "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=[
                    *({"remove": name} for name in INTERNAL),
                    _remove_prefix("x-envoy-"),
                    _remove_prefix("x-forwarded-"),
                ],
            )
        ],
        "local_reply_config": local_replies(),
        "access_log": accounts.loggers(front.access_log) if front.accounts else [],
        "http_filters": [
            *(_access() if front.keys else []),
            extension(
                "envoy.filters.http.body_size_limit",
                f"{FILTERS}.body_size_limit.v3.BodySizeLimit",
                max_request_bytes=MAX_BODY_BYTES,
            ),
            extension(
                "envoy.filters.http.transform",
                f"{FILTERS}.transform.v3.TransformConfig",
                request_transformation={
                    "headers_mutations": [_from_body(MODEL_HEADER, "model"), _from_body(USER_HEADER, "user")]
                },
                clear_route_cache=True,
            ),
            # Without a script but where a route names one. (A disabled filter could not be woken: the route that
            # counts is found after the filters have been chosen.)
            extension(NEEDS_FILTER, f"{FILTERS}.lua.v3.Lua", source_codes={"needs": {"inline_string": NEEDS}}),
            *(accounts.filters() if front.accounts else []),
            # Without Envoy's own headers: one of them would tell replicas to end an answer when its first byte is due.
            extension("envoy.filters.http.router", f"{FILTERS}.router.v3.Router", suppress_envoy_headers=True),
        ],
    }


def _access() -> list[Resource]:
    kinds = {KEYS_FILTER: "api_key_auth.v3.ApiKeyAuth", RATES_FILTER: "local_ratelimit.v3.LocalRateLimit"}
    return [
        {"name": name, "config_discovery": {"config_source": ADS, "type_urls": [f"{TYPE_PREFIX}{FILTERS}.{kind}"]}}
        for name, kind in kinds.items()
    ]


def _remove_prefix(prefix: str) -> Resource:
    return {"remove_on_match": {"key_matcher": {"prefix": prefix}}}


def _from_body(header: str, field: str) -> Resource:
    value = {"key": header, "value": f"%REQUEST_BODY({field})%"}
    return {"append": {"header": value, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
