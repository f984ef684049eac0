"""Tells one process from a later one with the same id."""

from pathlib import Path


def start_time(pid: int) -> str:
    """Return when a process began, in ticks since boot, or nothing if it is gone."""
    fields = _fields(pid)
    return fields[19] if fields else ""


def runs(pid: int, started: str) -> bool:
    """Tell whether the very process that had this id then still runs; a zombie does not."""
    fields = _fields(pid)
    return bool(fields) and fields[19] == started and fields[0] not in "ZX"


def _fields(pid: int) -> list[str]:
    """Return what /proc says of a process, from its state on; the name before may contain anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
