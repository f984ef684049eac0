"""Reads keys of the mounted Secret; values go nowhere but to the client that needs them."""

from __future__ import annotations

from pathlib import Path

from ax_engines.build.errors import BuildError

MAX_SECRET_BYTES = 64 * 2**10


def read_secret(mount: Path, name: str | None, *keys: str) -> str:
    """Return the first of the keys that the Secret has; BuildError SecretInvalid naming what is missing."""
    for key in keys:
        value = optional_secret(mount, key)
        if value:
            return value
    raise BuildError("SecretInvalid", f"Secret {name} has no key {' or '.join(keys)}, or it is empty: add it")


def optional_secret(mount: Path, key: str) -> str | None:
    """Return a key's value without surrounding blanks, None if there is none."""
    path = mount / key
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        value = stream.read(MAX_SECRET_BYTES).decode("utf-8", "replace").strip()
    if any(c in value for c in "\r\n\x00"):
        raise BuildError("SecretInvalid", f"key {key} of the source's Secret has several lines: write the value alone")
    return value or None
