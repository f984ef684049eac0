"""A model with replicas and a hosted API, as tests of both need it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from typing import Any

from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

KEY = "hosted-secret-key-0123456789abcdef"


class Hybrid:
    """Each has names of its own."""

    def __init__(self, rig: Rig, hosted: Replica) -> None:
        self.rig = rig
        self.hosted = hosted
        self.api = f"api-{uuid.uuid4().hex[:8]}"
        self.name = f"m-{uuid.uuid4().hex[:8]}"
        self.key = f"t/{self.name}"

    async def serve(self, *replicas: Replica, slots: int | None = None, api: Any = None, **routing: Any) -> None:
        self.rig.secret(f"{self.api}-key", api_key=KEY)
        self.rig.hosted_api(self.api, self.hosted, **(api or {}))
        wanted = {"dataResidency": "Any", "hosted": {"apiRef": self.api}, "whileUnavailable": "Hosted"}
        await self.rig.serve(self.name, *replicas, slots=slots, **(wanted | routing))
        if "allowedNamespaces" not in (api or {}):
            await until(lambda: self.rig.may_leave(self.key), "requests may leave")

    async def by(self, headers: dict[str, str] | None = None, **fields: Any) -> tuple[int, str]:
        """Return status and who served one request."""
        async with self.rig.post(self.key, headers=headers, **fields) as response:
            await response.read()
            return response.status, response.headers.get("x-ax-served-by", "-")


async def becomes(found: Awaitable[Any], wanted: Any) -> bool:
    """Whether what is awaited is this."""
    return bool(await found == wanted)
