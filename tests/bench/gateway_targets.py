"""What the gateway's costs were aimed at, and whether that was reached."""

from __future__ import annotations

import statistics
from typing import Any


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each aim with what was measured; a ratio is the median of the rounds' ratios."""
    rounds, thousand, saturation = found["proxies"]["rounds"], found["thousand_models"], found["saturation"]

    def cost(proxy: str, measure: str) -> list[float]:
        key = "us_per_request" if measure == "unary" else "us_per_token"
        return [one[key] for one in rounds[proxy][measure]]

    def ratio(one: str, other: str, *measures: str) -> float:
        pairs = (zip(cost(one, measure), cost(other, measure), strict=True) for measure in measures)
        return float(statistics.mean(statistics.median(a / b for a, b in each) for each in pairs))

    def first(proxy: str) -> float:
        return float(statistics.median(one["first_p50_us"] for one in rounds[proxy]["streams_100"])) / 1000

    bare, counting, everything = "gateway, bare", "gateway, counting", "gateway, everything"
    streams = ("streams_100", "streams_500")
    rows = [
        ("CPU per streamed token, bare, against plain Envoy", ratio(bare, "envoy", *streams), "<=", 1.15),
        ("CPU per streamed token with token accounting", ratio(counting, "envoy", *streams), "<=", 1.3),
        ("CPU per streamed token with keys, accounting and log", ratio(everything, "envoy", *streams), "<=", 1.3),
        ("unary requests per CPU second, bare, against plain Envoy", ratio("envoy", bare, "unary"), ">=", 0.5),
        ("unary requests per CPU second with token accounting", ratio("envoy", counting, "unary"), ">=", 0.45),
        ("added time to first token with everything, p50, ms", first(everything) - first("direct"), "<=", 1.0),
        ("Envoy's memory at 1,000 models, MB", thousand["envoy_mb"], "<=", 150),
        ("an endpoint change is live at 1,000 models, p99, ms", thousand["endpoint_change_ms"]["p99"], "<=", 300),
        ("errors at 70 % of saturation", saturation["at_70_percent"]["errors"], "<=", 0),
        ("first byte of 100 held requests, p99, ms", found["held"]["first_byte_after_ready_ms"]["p99"], "<=", 200),
    ]
    if "litellm" in rounds:
        rows.append(
            (
                "CPU per streamed token, 20 streams, against LiteLLM",
                ratio(everything, "litellm", "streams_20"),
                "<=",
                0.04,
            )
        )
    return [
        {"what": what, "measured": value, "relation": relation, "target": aim,
         "reached": value <= aim if relation == "<=" else value >= aim}
        for what, value, relation, aim in rows
    ]  # fmt: skip
