"""Measures a decision pass over many models, and prints it: `python tests/bench/autoscale.py [models ...]`.

One pass decides once for every model, half of them priced, with loads that move from pass to pass. CPU time, the
median of the passes after a warm-up; the aim is 50 ms for 1,000 models, growing linearly.
"""

import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "operator"))

from ax_operator.plan.autoscale import decide
from ax_operator.plan.scaling import Load, Memory, Policy, Prices, Requests

PASSES = 60
MEAN = Requests(1155, 211, 5.4)
PRICES = Prices(4000, 1036, 4144)


def measured(models: int) -> float:
    """Median CPU milliseconds of one pass."""
    draw = random.Random(1)
    policies = [
        Policy(max_replicas=draw.randint(1, 64), hosted=index % 2 == 0, prices=PRICES) for index in range(models)
    ]
    memories = [Memory()] * models
    replicas = [1] * models
    sizes = [draw.uniform(0, 8.0 * policy.max_replicas) for policy in policies]
    spent = []
    for turn in range(PASSES):
        loads = [
            Load(
                running=busy,
                in_flight=busy,
                ready=count,
                pods_known=count,
                pods_answered=count,
                requests=MEAN,
            )
            for size, count in zip(sizes, replicas, strict=True)
            for busy in (min(8.0 * count, size * draw.uniform(0.5, 1.2)),)
        ]
        began = time.process_time()
        for index in range(models):
            decision = decide(loads[index], policies[index], memories[index], 2.0 * turn)
            memories[index], replicas[index] = decision.memory, decision.replicas
        spent.append(time.process_time() - began)
    return 1000 * statistics.median(spent[PASSES // 4 :])


def main() -> None:
    """Prints one line per number of models."""
    for models in [int(word) for word in sys.argv[1:]] or [100, 1000, 4000]:
        took = measured(models)
        sys.stdout.write(f"{models:>6} models: {took:8.1f} ms CPU a pass, {1000 * took / models:6.1f} us a model\n")


if __name__ == "__main__":
    main()
