"""The way out: one internal listener per hosted API, where a request is stripped, rewritten and given the key.

Filters of an upstream cluster would be skipped on the way through a composite cluster; a listener is not.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from ax_gateway.envoy.accounts import gate_loggers
from ax_gateway.envoy.clusters import HTTP_OPTIONS, UNLIMITED, endpoint
from ax_gateway.envoy.listener import BUFFER_BYTES, FILTERS
from ax_gateway.envoy.lua import REWRITE
from ax_gateway.envoy.replies import local_replies
from ax_gateway.envoy.words import (
    ADS,
    TRUSTED,
    Resource,
    extension,
    gate,
    hosted_cluster,
    hosted_key,
    stat_name,
    typed,
)
from ax_gateway.hosted import HostedAPI

COOKIES = ["set-cookie", "alt-svc", "strict-transport-security", "server"]
SLACK = 64
TLS = "envoy.extensions.transport_sockets.tls.v3"


@dataclass(frozen=True, slots=True)
class Outside:
    """How requests leave: seconds to the first byte and between bytes, and how many gateways share the limits."""

    first_byte_seconds: float = 120.0
    idle_seconds: float = 300.0
    gateways: int = 1


def gate_cluster(api: HostedAPI, gateways: int) -> Resource:
    """Return the cluster that leads to an API's gate; a series of failures closes it for a while."""
    name = gate(api.name)
    # The bound itself is kept by the choice of a cluster; what two workers let in at once must not fail here.
    most = math.ceil(api.max_concurrency / max(1, gateways)) + SLACK if api.max_concurrency else UNLIMITED
    place = {
        "endpoint": {"address": {"envoy_internal_address": {"server_listener_name": name}}},
        "metadata": {"filter_metadata": {"ax": {"by": "hosted", "api": api.name}}},
    }
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        alt_stat_name=stat_name(name),
        type="STATIC",
        connect_timeout="1s",
        load_assignment={"cluster_name": name, "endpoints": [{"lb_endpoints": [place]}]},
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
        circuit_breakers={
            "thresholds": [
                {
                    "max_connections": UNLIMITED,
                    "max_pending_requests": UNLIMITED,
                    "max_requests": most,
                    "max_retries": UNLIMITED,
                }
            ]
        },
        outlier_detection={
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "interval": "2s",
            "base_ejection_time": "10s",
            "max_ejection_time": "300s",
            "max_ejection_percent": 100,
            "enforcing_success_rate": 0,
            "enforcing_failure_percentage": 0,
        },
    )


def gate_listener(api: HostedAPI, outside: Outside, with_key: bool) -> Resource:
    """Return an API's gate."""
    name = gate(api.name)
    data = {"model": json.dumps(api.model), "drop": dict.fromkeys(api.drop_fields, True)}
    filters = [
        extension(
            "envoy.filters.http.lua",
            f"{FILTERS}.lua.v3.Lua",
            default_source_code={"inline_string": REWRITE},
            filter_context=data,
            clear_route_cache=False,
        )
    ]
    if with_key:
        filters.append(_credential(api))
    filters.append(extension("envoy.filters.http.router", f"{FILTERS}.router.v3.Router", suppress_envoy_headers=True))
    manager = {
        "stat_prefix": stat_name(name),
        "generate_request_id": False,
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": f"{outside.idle_seconds:g}s",
        "local_reply_config": local_replies(),
        "access_log": gate_loggers(api.name),
        "route_config": _routes(api, outside),
        "http_filters": filters,
    }
    hcm = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        **manager,
    )
    return typed(
        "envoy.config.listener.v3.Listener",
        name=name,
        internal_listener={},
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        filter_chains=[{"filters": [hcm]}],
    )


def _routes(api: HostedAPI, outside: Outside) -> Resource:
    default = 443 if api.tls else 80
    route = {
        "cluster": hosted_cluster(api.name),
        "prefix_rewrite": f"{api.path}/",
        "host_rewrite_literal": api.host if api.port == default else f"{api.host}:{api.port}",
        "timeout": "0s",
        "retry_policy": {
            "retry_on": "connect-failure",
            "num_retries": 1,
            "per_try_timeout": f"{outside.first_byte_seconds:g}s",
        },
    }
    return {
        "name": gate(api.name),
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/v1/"}, "route": route}]}],
        "response_headers_to_remove": COOKIES,
    }


def _credential(api: HostedAPI) -> Resource:
    generic = extension(
        "envoy.http.injected_credentials.generic",
        "envoy.extensions.http.injected_credentials.generic.v3.Generic",
        credential={"name": hosted_key(api.name), "sds_config": ADS},
        header="Authorization",
        header_value_prefix="Bearer ",
    )
    return extension(
        "envoy.filters.http.credential_injector",
        f"{FILTERS}.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=generic,
    )


def key_secret(api: str, key: str) -> Resource:
    """Return the secret with an API's key; it travels over the agent's socket and lies in no file."""
    return typed(f"{TLS}.Secret", name=hosted_key(api), generic_secret={"secret": {"inline_string": key}})


def trusted_secret(bundle: str) -> Resource:
    """Return the secret with the certificates, as PEM text, that hosted APIs are verified by."""
    return typed(f"{TLS}.Secret", name=TRUSTED, validation_context={"trusted_ca": {"inline_string": bundle}})


def api_cluster(api: HostedAPI, proxy: tuple[str, int] | None) -> Resource:
    """Return the cluster of an API's addresses, which the agent resolves and judges.

    Through a proxy (its address and port) every connection begins with CONNECT and the API's own name.
    """
    name = hosted_cluster(api.name)
    socket = (
        _tls(api)
        if api.tls
        else extension(
            "envoy.transport_sockets.raw_buffer", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
        )
    )
    if proxy:
        host, port = proxy
        socket = extension(
            "envoy.transport_sockets.http_11_proxy",
            "envoy.extensions.transport_sockets.http_11_proxy.v3.Http11ProxyUpstreamTransport",
            transport_socket=socket,
            default_proxy_address={"socket_address": {"address": host, "port_value": port}},
        )
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        alt_stat_name=stat_name(name),
        type="EDS",
        eds_cluster_config={"eds_config": ADS},
        connect_timeout="5s",
        transport_socket=socket,
        circuit_breakers={
            "thresholds": [
                {
                    "max_connections": UNLIMITED,
                    "max_pending_requests": UNLIMITED,
                    "max_requests": UNLIMITED,
                    "max_retries": UNLIMITED,
                }
            ]
        },
        outlier_detection={
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_success_rate": 0,
            "max_ejection_percent": 50,
        },
        typed_extension_protocol_options={
            HTTP_OPTIONS: typed(
                HTTP_OPTIONS,
                explicit_http_config={"http_protocol_options": {}},
                common_http_protocol_options={"idle_timeout": "30s"},
            )
        },
    )


def api_assignment(api: HostedAPI, addresses: tuple[str, ...]) -> Resource:
    """Return an API's addresses as endpoints."""
    places = [endpoint(address, api.port, "hosted", hostname=api.host) for address in addresses]
    return typed(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        cluster_name=hosted_cluster(api.name),
        endpoints=[{"lb_endpoints": places}],
    )


def _tls(api: HostedAPI) -> Resource:
    kind = "IP_ADDRESS" if api.host.replace(".", "").isdigit() or ":" in api.host else "DNS"
    names = [{"san_type": kind, "matcher": {"exact": api.host}}]
    return extension(
        "envoy.transport_sockets.tls",
        f"{TLS}.UpstreamTlsContext",
        sni=api.host,
        common_tls_context={
            "alpn_protocols": ["http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": names},
                "validation_context_sds_secret_config": {"name": TRUSTED, "sds_config": ADS},
            },
        },
    )
