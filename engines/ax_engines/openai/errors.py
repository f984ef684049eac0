"""Errors in the OpenAI API's shape.

ApiError
├── raised by validation: 400, 404, 413, naming the field in `param`
└── made of a wire.EngineError: 400, 429 (with Retry-After), 500, 503, 504
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from ax_engines.wire import EngineError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An error for the client: what is wrong and what to change."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.allow = allow

    @classmethod
    def of_engine(cls, error: EngineError) -> ApiError:
        """Translate an error that came through Triton; text of unexpected ones stays inside."""
        status = error.status if error.status in TYPES else 500
        message = error.message if status != 500 or error.code else "The engine failed; see the server's log."
        return cls(status, message, code=error.code, retry_after=error.retry_after)

    def body(self) -> bytes:
        """Return the JSON of the error."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode(errors="replace")

    def headers(self) -> Mapping[str, str]:
        """Return the headers that belong to the error."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        return headers | {"Allow": self.allow} if self.allow else headers


def of_status(status: int) -> ApiError:
    """Return the error for a plain HTTP status."""
    return ApiError(status, HTTPStatus(status).phrase + ".")
