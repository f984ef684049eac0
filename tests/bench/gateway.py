"""Measures what the gateway costs, beside other proxies: `make bench-gateway`.

One upstream that computes nothing and one client, both in C and on the second core; each proxy in turn on the first,
with one worker. Costs are CPU time of the proxy's processes, which other work on the machine disturbs little; every
measure is taken several times, the proxies in turns, and medians are told. Proxies that cannot be installed are left
out and named. Writes docs/bench/gateway.json and gateway.svg; arguments (thousand_models, held, saturation, proxies)
measure these parts anew and keep the others.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "operator"), str(ROOT / "engines")]

from tests.bench.gateway_drawing import draw  # noqa: E402
from tests.bench.gateway_measures import (  # noqa: E402
    INTERVAL_US,
    MEASURES,
    ROUNDS,
    TOKENS,
    Load,
    compare,
    held,
    saturation,
    thousand_models,
)
from tests.bench.gateway_targets import targets  # noqa: E402
from tests.bench.processes import LOAD_CORE, answers, built, process  # noqa: E402
from tests.bench.proxies import PACKAGES  # noqa: E402
from tests.gateway.rig import free_port  # noqa: E402

OUT = ROOT / "docs" / "bench"


async def measure(parts: list[str]) -> dict[str, Any]:
    """Measure these parts, each with the load of the machine around it."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        load = Load(built("client", folder))
        server, port, slow_port = built("upstream", folder), free_port(), free_port()
        async with (
            process(server, str(port), str(TOKENS), str(INTERVAL_US), core=LOAD_CORE),
            process(server, str(slow_port), "60", "500000", core=LOAD_CORE),
        ):
            await answers(port)
            makers = {
                "thousand_models": lambda: thousand_models(port, folder),
                "held": lambda: held(port, folder),
                "saturation": lambda: saturation(port, slow_port, load, folder),
                "proxies": lambda: compare(port, load, folder),
            }
            for part in parts or makers:
                before = os.getloadavg()[0]
                found[part] = await makers[part]()
                found[part]["load_average"] = [before, os.getloadavg()[0]]
                if part != "proxies":
                    print(part, found[part], flush=True)
    return found


async def main(parts: list[str]) -> None:
    """Measure all, or these parts anew; write, and print the table of targets."""
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):  # so that no process is left behind
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "gateway.json"
    found: dict[str, Any] = (json.loads(path.read_text()) if parts else {}) | await measure(parts)
    found["conditions"] = {
        "cores": os.cpu_count(), "rounds": ROUNDS, "measures": [asdict(measure) for measure in MEASURES],
        "body_bytes": 1000, "tokens": TOKENS, "token_interval_us": INTERVAL_US, "envoy": "1.40.0", "workers": 1,
        "packages": PACKAGES,
    }  # fmt: skip
    path.write_text(json.dumps(found, indent=1) + "\n")
    found["targets"] = targets(found)
    path.write_text(json.dumps(found, indent=1) + "\n")
    draw(found["proxies"]["medians"], OUT / "gateway.svg")
    for row in found["targets"]:
        mark = "reached" if row["reached"] else "MISSED"
        print(f"{mark:8} {row['what']}: {row['measured']:.3g} ({row['relation']} {row['target']:.3g})")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
