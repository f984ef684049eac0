"""How many replicas a model needs now: the one function behind every scaling decision.

    load -> what is asked for -> what prices or waiting call for -> limits -> replicas, why, memory

Demand counts every request once: held at a gateway, in flight to pods (seen from both ends, the larger one
taken), or hosted only for lack of room. One of two rules turns it into replicas:

- Prices, when the hosted API may serve and all prices are known: a ski-rental account per layer of demand
  (`ledger`), in which a layer not served here costs what the hosted API charges. What a replica would come too
  late for is left to the hosted API, so no spare capacity is kept.
- Waiting otherwise: square-root staffing (`staffing`) of the demand that is expected when a replica asked for
  now would be ready (`forecast`). How much is spare corrects itself: `caution` grows while requests wait too
  long and shrinks while none do, so that on any load the misses tend to `_MISSES_AIMED_AT`. Demand far beyond
  all that was expected is a surprise: it is followed at once, and the waits that it causes teach nothing, since
  nobody keeps replicas for what happens once. A replica goes when it has not been called for during one
  stabilisation window.

Limits, the strongest last: the pool's free GPUs; nothing shrinks blind or fresh; never zero with a request in
flight; always within [min, max]. Pure, and total: any numbers give a decision.
"""

from math import ceil, isfinite

from ax_operator.plan.forecast import History, expected, observed
from ax_operator.plan.ledger import Outlook, Terms, advanced, opened, renewed, standing
from ax_operator.plan.offered import Asked, asked_for
from ax_operator.plan.scaling import Decision, Load, Memory, Policy, Rule, known
from ax_operator.plan.staffing import staffed_replicas

_LONGEST_STEP = 60.0
"""More time between two decisions counts as this much: the process slept, or the clock leapt."""
_RECENT = 8.0
"""Seconds over which the demand of this moment is smoothed."""
_MISSES = 0.01
"""Share of requests that may wait too long in the staffing formula, before caution corrects it."""
_MISSES_AIMED_AT = 0.015
"""Share of arrivals that would wait too long, surprises left out. More than the share of requests that come to do so,
since a look that finds a queue overstates how long it lasts; replays put it at an SLO of 0.99."""
_MOST_WEIGHT = 4.0
"""The most that a moment with many arrivals weighs, against a usual one."""
_SURPRISE = 5.0
"""Standard deviations by which demand passes what was expected when it is a surprise."""
_CAUTION_PER_SECOND = 1 / 240
"""Four minutes of misses add one to the caution."""
_LEAST_CAUTION, _MOST_CAUTION = 0.3, 4.0
_START_SHARE = 0.5
"""Share of a start's cost that an account must gather. Half of it, since what is gathered is expected use."""
_BEGUN = 0.001
"""Seconds of a wait for GPUs that has only begun; zero means that there is none."""
_WAKING_WEIGHT = 20.0
"""A request that waits for a cold start weighs as much as this many times its slot."""


def decide(load: Load, policy: Policy, memory: Memory, now: float) -> Decision:
    """Replicas for this model, given one look at it and what was remembered of earlier looks.

    now: seconds of any clock. Never raises. Invariants: min <= replicas <= max; replicas is 0 only if nothing
    is held, in flight, running or waiting (or max is 0); with metrics missing, or within one stabilisation
    window of an empty memory, replicas is not below what runs (max excepted).
    """
    fresh = memory.last is None
    last = now if memory.last is None else memory.last
    step = min(_LONGEST_STEP, now - last) if now > last else 0.0
    most = policy.max_replicas
    current = min(most, max(0, load.ready) + max(0, load.starting))
    before = current if fresh else memory.replicas

    asked = asked_for(load, policy, memory, step)
    seconds = load.requests.seconds if known(load.requests.seconds) else 0.0
    lead = policy.cold_start + min(seconds, policy.cold_start)
    history = observed(memory.history, asked.busy, step, lead)
    recent = asked.busy if fresh else memory.recent + step / (_RECENT + step) * (asked.busy - memory.recent)
    idle = 0.0 if asked.demand > 0 or asked.blind else memory.idle + step

    worth = _worth_of_a_replica(load, policy)
    caution, uses, surprise = memory.caution, memory.uses, memory.surprise
    terms = Terms(worth or 1.0, _START_SHARE * lead if worth else policy.window, policy.slots, most)
    accounts = opened(before, terms) if fresh else memory.accounts
    rule: Rule
    if worth:
        rule = "prices"
        outlook = Outlook(history.persistence, step / history.seconds if history.seconds > 0 else 1.0)
        accounts, uses = advanced(accounts, uses, asked.busy, step, terms, outlook)
        why = f"a busy replica saves {worth:.2f} times its price"
    else:
        rule = "target" if policy.target is not None else "waiting"
        usual = expected(history, recent)
        far = recent - usual.mean > _SURPRISE * usual.deviation
        caution, surprise = _learned(asked, history, load, policy, memory, step, lead if far else 0.0)
        mean, spread = recent if far else usual.mean, caution * usual.deviation
        needed, why = _called_for(mean, spread, recent, seconds, policy)
        # Only requests call: what is expected without any keeps replicas for a window, and wakes none.
        accounts = renewed(accounts, needed if asked.demand > 0 else 0, step, terms)
    wanted = standing(accounts, before, terms)

    if wanted < 1 and asked.here > 0:
        wanted, why, rule = 1, "requests in flight", "requests"
    elif asked.here <= 0 and max(current, before) > 0:
        called, wanted, why = wanted, *_when_idle(wanted, why, idle, bool(worth), policy)
        rule = rule if wanted == called else "idle"
    wanted = max(policy.min_replicas, min(most, wanted))
    kept = min(most, max(current, before))
    if wanted < kept and (asked.blind or memory.age + step < policy.window):
        wanted, why = kept, "kept, metrics are missing" if asked.blind else "kept for the first window"
        rule = "blind" if asked.blind else "fresh"

    seen = " when last seen" if asked.blind else ""
    replicas, short = wanted, 0.0
    if load.free_gpus is not None:
        room = max(policy.min_replicas, current + max(0, load.free_gpus) // policy.gpus_per_replica)
        if wanted > room:
            # A wait begins with the look that finds it: the seconds before, idle ones perhaps, are none of it.
            short = memory.short + step if memory.short > 0 else _BEGUN
            replicas, why = room, f"{why}; {wanted} wanted, the pool has room for {room}"
            rule = "pool"
    return Decision(
        replicas=replicas,
        why=f"{before} -> {replicas}: demand {asked.demand:.1f}{seen} at {policy.slots} per replica; {why}",
        memory=Memory(
            last=now if isfinite(now) else memory.last,
            age=memory.age + step,
            idle=idle,
            demand=asked.demand,
            queue=asked.queue,
            growth=asked.growth,
            recent=recent,
            history=history,
            caution=caution,
            surprise=surprise,
            accounts=accounts,
            uses=uses,
            replicas=replicas,
            short=short,
        ),
        wanted=wanted,
        demand=asked.demand,
        rule=rule,
        priced=bool(worth),
    )


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


def _called_for(mean: float, spread: float, recent: float, seconds: float, policy: Policy) -> tuple[int, str]:
    """Replicas that keep waiting rare when one asked for now would be ready."""
    if policy.target is not None:
        return ceil(min(policy.max_replicas, recent / policy.target)), f"aims for {policy.target:g} per replica"
    patience = policy.patience / seconds if seconds > 0 else 0.0
    needed = staffed_replicas(mean, spread, policy.slots, policy.max_replicas, patience, _MISSES)
    return needed, f"expects {mean:.1f} and covers {spread:.1f} more or less"


def _learned(
    asked: Asked, history: History, load: Load, policy: Policy, memory: Memory, step: float, begun: float
) -> tuple[float, float]:
    """The caution, and the seconds for which a surprise still counts as one; `begun`: those of one that began now."""
    # A surprise lasts for one lead time, and then until the queue that it left is gone.
    rest = step if memory.surprise > 0 and asked.queue > 0 else 0.0
    surprise = begun or max(memory.surprise - step, rest)
    if surprise or memory.age < policy.window:
        return memory.caution, surprise
    return _corrected(memory.caution, asked, history, load, policy, step), surprise


def _corrected(caution: float, asked: Asked, history: History, load: Load, policy: Policy, step: float) -> float:
    """The caution after `step` seconds: misses raise it at once, their absence lowers it slowly.

    Misses while nothing is ready, or at the maximum, say nothing about how much should be spare.
    """
    busiest = max(0, load.ready) + max(0, load.starting) >= policy.max_replicas
    if asked.blind or load.ready <= 0 or busiest or history.mean <= 0:
        return caution
    late = asked.queue * load.requests.seconds > policy.patience * load.ready * policy.slots
    missed = min(_MOST_WEIGHT, asked.busy / history.mean) if late else 0.0
    caution += _CAUTION_PER_SECOND * step * (missed - _MISSES_AIMED_AT)
    return min(_MOST_CAUTION, max(_LEAST_CAUTION, caution))


def _when_idle(wanted: int, why: str, idle: float, priced: bool, policy: Policy) -> tuple[int, str]:
    """The last replica is kept for as long as waking would cost, or as the user said."""
    patience = policy.scale_to_zero_after
    if patience is None:
        if priced:
            return wanted, why
        patience = policy.cold_start * (1 + _WAKING_WEIGHT / policy.slots)
    if idle >= patience:
        return 0, f"idle for {idle:.0f} s"
    return max(1, wanted), why if wanted > 1 else f"idle for {idle:.0f} of {patience:.0f} s"
