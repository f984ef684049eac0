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
    since: float | None
    """When the pool began to be too small for it, by any clock that all claims share; None if it is not."""


def shares(claims: Iterable[Claim], free: int) -> dict[str, int]:
    """GPUs of the pool that each model may count as free, the longest wait first, then by name.

    The sum never exceeds `free`, so models that decide at the same moment never take the same GPU. What is too
    little for a model that has waited is kept for it, or models with small replicas would starve those with
    large ones.
    """
    left = max(0, free)
    granted: dict[str, int] = {}
    for claim in sorted(claims, key=lambda claim: (claim.since is None, claim.since or 0.0, claim.name)):
        gpus = max(1, claim.gpus)
        replicas = min(max(0, claim.more), left // gpus)
        granted[claim.name] = replicas * gpus
        left -= granted[claim.name]
        if replicas < claim.more and claim.since is not None:
            left = 0
    return granted
