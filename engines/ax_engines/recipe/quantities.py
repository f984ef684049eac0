"""Kubernetes quantities, as far as requests need them, always in the form in which the API server returns them.

An object that spells a quantity otherwise (2048Mi, 0.5) would differ from what is read back for ever.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil

_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
_DECIMAL = ("m", "", "k", "M", "G", "T", "P")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")


def cpu_cores(quantity: str) -> float | None:
    """Return the cores of a quantity such as `250m` or `2`, None for what is not an amount of CPU."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m?)", quantity)
    if match is None:
        return None
    return float(match[1]) / 1000 if match[2] else float(match[1])


def mebibytes(count: int) -> str:
    """Return a memory quantity of `count` MiB."""
    return canonical(f"{count}Mi")


def canonical(quantity: str) -> str:
    """Return a quantity as the API server writes it: a whole number with the largest suffix that loses nothing.

    What is no quantity is returned as it is, for the API server to refuse.
    """
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        return quantity
    number, suffix = Fraction(match[1]), match[2] or ""
    units: tuple[str, ...]
    if suffix.endswith("i"):
        value, units, base = ceil(number * 1024 ** _BINARY.index(suffix)), _BINARY, 1024
        if value < base:  # too small for a binary suffix
            value, units, base = value * 1000, _DECIMAL, 1000
    else:
        value, units, base = ceil(number * 1000 ** _DECIMAL.index(suffix)), _DECIMAL, 1000
    power = 0
    while value and value % base == 0 and power + 1 < len(units):
        value, power = value // base, power + 1
    return f"{value}{units[power]}" if value else "0"
