"""Who a client is and how often it may ask: filters whose configuration changes without a new listener."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ax_gateway.envoy.listener import FILTERS
from ax_gateway.envoy.words import CLIENT_HEADER, KEYS_FILTER, RATES_FILTER, Resource, typed
from ax_gateway.keys import Client

EXTENSION = "envoy.config.core.v3.TypedExtensionConfig"
PLENTY = {"max_tokens": 4_000_000_000, "tokens_per_fill": 4_000_000_000, "fill_interval": "1s"}
ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def keys(clients: Sequence[Client]) -> Resource:
    """Return the filter that turns a key into a client; the key itself goes no further."""
    credentials = [{"key": key, "client": client.tag} for client in clients for key in client.keys]
    config = typed(
        f"{FILTERS}.api_key_auth.v3.ApiKeyAuth",
        credentials=credentials,
        key_sources=[{"header": "Authorization"}],
        forwarding={"header": CLIENT_HEADER, "hide_credentials": True},
    )
    return typed(EXTENSION, name=KEYS_FILTER, typed_config=config)


def rates(clients: Sequence[Client], gateways: int) -> Resource:
    """Return the filter that counts requests per client and minute, this gateway's share of them."""
    descriptors = []
    for client in clients:
        if client.policy.requests_per_minute:
            share = math.ceil(client.policy.requests_per_minute / max(1, gateways))
            bucket = {"max_tokens": share, "tokens_per_fill": share, "fill_interval": "60s"}
            descriptors.append({"entries": [{"key": "client", "value": client.tag}], "token_bucket": bucket})
    by_client = {"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}
    config = typed(
        f"{FILTERS}.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="clients",
        token_bucket=PLENTY,
        filter_enabled=ALWAYS | {"runtime_key": "ax.rates.enabled"},
        filter_enforced=ALWAYS | {"runtime_key": "ax.rates.enforced"},
        descriptors=descriptors,
        rate_limits=[{"actions": [by_client]}],
        enable_retry_after_header=True,
        always_consume_default_token_bucket=False,
    )
    return typed(EXTENSION, name=RATES_FILTER, typed_config=config)
