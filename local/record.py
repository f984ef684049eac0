"""What is known of a cluster between two commands, as one JSON file in its state folder."""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from local.address import Addresses
from local.errors import LocalError
from local.paths import cluster_dir, state_dir
from local.process import runs, start_time
from local.render import Mode


@dataclass(frozen=True)
class Record:
    """One cluster; `pid` is its supervisor, told apart from a later process of the same id by `started`."""

    name: str
    mode: Mode
    kwok: bool
    index: int
    port: int
    pid: int = 0
    started: str = ""
    boot: str = ""
    controllers: tuple[str, ...] = ()
    """cgroup controllers that were switched on for it (v2 only)."""

    @property
    def addresses(self) -> Addresses:
        """What the cluster occupies on the host."""
        return Addresses(self.index)

    @property
    def folder(self) -> Path:
        """The cluster's state folder."""
        return cluster_dir(self.name)

    def alive(self) -> bool:
        """Tell whether the supervisor runs: same process, same boot."""
        return self.pid > 0 and self.boot == boot_id() and runs(self.pid, self.started)

    def with_supervisor(self, pid: int) -> "Record":
        """Return the record with the supervisor's identity noted."""
        return replace(self, pid=pid, started=start_time(pid), boot=boot_id())

    def save(self) -> None:
        """Write the record; a reader sees the old one or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self.folder / ".record.partial"
        partial.write_text(json.dumps(asdict(self), indent=1))
        partial.rename(self.folder / "record.json")


def read(name: str) -> Record | None:
    """Return the record of a cluster, or None if there is no such cluster."""
    try:
        fields = json.loads((cluster_dir(name) / "record.json").read_text())
    except FileNotFoundError:
        return None
    return Record(**{**fields, "controllers": tuple(fields["controllers"])})


def known() -> list[Record]:
    """Return the records of all clusters, living or crashed, by name."""
    folders = sorted((state_dir() / "clusters").glob("*/record.json"))
    found = (read(path.parent.name) for path in folders)
    return [record for record in found if record is not None]


def boot_id() -> str:
    """Return what is different after every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def end(pid: int, started: str, seconds: float = 30) -> None:
    """Kill one process that we started, if it still is that one, and wait until it is gone."""
    deadline = time.monotonic() + seconds
    while runs(pid, started):
        os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LocalError(f"process {pid} does not end; it may wait for a disk")
        time.sleep(0.02)
