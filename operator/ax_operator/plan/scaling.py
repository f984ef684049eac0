"""What the autoscaler is told, what it must obey, what it remembers and what it answers.

`autoscale.decide` maps these onto each other. Units: requests, slots, seconds, KRW. Every type takes any
numbers: what a measurement got wrong (NaN, infinite, negative) counts as unknown, and what a user got wrong is
put right once, here, by the rule that each field states.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil, isfinite, isnan
from typing import Any, Literal, TypeGuard

from ax_operator.plan.forecast import CELLS_PER_LEAD, NO_HISTORY, History
from ax_operator.plan.ledger import MAX_ACCOUNTS, Accounts

DEFAULT_COLD_START = 120.0
LONGEST_COLD_START = 7200.0
MOST_REPLICAS = 10_000


MOST_BELIEVED = 1e12
"""No gauge, price or span is larger; a number that is, is a mistake."""


def known(value: float) -> bool:
    """True for a number that a gauge can honestly show: not negative, and within belief."""
    return 0 <= value <= MOST_BELIEVED


@dataclass(frozen=True, slots=True)
class Requests:
    """The mean request of a model, as measured lately; any field that is not positive means not known."""

    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    seconds: float = 0.0
    """Seconds for which a request keeps its slot (without waiting)."""


@dataclass(frozen=True, slots=True)
class Load:
    """One look at a model: the pods' own gauges, the gateways' counts, its replicas and its GPU pool."""

    running: float = 0.0
    """Requests in slots, summed over the pods that answered."""
    waiting: float = 0.0
    """Requests queued in the pods that answered."""
    held: float = 0.0
    """Requests that gateways hold because no endpoint is ready."""
    in_flight: float = 0.0
    """Requests that gateways have sent to this model's pods and that have not ended."""
    overflowed: float = 0.0
    """Requests now at the hosted API only because there was no room here."""
    ready: int = 0
    starting: int = 0
    """Replicas asked for that are not ready, pods without a GPU included."""
    pods_known: int = 0
    pods_answered: int = 0
    metrics_age: float = 0.0
    """Seconds since gateways and a majority of the pods last answered."""
    free_gpus: int | None = None
    """GPUs of the pool that nobody uses or waits for; None when not known, which limits nothing."""
    requests: Requests = Requests()


@dataclass(frozen=True, slots=True)
class Prices:
    """What a GPU and the hosted API cost, in KRW; any field that is not positive makes the rule inactive."""

    gpu_hour: float
    hosted_input: float
    """Per million prompt tokens."""
    hosted_output: float
    """Per million output tokens."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user and the engine fix. Contradictions are settled on construction, in favour of fewer GPUs."""

    min_replicas: int = 0
    """Lowered to max_replicas if it is above."""
    max_replicas: int = 1
    slots: int = 8
    """Requests that one replica serves at once (the engine's own limit)."""
    target: float | None = None
    """Requests per replica to aim for, instead of staffing by waiting time; ignored unless in (0, slots]."""
    scale_to_zero_after: float | None = None
    """Idle seconds before zero; None lets the cold start decide."""
    cold_start: float = DEFAULT_COLD_START
    """Measured seconds from asking for a replica until it serves."""
    stabilisation: float | None = None
    """Seconds for which a need must be gone before a replica goes; None follows the cold start."""
    patience: float = 2.0
    """Seconds that a request may wait (the SLO)."""
    gpus_per_replica: int = 1
    hosted: bool = False
    """The hosted API may serve now (policy, residency and daily budget allow it)."""
    prices: Prices | None = None

    def __post_init__(self) -> None:
        most = _whole(self.max_replicas, 0, MOST_REPLICAS)
        settle = object.__setattr__
        settle(self, "max_replicas", most)
        settle(self, "min_replicas", _whole(self.min_replicas, 0, most))
        settle(self, "slots", _whole(self.slots, 1, 1_000_000))
        settle(self, "gpus_per_replica", _whole(self.gpus_per_replica, 1, 4096))
        settle(self, "target", self.target if self.target and 0 < self.target <= self.slots else None)
        usable = known(self.cold_start) and self.cold_start > 0
        settle(self, "cold_start", min(self.cold_start, LONGEST_COLD_START) if usable else DEFAULT_COLD_START)
        settle(self, "patience", self.patience if known(self.patience) else 0.0)
        window = self.stabilisation
        if window is None or not known(window):
            window = min(900.0, max(60.0, 2 * self.cold_start))
        settle(self, "stabilisation", window)
        if self.scale_to_zero_after is not None and not known(self.scale_to_zero_after):
            settle(self, "scale_to_zero_after", None)

    @property
    def window(self) -> float:
        """Seconds of stabilisation, whoever chose them."""
        return self.stabilisation or 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """All that is carried from one decision to the next; starts empty, stays under two kilobytes as JSON.

    Spans are counted on an own clock that never runs backwards and never leaps, so that a wall clock that
    jumps can neither stop nor hasten a decision.
    """

    last: float | None = None
    """Wall clock of the previous decision."""
    age: float = 0.0
    """Own clock: seconds observed since this memory began."""
    idle: float = 0.0
    """Seconds without a request, up to now."""
    demand: float = 0.0
    """The last demand known."""
    queue: float = 0.0
    """The last queue known: demand that no slot here had room for."""
    growth: float = 0.0
    """Exponential mean of what the queue grew by per second."""
    recent: float = 0.0
    """Mean of the offered load over the last seconds."""
    history: History = NO_HISTORY
    caution: float = 0.85
    """Factor on the spread that spare capacity covers, learned from misses; begins below one, since whole replicas
    round up."""
    surprise: float = 0.0
    """Seconds for which demand far beyond all that was expected still counts as a surprise."""
    accounts: Accounts = ()
    uses: Accounts = ()
    """The usual use of every layer of demand, in [0, 1]."""
    replicas: int = 0
    """The last answer."""
    short: float = 0.0
    """Seconds for which the pool has been too small; pools are shared out by it, longest first."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        lists = {"accounts": list(self.accounts), "uses": list(self.uses)}
        history = [*self.history[:-1], list(self.history.past)]
        return {each.name: getattr(self, each.name) for each in fields(self)} | lists | {"history": history}

    @classmethod
    def from_json(cls, stored: object) -> "Memory":
        """The memory that `to_json` wrote, or an empty one for anything else (a safe start: see `decide`)."""
        if not isinstance(stored, Mapping):
            return cls()
        values: dict[str, Any] = {each.name: stored.get(each.name) for each in fields(cls)}
        history, accounts, uses = (values.pop(name) for name in ("history", "accounts", "uses"))
        if not (_are_numbers(accounts, MAX_ACCOUNTS) and _are_numbers(uses, MAX_ACCOUNTS)):
            return cls()
        if (
            not isinstance(history, list)
            or len(history) != len(NO_HISTORY)
            or not _are_numbers(history[-1], CELLS_PER_LEAD)
        ):
            return cls()
        signed = [values.pop("growth"), history[7], 0 if values["last"] is None else values["last"]]
        rest = [*history[:7], *(value for name, value in values.items() if name != "last")]
        if not (_are_numbers(signed, len(signed), signed=True) and _are_numbers(rest, len(rest))):
            return cls()
        return cls(
            **values,
            growth=signed[0],
            history=History._make([*history[:-1], tuple(history[-1])]),
            accounts=tuple(accounts),
            uses=tuple(uses),
        )


Rule = Literal["prices", "waiting", "target", "requests", "idle", "blind", "fresh", "pool"]
"""What settled a decision: prices, waiting time or the user's target; requests in flight against zero; idleness;
missing metrics or a fresh start against shrinking; the size of the pool."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, why, and what to remember."""

    replicas: int
    why: str
    """One line, for status and for people."""
    memory: Memory
    wanted: int
    """What would be asked for if the GPU pool were large enough; at least `replicas`."""
    demand: float
    """Requests that want a slot now; the signal that is exported for HPA and KEDA."""
    rule: Rule
    """`why` as one word of a closed set, for metrics."""
    priced: bool = False
    """The cost rule took part. False with `hosted` means a price or the mean request is missing."""


def _whole(value: float, low: int, high: int) -> int:
    if isnan(value) or value <= low:
        return low
    return high if value >= high else ceil(value)


def _are_numbers(values: object, most: int, *, signed: bool = False) -> TypeGuard[list[float]]:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        and all(isfinite(value) and (signed or value >= 0) for value in values)
    )
