"""The names that listener, routes, clusters, hold and statistics must spell alike; and typed configuration."""

from __future__ import annotations

from typing import Any, Final

Resource = dict[str, Any]

TYPE_PREFIX: Final = "type.googleapis.com/"
ADS: Final = {"ads": {}, "resource_api_version": "V3"}
ROUTES: Final = "models"
LISTENER: Final = "clients"
CERTIFICATE: Final = "clients-tls"

# Headers that travel inside the gateway; a client's own are removed before anything reads them.
MODEL_HEADER: Final = "x-ax-model"
HOLD_HEADER: Final = "x-ax-hold"
ATTEMPT_HEADER: Final = "x-envoy-attempt-count"
FINAL_HEADER: Final = "x-envoy-ratelimited"
"""An answer with this header is never retried, whatever its status."""
RESIDENCY_HEADER: Final = "x-ax-data-residency"

USER_HEADER: Final = "x-ax-user"
CLIENT_HEADER: Final = "x-ax-client"
NEEDS_HEADER: Final = "x-ax-needs"
SERVED_BY_HEADER: Final = "x-ax-served-by"
FIRST_BYTE_HEADER: Final = "x-ax-first-byte-ms"
USAGE_HEADER: Final = "x-ax-usage"

MAX_BODY_BYTES: Final = 10 * 1024 * 1024
ON_PREM: Final = "onprem_"
NEEDS_FILTER: Final = "ax.needs"
KEYS_FILTER: Final = "ax.keys"
RATES_FILTER: Final = "ax.rates"
TRUSTED: Final = "hosted-ca"


def typed(message: str, /, **fields: Any) -> Resource:
    """Return configuration of the named message type, as an Any."""
    return {"@type": TYPE_PREFIX + message} | fields


def extension(name: str, message: str, /, **fields: Any) -> Resource:
    """Return a named extension with its typed configuration."""
    return {"name": name, "typed_config": typed(message, **fields)}


def on_prem_cluster(key: str) -> str:
    """Return the name of the cluster of a model's replicas."""
    return ON_PREM + key


def stay_cluster(key: str) -> str:
    """Return the cluster of a model's replicas and the waiting place, for what must not leave while others do."""
    return f"stay_{key}"


def first_cluster(key: str) -> str:
    """Return the cluster that tries a model's replicas first, then its hosted API."""
    return f"first_{key}"


def over_cluster(key: str) -> str:
    """Return the cluster that tries a model's hosted API first, then its replicas."""
    return f"over_{key}"


def gate(api: str) -> str:
    """Return the name of the cluster, and of the internal listener, through which requests leave for an API."""
    return f"gate_{api}"


def hosted_cluster(api: str) -> str:
    """Return the cluster of an API's addresses."""
    return f"hosted_{api}"


def hosted_key(api: str) -> str:
    """Return the name of the secret with an API's key."""
    return f"key_{api}"


def stat_name(cluster: str) -> str:
    """Return a cluster's name as statistics spell it: dots part a statistic's name, so they become underscores.

    Kubernetes names have no underscores, so no two models share one.
    """
    return cluster.replace(".", "_")


def model_of(stat: str) -> str | None:
    """Return the model's key behind the statistics name of its on-prem cluster, dots still underscores."""
    return stat.removeprefix(ON_PREM) if stat.startswith(ON_PREM) else None
