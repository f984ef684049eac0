"""Whether an object already is what we would apply, so that nothing has to be asked of the API server.

`plan.diff.satisfied` answers for the fields that we want. Here is the other half: fields that we applied once and
want no longer. `metadata.managedFields` lists them, and applying again removes them. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ax_operator.api.names import FIELD_MANAGER
from ax_operator.plan.diff import satisfied

Json = Mapping[str, Any]


def up_to_date(wanted: Json, seen: Json, subresource: str = "") -> bool:
    """True if applying `wanted` would change nothing: not a value, and not who owns what."""
    owned = _owned(seen, subresource)
    return owned is not None and satisfied(wanted, seen) and _within(owned, wanted)


def _owned(seen: Json, subresource: str) -> Json | None:
    """The fieldsV1 of our own applies, or None if we have not applied this object yet."""
    for entry in seen["metadata"].get("managedFields") or ():
        ours = entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        if ours and entry.get("subresource", "") == subresource:
            fields: Json = entry.get("fieldsV1") or {}
            return fields
    return None


def _within(owned: Json, wanted: Any) -> bool:
    """True if every path of `owned` leads somewhere in `wanted`.

    Paths are spelled `f:<field>`, `k:<the JSON of an element's keys>`, `v:<the JSON of an element>` and `.`.
    """
    return all(_leads(step, below, wanted) for step, below in owned.items() if step != ".")


def _leads(step: str, below: Json, wanted: Any) -> bool:
    kind, _, rest = step.partition(":")
    if kind == "f":
        return isinstance(wanted, Mapping) and rest in wanted and (not below or _within(below, wanted[rest]))
    if not isinstance(wanted, list | tuple):
        return False
    if kind == "v":
        return json.loads(rest) in wanted
    keys: Json = json.loads(rest)
    # A key that the API server defaulted, such as a port's protocol, may be missing in what we want.
    found = (e for e in wanted if isinstance(e, Mapping) and all(e.get(k, v) == v for k, v in keys.items()))
    return any(_within(below, element) for element in found)
