"""Clusters and their endpoints: the replicas of a model, and the place where requests wait for one."""

from __future__ import annotations

from ax_gateway.envoy.words import (
    ADS,
    HOLD_HEADER,
    USER_HEADER,
    Resource,
    extension,
    first_cluster,
    gate,
    on_prem_cluster,
    over_cluster,
    stat_name,
    stay_cluster,
    typed,
)
from ax_gateway.table import Route

UNLIMITED = 1_000_000
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def on_prem(key: str, held: int, sticky: bool) -> Resource:
    """Return the cluster of a model's replicas.

    It depends on nothing else of the model: a cluster that changes forgets its requests in flight, by which overflow
    is decided. `held` requests may come back at once as retries when a replica gets ready. Where one `user` goes to
    one replica, that replica may have a quarter more in flight than the mean.
    """
    return _replicas(on_prem_cluster(key), held, sticky)


def stay(key: str, held: int, sticky: bool) -> Resource:
    """Return the cluster for requests that must stay, of a model whose others are hosted while no replica is ready."""
    return _replicas(stay_cluster(key), held, sticky)


def _replicas(name: str, held: int, sticky: bool) -> Resource:
    # Nobody is tried in panic: without a healthy replica requests wait.
    common: Resource = {"healthy_panic_threshold": {"value": 0}}
    balancing: Resource = {"lb_policy": "LEAST_REQUEST"}
    if sticky:
        common["consistent_hashing_lb_config"] = {"hash_balance_factor": 125}
        balancing = {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 256}}
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        alt_stat_name=stat_name(name),
        type="EDS",
        eds_cluster_config={"eds_config": ADS},
        connect_timeout="1s",
        common_lb_config=common,
        **balancing,
        circuit_breakers={"thresholds": [limits(held)]},
        typed_extension_protocol_options={
            HTTP_OPTIONS: typed(
                HTTP_OPTIONS,
                **_http1(sticky),
                # Below the 75 s after which servers on aiohttp hang up, so that no request meets a closing connection.
                common_http_protocol_options={"idle_timeout": "30s"},
                outlier_detection={"error_matcher": _failed()},
            )
        },
        outlier_detection={
            "consecutive_5xx": 3,
            "consecutive_gateway_failure": 3,
            "interval": "5s",
            "base_ejection_time": "5s",
            "max_ejection_time": "60s",
            # Among replicas and the waiting place, so a single replica is never ejected.
            "max_ejection_percent": 49,
            "enforcing_success_rate": 0,
            "enforcing_failure_percentage": 0,
        },
    )


def both(key: str, api: str, held: int, sticky: bool) -> list[Resource]:
    """Return the two clusters that combine a model's replicas and its API, one for each order.

    An attempt goes to its place in the list, or where nobody is there to the next. Their own limits count too.
    """
    orders = {
        first_cluster(key): (on_prem_cluster(key), gate(api)),
        over_cluster(key): (gate(api), on_prem_cluster(key)),
    }
    return [
        typed(
            "envoy.config.cluster.v3.Cluster",
            name=name,
            alt_stat_name=stat_name(name),
            connect_timeout="1s",
            lb_policy="CLUSTER_PROVIDED",
            typed_extension_protocol_options={HTTP_OPTIONS: typed(HTTP_OPTIONS, **_http1(sticky))},
            circuit_breakers={"thresholds": [limits(held)]},
            cluster_type={
                "name": "envoy.clusters.composite",
                "typed_config": typed(
                    "envoy.extensions.clusters.composite.v3.ClusterConfig", clusters=[{"name": each} for each in order]
                ),
            },
        )
        for name, order in orders.items()
    ]


def _http1(sticky: bool) -> Resource:
    """Return how replicas are spoken to; the header that a sticky choice needed goes no further."""
    options: Resource = {"explicit_http_config": {"http_protocol_options": {}}}
    if sticky:
        mutations = {"request_mutations": [{"remove": USER_HEADER}]}
        filters = "envoy.extensions.filters.http"
        options["http_filters"] = [
            extension(
                "envoy.filters.http.header_mutation",
                f"{filters}.header_mutation.v3.HeaderMutation",
                mutations=mutations,
            ),
            extension("envoy.filters.http.upstream_codec", f"{filters}.upstream_codec.v3.UpstreamCodec"),
        ]
    return options


def limits(held: int) -> Resource:
    """Return thresholds that stop nothing but a storm of retries."""
    return {
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_requests": UNLIMITED,
        "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": max(10, held)},
    }


def assignment(route: Route, hold_port: int) -> Resource:
    """Return a model's endpoints: replicas first, the waiting place only while there is none of them.

    Where a hosted API answers instead there is no waiting place: its emptiness is what makes requests go on.
    """
    return _assigned(on_prem_cluster(route.key), route, None if route.hosted_meanwhile else hold_port)


def stay_assignment(route: Route, hold_port: int) -> Resource:
    """Return the endpoints of `stay_cluster`: there is always a waiting place."""
    return _assigned(stay_cluster(route.key), route, hold_port)


def _assigned(name: str, route: Route, hold_port: int | None) -> Resource:
    localities: list[Resource] = [
        {
            "priority": 0,
            "locality": {"zone": "replicas"},
            "lb_endpoints": [endpoint(each.address, each.port, "onprem") for each in route.endpoints],
        }
    ]
    if hold_port is not None:
        hold = [endpoint("127.0.0.1", hold_port, "hold")]
        localities.append({"priority": 1, "locality": {"zone": "hold"}, "lb_endpoints": hold})
    return typed(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        cluster_name=name,
        endpoints=localities,
        # One healthy replica of many keeps all requests.
        policy={"overprovisioning_factor": 100_000},
    )


def endpoint(address: str, port: int, by: str, hostname: str = "") -> Resource:
    """Return an endpoint and who answers there, for `x-ax-served-by` and the accounts."""
    place: Resource = {"address": {"socket_address": {"address": address, "port_value": port}}}
    return {
        "endpoint": place | ({"hostname": hostname} if hostname else {}),
        "metadata": {"filter_metadata": {"ax": {"by": by}}},
    }


def _failed() -> Resource:
    """Match a replica's 5xx, and not the 5xx by which the waiting place lets a request go."""
    return {
        "http_response_headers_match": {
            "headers": [
                {"name": ":status", "string_match": {"safe_regex": {"regex": "5.."}}},
                {"name": HOLD_HEADER, "present_match": True, "invert_match": True},
            ]
        }
    }
