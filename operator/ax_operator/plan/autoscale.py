"""How many replicas a model needs now: the one function behind every scaling decision.

    look at the load -> demand -> what prices or waiting call for -> limits -> replicas, why, memory

Demand counts every request once: held at a gateway, in flight to pods (seen from both ends, the larger one
taken), or hosted only for lack of room. One of two rules turns it into replicas:

- Prices, when the hosted API may serve and all prices are known: a ski-rental account per layer of demand, in
  which a layer not served here costs what the hosted API charges for it. What a replica would come too late
  for is left to the hosted API.
- Waiting otherwise: square-root staffing of the mean demand, and the same accounts with a request that waits
  weighing as much as `_MISS_WEIGHT` times its share of a replica.

Limits, the strongest last: the pool's free GPUs; nothing shrinks blind or fresh; never zero with a request in
flight; always within [min, max]. Pure, and total: any numbers give a decision.
"""

from ax_operator.plan.ledger import Terms, advanced, opened, standing
from ax_operator.plan.scaling import Decision, Load, Memory, Policy, known
from ax_operator.plan.staffing import staffed_replicas

STALE_AFTER = 10.0
"""Seconds without metrics after which nothing is taken away."""
_LONGEST_STEP = 60.0
"""More time between two decisions counts as this much: the process slept, or the clock leapt."""
_MISSES = 0.01
_MISS_WEIGHT = 20.0
_RECENT = 8.0


def decide(load: Load, policy: Policy, memory: Memory, now: float) -> Decision:
    """Replicas for this model, given one look at it and what was remembered of earlier looks.

    now: seconds of any clock. Never raises. Invariants: min <= replicas <= max; replicas is 0 only if nothing
    is held, in flight, running or waiting (or max is 0); with metrics missing, or within one stabilisation
    window of an empty memory, replicas is not below what runs (max excepted).
    """
    fresh = memory.last is None
    step = 0.0 if fresh else _step(memory.last or 0.0, now)
    most = policy.max_replicas
    current = max(0, load.ready) + max(0, load.starting)

    here, hosted, blind = _demand(load)
    demand = here + hosted
    if blind:
        demand = max(demand, memory.demand)
    worth = _worth_of_a_replica(load, policy)
    terms = (
        Terms(worth, policy.cold_start + load.requests.seconds, policy.slots, most)
        if worth
        else Terms(_MISS_WEIGHT, policy.window, policy.target or policy.slots, most)
    )

    running = min(current, most) if fresh else memory.replicas
    accounts = advanced(opened(running, terms) if fresh else memory.accounts, demand, step, terms)
    mean, spread, recent = _means(memory, demand, step, policy, fresh)
    idle = 0.0 if demand > 0 or blind else memory.idle + step

    wanted, why = standing(accounts, running, terms), "prices" if worth else "demand"
    if not worth and not policy.target:
        staffed = _staffed(mean, spread, recent, load, policy)
        if staffed > wanted:
            wanted, why = staffed, "spare slots"
    if wanted < 1 and here > 0:
        wanted, why = 1, "requests in flight"
    elif here <= 0 and max(current, running) > 0:
        wanted, why = _when_idle(wanted, why, idle, bool(worth), policy)
    wanted, limit = max(policy.min_replicas, min(most, wanted)), ""
    held_up = min(most, max(current, running))
    if wanted < held_up and (blind or memory.age + step < policy.window):
        wanted, limit = held_up, ", held: metrics missing" if blind else ", held: first window after a start"

    replicas, short = wanted, 0.0
    if load.free_gpus is not None:
        room = max(policy.min_replicas, current + max(0, load.free_gpus) // policy.gpus_per_replica)
        if replicas > room:
            replicas, short, limit = room, memory.short + step, f", pool has room for {room} of {wanted}"
    why = f"demand {demand:.1f} of {policy.slots} slots each, {why}: {running} -> {replicas}{limit}"
    return Decision(
        replicas=replicas,
        why=why,
        memory=Memory(
            last=now if known(now) else memory.last if memory.last is not None else 0.0,
            age=memory.age + step,
            idle=idle,
            demand=demand,
            mean=mean,
            spread=spread,
            recent=recent,
            accounts=accounts,
            replicas=replicas,
            short=short,
        ),
        wanted=wanted,
        demand=demand,
        priced=bool(worth),
    )


def _step(last: float, now: float) -> float:
    return min(_LONGEST_STEP, now - last) if now > last else 0.0


def _demand(load: Load) -> tuple[float, float, bool]:
    """(requests that are or should be here, requests hosted for lack of room, whether it is a blind guess)."""
    running, waiting, held, in_flight = load.running, load.waiting, load.held, load.in_flight
    hosted, age = load.overflowed, load.metrics_age
    if (
        known(running + waiting + held + in_flight + hosted + age)
        and min(running, waiting, held, in_flight, hosted, age) >= 0
    ):
        blind = age > STALE_AFTER
    else:
        running, waiting, held, in_flight, hosted = (
            value if known(value) else 0.0 for value in (running, waiting, held, in_flight, hosted)
        )
        blind = True
    pods = running + waiting
    if load.pods_known > load.pods_answered:
        # A silent pod is as busy as the others, for all we know.
        if load.pods_answered > 0:
            pods *= load.pods_known / load.pods_answered
        blind = blind or 2 * load.pods_answered < load.pods_known
    return held + max(in_flight, pods), hosted, blind


def _worth_of_a_replica(load: Load, policy: Policy) -> float:
    """What the hosted API charges for the work of one full replica, over what that replica costs.

    0 means that the rule of prices is inactive.
    """
    prices, mean = policy.prices, load.requests
    if not policy.hosted or prices is None:
        return 0.0
    request = prices.hosted_input * mean.prompt_tokens + prices.hosted_output * mean.output_tokens
    replica_second = prices.gpu_hour * policy.gpus_per_replica / 3600
    if not (known(request) and known(replica_second) and known(mean.seconds)):
        return 0.0
    if request <= 0 or replica_second <= 0 or mean.seconds <= 0:
        return 0.0
    worth = request / 1e6 * policy.slots / mean.seconds / replica_second
    return worth if known(worth) else 0.0


def _means(memory: Memory, demand: float, step: float, policy: Policy, fresh: bool) -> tuple[float, float, float]:
    """Mean and variance of the demand over about a window, and its mean over the last seconds."""
    if fresh:
        return demand, demand, demand
    weight = step / (policy.window + step) if step else 0.0
    apart = demand - memory.mean
    mean = memory.mean + weight * apart
    spread = (1 - weight) * (memory.spread + weight * apart * apart)
    recent = memory.recent + step / (_RECENT + step) * (demand - memory.recent) if step else memory.recent
    return mean, spread, recent


def _staffed(mean: float, spread: float, recent: float, load: Load, policy: Policy) -> int:
    seconds = load.requests.seconds
    patience = policy.patience / seconds if known(seconds) and seconds > 0 else 0.0
    burst = min(4.0, spread / mean) if mean > 0 else 1.0
    busy = min(max(mean, recent - recent**0.5), float(policy.max_replicas * policy.slots))
    return staffed_replicas(busy, burst, policy.slots, patience, _MISSES)


def _when_idle(wanted: int, why: str, idle: float, priced: bool, policy: Policy) -> tuple[int, str]:
    """The last replica is kept for as long as starting it again would cost, or as the user said."""
    patience = policy.scale_to_zero_after
    if patience is None:
        if priced:
            return wanted, why
        patience = policy.cold_start * (1 + _MISS_WEIGHT / policy.slots)
    if idle >= patience:
        return 0, f"idle for {idle:.0f} s"
    return max(1, wanted), why if wanted > 0 else f"idle for {idle:.0f} of {patience:.0f} s"
