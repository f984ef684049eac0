"""How many replicas keep waiting rare: square-root staffing, and Erlang's exact formula to check it by.

Loads are in Erlangs (slots busy on average), times in seconds.
Sources: A. K. Erlang (1917) for the M/M/c delay formula; S. Halfin and W. Whitt, "Heavy-traffic limits for
queues with many exponential servers", Operations Research 29 (1981), for c = R + beta * sqrt(R).
"""

from math import ceil, erfc, exp, inf, isfinite, pi, sqrt

_ROOT_HALF = sqrt(0.5)
_ROOT_TWO_PI = sqrt(2 * pi)


def delay_probability(beta: float) -> float:
    """Halfin and Whitt's limit of P(wait > 0) when beta * sqrt(R) slots are spare; 1 for beta <= 0."""
    if beta <= 0:
        return 1.0
    density = exp(-min(700.0, 0.5 * beta * beta)) / _ROOT_TWO_PI
    below = 1 - 0.5 * erfc(beta * _ROOT_HALF)
    return density / (density + beta * below)


def staffed_replicas(busy: float, spread: float, slots: int, most: int, patience: float, misses: float) -> int:
    """Fewest replicas, at most `most`, with P(wait > patience) <= misses, by square-root staffing.

    busy: mean busy slots; spread: their standard deviation (the root of the mean for Poisson arrivals, more for
    bursty ones); patience: the allowed wait in units of the mean service time; slots: per replica.
    """
    if busy <= 0:
        return 0
    # A queue fed in bursts empties as much more slowly as its variance exceeds that of Poisson arrivals.
    decay = patience * min(1.0, busy / (spread * spread)) if spread > 0 else patience
    low = max(1, ceil(min(busy / slots, most)))
    high = max(low, most)
    while low < high:
        middle = (low + high) // 2
        spare = middle * slots - busy
        late = delay_probability(spare / spread if spread > 0 else inf) * exp(-min(50.0, spare * decay))
        low, high = (low, middle) if late <= misses else (middle + 1, high)
    return min(low, most)


def erlang_c(busy: float, slots: int) -> float:
    """P(wait > 0) in M/M/c, exactly (Erlang C), by the stable recursion of Erlang B."""
    if not isfinite(busy) or busy >= slots:
        return 1.0
    if busy <= 0:
        return 0.0
    inverse_b = 1.0
    for servers in range(1, slots + 1):
        inverse_b = 1 + servers / busy * inverse_b
        if inverse_b == inf:
            return 0.0
    blocking = 1 / inverse_b
    return blocking / (1 - busy / slots * (1 - blocking))


def erlang_replicas(busy: float, slots: int, patience: float, misses: float) -> int:
    """Fewest replicas with P(wait > patience) <= misses in M/M/c, exactly; the yardstick, not the rule."""
    replicas = max(0, ceil(busy / slots))
    while busy > 0:
        spare = replicas * slots - busy
        if spare > 0 and erlang_c(busy, replicas * slots) * exp(-spare * patience) <= misses:
            break
        replicas += 1
    return replicas
