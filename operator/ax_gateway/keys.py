"""Client keys: what a Secret says of a client, and how one is made.

Pure. A client is the Secret's name. Each entry of its data whose name begins with `key` is a valid key, so that a
new one can be added before the old one goes; `policy` holds the limits as JSON.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ax_engines.contract import Shared
from ax_operator.api.names import CLIENT_KEY, USABLE_BY, USABLE_BY_GATEWAY

SHORTEST_KEY = 32
"""Characters; made by us, a key has 256 random bits."""


class KeyPolicy(Shared):
    """What a client may do; left out means no bound. Requests per minute are per gateway set, tokens post-paid."""

    models: Annotated[tuple[Annotated[str, Field(max_length=320)], ...], Field(max_length=256)] | None = None
    """Names that this client may put into `model`; of other models it sees a 404."""
    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    daily_krw: Annotated[float, Field(ge=0)] | None = Field(default=None, alias="dailyKRW")
    """KRW per day (Asia/Seoul) for hosted answers; spent, this client's requests stay on-prem."""
    data_residency: Literal["OnPrem", "Any"] = "Any"


class Client(Shared):
    """One client: its valid keys and its policy."""

    name: str
    keys: Annotated[tuple[str, ...], Field(repr=False)]
    policy: KeyPolicy = KeyPolicy()

    @property
    def tag(self) -> str:
        """What travels as `x-ax-client`: the lasting marks, which routes match on, and the name."""
        resident = "r" if self.policy.data_residency == "OnPrem" else "-"
        limited = "l" if self.policy.models is not None else "-"
        return f"{resident}{limited}:{self.name}"


RESIDENT = "^r.:.*"
LIMITED = "^.l:.*"


class BadKey(ValueError):  # noqa: N818
    """A Secret that is no client key; the message says what to change and repeats nothing of its content."""


def name_of(tag: str) -> str:
    """Return the client's name in a tag."""
    return tag.partition(":")[2]


def is_client_key(secret: Mapping[str, Any]) -> bool:
    """Whether a Secret is meant as a client key."""
    return (secret["metadata"].get("labels") or {}).get(CLIENT_KEY) == "true"


def client_of(secret: Mapping[str, Any]) -> Client:
    """Read a client key's Secret; raises BadKey."""
    data = {key: _decoded(key, value) for key, value in (secret.get("data") or {}).items()}
    keys = tuple(sorted(value for key, value in data.items() if key.startswith("key")))
    if not keys:
        raise BadKey("no entry of its data has a name that begins with 'key'")
    if any(len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise BadKey(f"a key is shorter than {SHORTEST_KEY} characters or not plain ASCII: make it with our command")
    try:
        policy = KeyPolicy.model_validate_json(data.get("policy") or "{}")
    except ValidationError as problem:
        fields = ", ".join(".".join(str(part) for part in error["loc"]) for error in problem.errors())
        raise BadKey(f"its policy is not one: look at {fields or 'the JSON'}") from None
    return Client(name=secret["metadata"]["name"], keys=keys, policy=policy)


def secret_value(secret: Mapping[str, Any], key: str) -> str | None:
    """Return one entry of a Secret as text, None where it is missing; raises BadKey where it is no text."""
    value = (secret.get("data") or {}).get(key)
    return None if value is None else _decoded(key, value).strip() or None


def key_secret(name: str, namespace: str, key: str, policy: KeyPolicy) -> dict[str, Any]:
    """Return the Secret of a new client."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {CLIENT_KEY: "true", USABLE_BY: USABLE_BY_GATEWAY},
        },
        "type": "Opaque",
        "stringData": {"key": key, "policy": policy.to_json()},
    }


def _decoded(key: str, value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadKey(f"its entry {key!r} is no base64 of text") from None
