"""What a machine looks like from outside a cluster, to be compared before and after."""

import subprocess
from pathlib import Path

from local.paths import state_dir
from local.record import known
from local.render import SYSCTLS

FOLDERS = ("/var/lib/cni", "/var/lib/kubelet", "/var/log/pods", "/opt/containerd", "/var/run/kubernetes", "/run/netns")


OWN = "t-"
"""How the names of the tests' clusters begin; clusters of other names may come and go meanwhile."""


def snapshot() -> dict[str, list[str]]:
    """Return everything of the host that a cluster of the tests could leave behind, by kind."""
    clusters = state_dir() / "clusters"
    foreign = {record.addresses.link for record in known() if not record.name.startswith(OWN)}
    links = {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith("axk")}
    cgroups = {path for path in Path("/sys/fs/cgroup").glob("**/axk*") if path.is_dir()}
    routes = _print("ip", "-4", "route", "show", "table", "all")
    return {
        "processes": processes(clusters / OWN),
        "mounts": sorted(Path("/proc/self/mounts").read_text().splitlines()),
        "links": sorted(links - foreign),
        "routes": [line for line in routes if " axk" in line and not foreign.intersection(line.split())],
        "rules": _print("nft", "list", "ruleset"),
        "cgroups": sorted(str(path) for path in cgroups if path.name not in foreign),
        "sysctls": [Path(f"/proc/sys/{key}").read_text() for key in SYSCTLS],
        "folders": [folder for folder in FOLDERS if Path(folder).exists()],
        "state": sorted(str(path) for path in clusters.glob(f"{OWN}*")),
    }


def processes(folder: Path) -> list[str]:
    """Return the command lines of living processes that work in a folder, or name it or one that begins so."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = str((entry / "cwd").resolve())
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if line and (where.startswith(str(folder)) or str(folder) in line):
                found.append(line)
    return sorted(found)


def _print(*command: str) -> list[str]:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:  # a machine without it has no such rules either
        return []
