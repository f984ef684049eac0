"""Measures how soon a held request has a Deployment patched, and prints it: `python tests/bench/waking.py`.

200 sleeping models on 64 simulated GPUs, as in `tests/cluster/test_pool_scaling.py`; 60 of them get a request, one
after the other. The clock runs from the moment at which the gateway holds it until a watch tells of the replica; the
aim is 1 s at the 99th percentile.
"""

import asyncio
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cluster.test_pool_scaling import NAMES, pool_of_models, running

WAKES = 60


async def measured() -> list[float]:
    """Seconds that each wake took."""
    found = []
    with pool_of_models() as cluster:
        async with running(cluster) as story:
            await story.until("asleep", lambda: all(story.available(n).get("reason") == "ScaledToZero" for n in NAMES))
            for name in NAMES[:WAKES]:
                began = time.monotonic()
                story.crowds.want(2, name)
                await story.until("a replica", partial(story.asked, name), pause=0.005)
                found.append(time.monotonic() - began)
                story.crowds.want(0, name)
                await asyncio.sleep(0.2)
    return found


def main() -> None:
    """Prints one line."""
    found = asyncio.run(measured())
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    sys.stdout.write(f"{len(found)} wakes: median {cuts[49]:.3f} s, p99 {cuts[98]:.3f} s, slowest {max(found):.3f} s\n")


if __name__ == "__main__":
    main()
