"""What hosted APIs cost on a day, as a table for people."""

from __future__ import annotations

import time

from ax_gateway.ledger import day_of, name_of, spend_table
from ax_operator.kinds import CONFIGMAP
from ax_operator.kube import Kube


async def spent(namespace: str, day: str | None = None) -> str:
    """Return the table of a day (today in Seoul when left out) from the ledger in the operator's namespace."""
    wanted = day or day_of(time.time())
    async with Kube() as cluster:
        found = await cluster.get(CONFIGMAP, name_of(wanted), namespace)
    return spend_table((found or {}).get("data") or {}, wanted)
