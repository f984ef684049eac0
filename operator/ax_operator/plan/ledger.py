"""Which replicas earn their keep: a ski-rental account for every layer of demand.

Cut the demand (busy slots) into layers of one replica each. Layer k is worth a replica while serving it
elsewhere costs more than the replica does. Nobody knows how long that stays so; the account does what the
classic ski rental does. It gains while the replica would be cheaper, loses while it would be dearer, stays
within [0, full], and the replica is started when the account is full and stopped when it is empty. `full` is
what a start costs in replica-seconds. This is the work-function rule for two states: at most three times the
cost of a schedule with full knowledge, on any demand; far closer on demand that lasts.

Because a higher layer is never busier than a lower one, the accounts are ordered and the answer is a count.
"""

from typing import NamedTuple

Accounts = tuple[float, ...]

MAX_ACCOUNTS = 64
NEGLIGIBLE = 1e-4


class Terms(NamedTuple):
    """The terms on which replicas are kept."""

    worth: float
    """What serving a full layer elsewhere costs, in units of what its replica costs."""
    full: float
    """What a start costs, in replica-seconds."""
    layer: float
    """Busy slots that make one layer."""
    most: int
    """The largest number of replicas."""

    @property
    def group(self) -> int:
        """Replicas that share one account, so that a large maximum stays a bounded amount of work."""
        return max(1, -(-self.most // MAX_ACCOUNTS))


def opened(replicas: int, terms: Terms) -> Accounts:
    """Accounts as if the running replicas had just earned their keep: none stops before `full` seconds."""
    return (terms.full,) * -(-min(replicas, terms.most) // terms.group)


class Outlook(NamedTuple):
    """How a layer's use of this moment is read."""

    trust: float
    """Share of a deviation from the usual that lasts until a new replica would be ready, in [0, 1]."""
    weight: float
    """Of this moment in the usual use of a layer, in [0, 1]."""


def advanced(
    accounts: Accounts, uses: Accounts, demand: float, seconds: float, terms: Terms, outlook: Outlook
) -> tuple[Accounts, Accounts]:
    """The accounts, and the usual use of every layer, after `demand` slots were busy for `seconds`.

    Empty entries at the end are left out; the length is bounded by the demand and by `terms.most`.
    """
    worth, full, layer, most = terms
    trust, weight = outlook
    group = terms.group
    size = layer * group
    known, kept = len(uses), len(accounts)
    touched = min(-(-most // group), max(known, kept, int(min(demand / size, MAX_ACCOUNTS)) + 1))
    after, usual = [], []
    for index in range(touched):
        use = demand / size - index
        use = 1.0 if use > 1 else use if use > 0 else 0.0
        mean = uses[index] if index < known else 0.0
        mean += weight * (use - mean)
        held = accounts[index] if index < kept else 0.0
        held += (worth * (mean + trust * (use - mean)) - 1.0) * seconds
        after.append(full if held > full else held if held > 0 else 0.0)
        usual.append(mean)
    while after and after[-1] <= 0:
        after.pop()
    while usual and usual[-1] <= NEGLIGIBLE:
        usual.pop()
    return tuple(after), tuple(usual)


def renewed(accounts: Accounts, needed: int, seconds: float, terms: Terms) -> Accounts:
    """The accounts when need is not priced but called: full for the replicas needed, running down above."""
    calling = -(-min(needed, terms.most) // terms.group)
    rest = [held - seconds for held in accounts[calling:] if held > seconds]
    return (terms.full,) * calling + tuple(rest)


def standing(accounts: Accounts, running: int, terms: Terms) -> int:
    """Replicas that the accounts call for when `running` of them run now."""
    group = terms.group
    count = 0
    for index, held in enumerate(accounts):
        if held < terms.full and not (held > 0 and index * group < running):
            break
        count = index + 1
    return min(terms.most, count * group)
