"""Shares out a GPU pool that has fewer GPUs than its models want: the oldest wait first."""

from collections.abc import Iterable
from typing import NamedTuple


class Claim(NamedTuple):
    """One model's wish for more replicas from a pool."""

    name: str
    more: int
    """Replicas wanted beyond those it has."""
    gpus: int
    """GPUs per replica."""
    waited: float
    """Seconds for which the pool has been too small for it (`Memory.short`)."""


def shares(claims: Iterable[Claim], free: int) -> dict[str, int]:
    """GPUs of the pool that each model may count as free, longest wait first, then by name.

    The sum never exceeds `free`, so that models deciding at the same moment do not all take the same GPUs.
    A model that cannot use what is left (its replica is larger) leaves it to the next.
    """
    left = max(0, free)
    granted: dict[str, int] = {}
    for claim in sorted(claims, key=lambda claim: (-claim.waited, claim.name)):
        replicas = min(max(0, claim.more), left // max(1, claim.gpus))
        granted[claim.name] = replicas * max(1, claim.gpus)
        left -= granted[claim.name]
    return granted
