"""Whether an object in the cluster already says what we want: only the fields that we own are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def satisfied(wanted: Any, seen: Any) -> bool:
    """True if every field of `wanted` is in `seen`, in depth; lists must have the same length and order.

    What the API server defaults, or others own, is ignored. Nothing is normalised: builders write quantities and
    ports as the API server returns them.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(seen, Mapping):
            return not wanted and seen is None
        return all(satisfied(value, seen.get(key)) for key, value in wanted.items())
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if not isinstance(seen, Sequence) or isinstance(seen, str):
            return not wanted and seen is None
        return len(wanted) == len(seen) and all(satisfied(w, s) for w, s in zip(wanted, seen, strict=True))
    return bool(wanted == seen)
