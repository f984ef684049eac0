"""Errors in OpenAI's shape: those that a route answers itself, and those that Envoy makes."""

from __future__ import annotations

from typing import Any

from ax_gateway.envoy.words import MAX_BODY_BYTES, Resource

INVALID = "invalid_request_error"
SERVER = "server_error"


def error(message: str, kind: str = INVALID, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the body of an OpenAI error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def direct(
    status: int, message: str, *, code: str | None = None, param: str | None = None, kind: str = INVALID
) -> Resource:
    """Return a route action that answers with an error; the message may hold Envoy's %COMMANDS%."""
    body = error(message, kind, code, param)
    return {"direct_response": {"status": status, "body_format": {"json_format": body}}}


def retry_after(seconds: int) -> Resource:
    """Return a header that tells clients when to try again."""
    header = {"key": "retry-after", "value": str(seconds)}
    return {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def local_replies() -> Resource:
    """Return the words for what Envoy itself refuses or cannot deliver.

    They replace a route's own answer of the same status: no route words one of these itself.
    """
    limit = f"{MAX_BODY_BYTES // 1024 // 1024} MB"
    return {
        "mappers": [
            _mapper(401, "The API key is missing or unknown: send it as 'Authorization: Bearer KEY'.",
                    kind="authentication_error", code="invalid_api_key"),
            _mapper(408, "The request did not arrive in time."),
            _mapper(413, f"The request body is larger than {limit}.", code="request_too_large"),
            _mapper(426, "This address speaks HTTP/1.1 and HTTP/2 only."),
            _mapper(429, "Too many requests or tokens with this API key: try again later.",
                    kind="rate_limit_error", code="rate_limit_exceeded"),
            _mapper(431, "The request headers are too large."),
            _mapper(502, "The model's server broke off.", kind=SERVER, code="bad_gateway"),
            _mapper(503, "No replica of this model could be reached: try again later.",
                    kind=SERVER, code="model_unavailable", wait=5),
            _mapper(504, "The model did not answer in time.", kind=SERVER, code="timeout"),
        ]
    }  # fmt: skip


def _mapper(
    status: int, message: str, *, kind: str = INVALID, code: str | None = None, wait: int | None = None
) -> Resource:
    comparison = {"op": "EQ", "value": {"default_value": status, "runtime_key": f"ax.reply.{status}"}}
    return {
        "filter": {"status_code_filter": {"comparison": comparison}},
        "body_format_override": {"json_format": error(message, kind, code)},
        "headers_to_add": [retry_after(wait)] if wait else [],
    }
