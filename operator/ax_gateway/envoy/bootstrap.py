"""What Envoy starts from: its admin socket, the agent's socket, and which statistics are worth their memory."""

from __future__ import annotations

from ax_gateway.envoy.words import ADS, Resource, extension, typed

# A thousand models make 26 MB of statistics of their own; these are the ones that somebody reads.
STATISTICS = (
    r"^cluster\.(onprem_|hosted_).*\.upstream_(rq_active|rq_total|rq_pending_overflow|rq_retry|cx_connect_fail)$",
    r"^cluster\.(onprem_|hosted_).*\.upstream_rq_(2xx|4xx|5xx)$",
    r"^cluster\.(onprem_|hosted_).*\.(membership_healthy|membership_total)$",
    r"^cluster\.xds\.upstream_cx_active$",
    r"^http\.clients\.(downstream_rq_.*|downstream_cx_active|downstream_cx_total)$",
    r"^(listener_manager|cluster_manager|server|ax)\..*",
    r"^ax.*",
    r"^http\.clients\.rds\..*",
)
# Milliseconds and microseconds.
BUCKETS = {
    "ax.time_to_first_byte": (10, 25, 50, 100, 200, 350, 500, 750, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000),
    "ax.time_between_tokens": (1000, 2500, 5000, 7500, 10_000, 15_000, 20_000, 30_000, 50_000, 75_000, 100_000,
                               200_000, 500_000, 1_000_000),
}  # fmt: skip


def bootstrap(agent_socket: str, admin_socket: str, node: str, heap_bytes: int, connections: int) -> Resource:
    """Return Envoy's bootstrap.

    Both sockets are paths of Unix sockets, `node` names this Envoy in its logs. Of `heap_bytes` it uses 95 % before
    it refuses requests, and it takes `connections` of clients at most.
    """
    keepalive = {"interval": "5s", "timeout": "5s"}
    back_off = {"base_interval": "0.1s", "max_interval": "1s"}
    service = {"envoy_grpc": {"cluster_name": "xds", "retry_policy": {"retry_back_off": back_off}}}
    http = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    agent = {"endpoint": {"address": {"pipe": {"path": agent_socket}}}}
    return {
        "node": {"id": node, "cluster": "ax-gateway"},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "bootstrap_extensions": [
            extension(
                "envoy.bootstrap.internal_listener",
                "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            )
        ],
        "overload_manager": _overload(heap_bytes, connections),
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [service],
            },
            # Without a time-out Envoy is not ready before the agent has told it everything.
            "cds_config": ADS | {"initial_fetch_timeout": "0s"},
            "lds_config": ADS | {"initial_fetch_timeout": "0s"},
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [agent]}]},
                    "typed_extension_protocol_options": {
                        http: typed(
                            http,
                            explicit_http_config={"http2_protocol_options": {"connection_keepalive": keepalive}},
                        )
                    },
                }
            ]
        },
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"prefix": prefix}, "buckets": list(buckets)} for prefix, buckets in BUCKETS.items()
            ],
            "stats_matcher": {"inclusion_list": {"patterns": [{"safe_regex": {"regex": s}} for s in STATISTICS]}},
        },
    }


def _overload(heap_bytes: int, connections: int) -> Resource:
    heap, clients = "envoy.resource_monitors.fixed_heap", "envoy.resource_monitors.global_downstream_max_connections"
    monitors = "envoy.extensions.resource_monitors"

    def at(share: float) -> list[Resource]:
        return [{"name": heap, "threshold": {"value": share}}]

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            extension(heap, f"{monitors}.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=heap_bytes),
            extension(
                clients,
                f"{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=connections,
            ),
        ],
        "actions": [
            {"name": "envoy.overload_actions.shrink_heap", "triggers": at(0.85)},
            {"name": "envoy.overload_actions.disable_http_keepalive", "triggers": at(0.9)},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": at(0.95)},
            {"name": "envoy.overload_actions.stop_accepting_connections", "triggers": at(0.98)},
        ],
    }
