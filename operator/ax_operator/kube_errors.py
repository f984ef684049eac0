# ruff: noqa: N818  `except Conflict` says what happened; a suffix would say it twice.
"""What can go wrong between us and an API server; raised by `kube` alone.

KubeError                 the API server did not do it; the message is its own
├── Invalid      400 422  the object is refused as it is: change it
├── Forbidden    401 403  a permission is missing, or the namespace is going away
├── Missing      404      no such object, or the kind is not installed
├── Conflict     409      somebody else was quicker: read again
├── Expired      410      the resource version is too old: list again
└── Unreachable  429 5xx  no answer, or a busy server: try later
"""

from __future__ import annotations

import json


class KubeError(Exception):
    """The API server did not do what was asked; `status` is its HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Invalid(KubeError):
    """The object is refused as it is."""


class Forbidden(KubeError):
    """A permission is missing, or the namespace is terminating."""


class Missing(KubeError):
    """The object or its kind does not exist."""


class Conflict(KubeError):
    """The object changed, or carries another uid, since it was read."""


class Expired(KubeError):
    """The resource version or the page token is too old."""


class Unreachable(KubeError):
    """There was no answer, or the server is too busy to give one."""


_BY_STATUS: dict[int, type[KubeError]] = {
    400: Invalid, 401: Forbidden, 403: Forbidden, 404: Missing, 405: Invalid, 409: Conflict,
    410: Expired, 413: Invalid, 415: Invalid, 422: Invalid,
}  # fmt: skip


_UNTYPED = "failed to create typed patch object"
"""How the server answers an apply with a field that the kind does not have: as if the fault were its own."""


def refused(status: int, message: str) -> KubeError:
    """Return the error for an answer with this HTTP status."""
    if status == 500 and _UNTYPED in message:
        return Invalid(message, status)
    return _BY_STATUS.get(status, Unreachable)(message, status)


def message_of(text: str) -> str:
    """The sentence in a Status object, or the bare answer of something between us and the server."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
