"""What is counted of every request: tokens out of the answers, histograms, and one line of access log without content.

Envoy counts; the agent reads the counters (`ax_gateway.accounts`). Tags are bounded: models, clients and APIs that
exist, status codes, and which clusters were tried. Nothing of a prompt or an answer is kept.
"""

from __future__ import annotations

from ax_gateway.envoy.lua import USAGE
from ax_gateway.envoy.words import (
    CLIENT_HEADER,
    FIRST_BYTE_HEADER,
    MODEL_HEADER,
    RESIDENCY_HEADER,
    Resource,
    extension,
    typed,
)

FILTERS = "envoy.extensions.filters.http"
LOGGERS = "envoy.extensions.access_loggers"
SPACE = "ax"
"""The namespace of all metadata of ours."""
MODEL = "%METADATA(ROUTE:ax:model)%"
BY = "%UPSTREAM_METADATA(ax:by)%"
API = "%UPSTREAM_METADATA(ax:api)%"
CLIENT = "%DYNAMIC_METADATA(ax:client)%"
PROMPT = "%DYNAMIC_METADATA(ax:prompt)%"
COMPLETION = "%DYNAMIC_METADATA(ax:completion)%"
# Microseconds between two tokens: what followed the first byte, whose time routes leave in a header, over all tokens.
ITL = (
    "%CEL((request.duration.getSeconds() * 1000 + request.duration.getMilliseconds()"
    f" - int(response.headers['{FIRST_BYTE_HEADER}'])) * 1000 / int(metadata.filter_metadata['ax']['completion']))%"
)


def filters() -> list[Resource]:
    """Return the filters that find usage in answers and the client's name in its tag.

    Answers are searched by Lua: Envoy's own json_to_metadata and sse_to_metadata parse all of an answer, and few events
    tell a usage.
    """
    name = {
        "metadata_namespace": SPACE,
        "key": "client",
        "regex_value_rewrite": {"pattern": {"regex": "^[^:]*:"}, "substitution": ""},
    }
    return [
        extension(
            "envoy.filters.http.header_to_metadata",
            f"{FILTERS}.header_to_metadata.v3.Config",
            request_rules=[{"header": CLIENT_HEADER, "on_header_present": name}],
        ),
        extension(
            "ax.usage",
            f"{FILTERS}.lua.v3.Lua",
            default_source_code={"inline_string": USAGE},
            clear_route_cache=False,
        ),
    ]


def loggers(to_stdout: bool) -> list[Resource]:
    """Return the loggers of the clients' listener."""
    tags = {"model": MODEL, "by": BY, "api": API, "client": CLIENT}
    ways = tags | {
        "code": "%RESPONSE_CODE%",
        "way": "%UPSTREAM_CLUSTER%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    }
    served = {"model": MODEL, "by": BY}
    found = [
        _stats([_counter("requests", ways, "1")], []),
        _stats(
            [
                _counter("completion_tokens", tags, COMPLETION),
                _counter("served", served, "1"),
                _counter("served_ms", served, "%DURATION%"),
            ],
            [],
        )
        | {"filter": _metadata("completion", 0)},
        _stats([_counter("prompt_tokens", tags, PROMPT)], []) | {"filter": _metadata("prompt", 0)},
        _stats([], [_histogram("time_to_first_byte", served, "%RESPONSE_DURATION%", "Milliseconds")])
        | {"filter": {"and_filter": {"filters": [_status_below(400), _metadata("completion", 0)]}}},
        _stats([], [_histogram("time_between_tokens", served, ITL, "Microseconds")])
        | {"filter": _metadata("streamed", 2)},  # an answer in one piece has no time between its tokens
    ]
    return [*found, _lines()] if to_stdout else found


def gate_loggers(api: str) -> list[Resource]:
    """Return the logger of a gate: what was generated for streams that nobody saw the end of."""
    tags = {
        "api": api,
        "model": "%DYNAMIC_METADATA(ax:model)%",
        "client": CLIENT,
    }
    counters = [
        _counter("broken_events", tags, "%DYNAMIC_METADATA(ax:events)%"),
        _counter("broken_bytes", tags, "%DYNAMIC_METADATA(ax:bytes)%"),
    ]
    return [_stats(counters, []) | {"filter": _metadata("open", 1)}]


def _stats(counters: list[Resource], histograms: list[Resource]) -> Resource:
    return extension(
        "envoy.access_loggers.stats",
        f"{LOGGERS}.stats.v3.Config",
        stats_scope={"prefix": "ax"},
        counters=counters,
        histograms=histograms,
    )


def _stat(name: str, tags: dict[str, str]) -> Resource:
    return {"name": name, "tags": [{"name": tag, "value_format": value} for tag, value in tags.items()]}


def _counter(name: str, tags: dict[str, str], value: str) -> Resource:
    amount: Resource = {"value_fixed": int(value)} if value.isdecimal() else {"value_format": value}
    return {"stat": _stat(name, tags)} | amount


def _histogram(name: str, tags: dict[str, str], value: str, unit: str) -> Resource:
    return {"stat": _stat(name, tags), "unit": unit, "value_format": value}


def _metadata(key: str, least: int) -> Resource:
    value = {"double_match": {"range": {"start": least, "end": 1e12}}}
    matcher = {"filter": SPACE, "path": [{"key": key}], "value": value}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _status_below(status: int) -> Resource:
    comparison = {"op": "LE", "value": {"default_value": status - 1, "runtime_key": "ax.served"}}
    return {"status_code_filter": {"comparison": comparison}}


def _lines() -> Resource:
    fields = {
        "time": "%START_TIME%",
        "request_id": "%STREAM_ID%",
        "client": CLIENT,
        "model": MODEL,
        "asked_for": f"%REQ({MODEL_HEADER}):100%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH):100%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "why": "%RESPONSE_CODE_DETAILS%",
        "served_by": BY,
        "api": API,
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "residency": "%METADATA(ROUTE:ax:residency)%",
        "residency_asked": f"%REQ({RESIDENCY_HEADER}):20%",
        "prompt_tokens": PROMPT,
        "completion_tokens": COMPLETION,
        "request_bytes": "%BYTES_RECEIVED%",
        "response_bytes": "%BYTES_SENT%",
        "first_byte_ms": "%RESPONSE_DURATION%",
        "duration_ms": "%DURATION%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": typed(
            "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", log_format={"json_format": fields}
        ),
    }
