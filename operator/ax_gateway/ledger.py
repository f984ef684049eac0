"""What was spent today, by all gateways: one ConfigMap per day, in which each gateway writes its own entry.

Pure but for its memory. A day begins at midnight in Seoul. The rows of one gateway are bounded; beyond that the
smallest are added up under `other`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from ax_gateway.accounts import Purchase, Spent
from ax_operator.api.names import COMPONENT, MANAGED_BY, MANAGED_BY_VALUE

SEOUL = timezone(timedelta(hours=9), "KST")
COMPONENT_LEDGER = "ledger"
SELECTOR = f"{COMPONENT}={COMPONENT_LEDGER}"
MOST_ROWS = 2000
Rows = dict[Purchase, Spent]


def day_of(now: float) -> str:
    """Return the day in Seoul, as YYYY-MM-DD, of a Unix time."""
    return datetime.fromtimestamp(now, UTC).astimezone(SEOUL).date().isoformat()


def name_of(day: str) -> str:
    """Return the name of a day's ConfigMap."""
    return f"ax-ledger-{day}"


def rows_to_json(rows: Rows) -> str:
    """Return a gateway's entry: rows of api, model, client, requests, prompt, completion, KRW."""
    listed = sorted(rows.items(), key=lambda row: (-row[1].krw, row[0]))
    kept, rest = listed[:MOST_ROWS], listed[MOST_ROWS:]
    other: Rows = {}
    for (api, _, _), spent in rest:
        other[api, "other", "other"] = other.get((api, "other", "other"), Spent()) + spent
    table = [[*key, s.requests, s.prompt, s.completion, round(s.krw, 4)] for key, s in [*kept, *other.items()]]
    return json.dumps(table, separators=(",", ":"), ensure_ascii=False)


def rows_from_json(text: str) -> Rows:
    """Read a gateway's entry; raises ValueError for what is not one."""
    rows: Rows = {}
    for row in json.loads(text):
        try:
            api, model, client, requests, prompt, completion, krw = row
            key = (str(api), str(model), str(client))
            rows[key] = rows.get(key, Spent()) + Spent(int(requests), int(prompt), int(completion), float(krw))
        except TypeError as problem:
            raise ValueError(f"a row of the ledger is not one: {problem}") from problem
    return rows


class Ledger:
    """Today's rows of this gateway (`node`) and of all others."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.day = ""
        self.mine: Rows = {}
        self._others: dict[str, Rows] = {}
        self._read = False

    def turn(self, now: float) -> None:
        """Begin a new day when there is one: everything is zero then."""
        day = day_of(now)
        if day != self.day:
            self.day, self.mine, self._others = day, {}, {}

    def add(self, bought: Rows) -> None:
        """Add what this gateway bought."""
        for key, spent in bought.items():
            self.mine[key] = self.mine.get(key, Spent()) + spent

    def resume(self, day: str, rows: Rows) -> None:
        """Go on from rows that this gateway wrote before, if they are today's and no less than what is known."""
        if day == self.day and _krw(rows) > _krw(self.mine):
            self.mine = dict(rows)

    def observe(self, manifest: Mapping[str, Any]) -> None:
        """Take over a day's ConfigMap; raises ValueError for an entry that is not one."""
        if manifest["metadata"]["name"] != name_of(self.day):
            return
        entries = {node: rows_from_json(text) for node, text in (manifest.get("data") or {}).items()}
        self.resume(self.day, entries.pop(self._node, {}))
        self._others = entries

    def manifest(self, namespace: str) -> dict[str, Any]:
        """Return the ConfigMap with this gateway's entry alone, for server-side apply under its own manager."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name_of(self.day),
                "namespace": namespace,
                "labels": {MANAGED_BY: MANAGED_BY_VALUE, COMPONENT: COMPONENT_LEDGER},
            },
            "data": {self._node: rows_to_json(self.mine)},
        }

    def total(self) -> Rows:
        """Return today's rows of all gateways."""
        found = dict(self.mine)
        for rows in self._others.values():
            for key, spent in rows.items():
                found[key] = found.get(key, Spent()) + spent
        return found

    def spent_on(self, api: str) -> float:
        """Return the KRW spent today at an API."""
        return sum(spent.krw for (where, _, _), spent in self.total().items() if where == api)

    def spent_by(self, client: str) -> float:
        """Return the KRW that a client spent today."""
        return sum(spent.krw for (_, _, who), spent in self.total().items() if who == client)


def spend_table(entries: Mapping[str, str], day: str) -> str:
    """Return a day's ledger as text: by API, model and client, and the sum; `entries` are the ConfigMap's data."""
    rows: Rows = {}
    for text in entries.values():
        for key, spent in rows_from_json(text).items():
            rows[key] = rows.get(key, Spent()) + spent
    head = ("API", "MODEL", "CLIENT", "REQUESTS", "PROMPT", "COMPLETION", "KRW")
    body = [
        (*key, str(s.requests), str(s.prompt), str(s.completion), f"{s.krw:,.2f}")
        for key, s in sorted(rows.items(), key=lambda row: -row[1].krw)
    ]
    whole = sum(rows.values(), Spent())
    last = (day, "", "", str(whole.requests), str(whole.prompt), str(whole.completion), f"{whole.krw:,.2f}")
    lines = [head, *body, last]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n < 3 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _krw(rows: Rows) -> float:
    return sum(spent.krw for spent in rows.values())
