"""What tests of tokens and money share: clients with keys, hosted models with prices, and sums of metrics."""

from __future__ import annotations

import json
from typing import Any

from ax_operator.api.names import CLIENT_KEY
from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

PRICES = {"prices": {"input": 1_000_000, "output": 2_000_000}}
"""KRW per million tokens: one for a token of the prompt, two for one of the answer; 7 + 2 * 3 = 13 for an answer."""


def client(rig: Rig, name: str, **policy: Any) -> dict[str, str]:
    """Make a client with this policy; return what authorizes it."""
    key = f"sk-{name}-" + "k" * 32
    rig.secret(name, {CLIENT_KEY: "true"}, key=key, policy=json.dumps(policy))
    return {"Authorization": f"Bearer {key}"}


async def status_is(rig: Rig, model: str, wanted: int, headers: dict[str, str] | None = None) -> bool:
    """Whether a request gets this status."""
    async with rig.post(model, headers=headers) as response:
        return response.status == wanted


async def hosted_model(rig: Rig, hosted: Replica, name: str, **spec: Any) -> str:
    """Serve a model by a hosted API alone."""
    rig.secret(f"{name}-key", api_key="k" * 40)
    rig.hosted_api(name, hosted, **PRICES, **spec)
    routing: dict[str, Any] = {
        "dataResidency": "Any",
        "hosted": {"apiRef": name},
        "whileUnavailable": "Hosted",
        "holdTimeout": "1s",
    }
    key = await rig.serve(name, **routing)
    await until(lambda: rig.may_leave(key), "requests may leave")
    return key


async def total(rig: Rig, family: str, **labels: str) -> float:
    """Return the sum of the samples with these labels."""
    found = await rig.metrics(family)
    return sum(value for key, value in found.items() if labels.items() <= dict(key).items())


async def counts(rig: Rig, key: str, prompt: int, completion: int, backend: str = "onprem") -> bool:
    """Whether exactly these tokens of a model are counted."""
    tokens = [
        await total(rig, f"ax_gateway_{kind}_tokens_total", model=key, backend=backend)
        for kind in ("prompt", "completion")
    ]
    return tokens == [prompt, completion]
