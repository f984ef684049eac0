"""Traces from files: CSV, `.gz` unpacked, one request per line, in any order.

Needed are when, prompt tokens and output tokens. Columns are found by the names in the header, as the published
traces of Azure/AzurePublicDataset and HPMLL/BurstGPT call them; with other names they are the first three. A time is
a number of seconds, or a date and time, with or without an offset (without one it is UTC).
"""

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ax_operator.simulate.trace import Arrival, Trace, TraceError

MOST_REQUESTS = 20_000_000
_TIME = ("timestamp", "time", "arrivaltime", "arrivedat", "starttime", "datetime")
_PROMPT = ("contexttokens", "requesttokens", "prompttokens", "inputtokens", "promptlength", "inputlength")
_OUTPUT = ("generatedtokens", "responsetokens", "outputtokens", "completiontokens", "outputlength")
_FIRST_THREE = (0, 1, 2)


def read_trace(path: Path) -> Trace:
    """Return the trace in a file. Raises TraceError."""
    try:
        found = sorted(_arrivals(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    if not found:
        raise TraceError(f"{path}: has no requests")
    first = found[0].at
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return Trace(name, tuple(each._replace(at=each.at - first) for each in found))


def _arrivals(path: Path) -> Iterator[Arrival]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as lines:
        rows = csv.reader(lines)
        columns = _FIRST_THREE
        for number, row in enumerate(rows, start=1):
            if number == 1 and not _is_request(row):
                columns = _columns(row)
            elif row:
                yield _arrival(path, number, row, columns)


def _is_request(row: Sequence[str]) -> bool:
    """Whether a first line is no header."""
    try:
        _seconds(row[0])
    except (ValueError, IndexError):
        return False
    return True


def _columns(header: Sequence[str]) -> tuple[int, int, int]:
    names = [re.sub(r"[^a-z]", "", name.lower()) for name in header]
    at, prompt, output = (
        next((names.index(name) for name in known if name in names), None) for known in (_TIME, _PROMPT, _OUTPUT)
    )
    return _FIRST_THREE if at is None or prompt is None or output is None else (at, prompt, output)


def _arrival(path: Path, number: int, row: Sequence[str], columns: tuple[int, int, int]) -> Arrival:
    try:
        at, prompt, output = (row[column] for column in columns)
        found = Arrival(_seconds(at), int(prompt), int(output))
    except (ValueError, IndexError) as error:
        line = ",".join(row)[:80]
        raise TraceError(f"{path}:{number}: expected time, prompt tokens, output tokens, not {line!r}") from error
    if found.prompt < 0 or found.output < 0 or number > MOST_REQUESTS:
        raise TraceError(f"{path}:{number}: token counts must be >= 0, lines at most {MOST_REQUESTS}")
    return found


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        when = datetime.fromisoformat(text.strip())
        value = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if not -1e12 < value < 1e12:
        raise ValueError(text)
    return value
