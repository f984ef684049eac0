"""What a node leaves on the host while it lives: one link, one route, one cgroup per hierarchy."""

import json
import subprocess
import time
from pathlib import Path

from local.address import Addresses
from local.errors import LocalError

CGROUPS = Path("/sys/fs/cgroup")
V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")


def links() -> set[str]:
    """Return the names of the machine's links."""
    return {path.name for path in Path("/sys/class/net").iterdir()}


def routes() -> list[str]:
    """Return the destinations of every route of the machine, in all tables."""
    printed = _ip("-json", "-4", "route", "show", "table", "all")
    return [route["dst"] for route in json.loads(printed or "[]") if "dst" in route]


def connect(addresses: Addresses, pid: int) -> None:
    """Create the veth pair between the host and a process's network namespace, and the route to its network."""
    _ip("link", "add", addresses.link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("address", "add", f"{addresses.host_ip}/30", "dev", addresses.link)
    _ip("link", "set", addresses.link, "up")
    _ip("route", "add", addresses.network, "via", addresses.node_ip, "dev", addresses.link)


def inner_network(addresses: Addresses) -> list[list[str]]:
    """Return the commands that PID 1 runs to finish its end.

    There is no default route: what pods send elsewhere is refused at once. Only what the node itself sends to a
    Service needs a route to it, because it is translated after the first routing decision.
    """
    return [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{addresses.node_ip}/30", "dev", "eth0"],
        ["ip", "link", "set", "eth0", "up"],
        ["ip", "route", "add", addresses.services, "via", addresses.host_ip, "dev", "eth0", "table", "100"],
        ["ip", "rule", "add", "iif", "lo", "lookup", "100"],
    ]


def disconnect(addresses: Addresses) -> None:
    """Remove the link, and with it the route, if the kernel has not yet."""
    if addresses.link in links():
        subprocess.run(["ip", "link", "delete", addresses.link], check=False, capture_output=True)
    if addresses.link in links():
        raise LocalError(f"link {addresses.link} could not be removed; try: ip link delete {addresses.link}")


def make_cgroups(addresses: Addresses) -> list[str]:
    """Create the cluster's cgroups; return the controllers that had to be switched on at the root (v2 only)."""
    if (CGROUPS / "cgroup.controllers").exists():
        control = CGROUPS / "cgroup.subtree_control"
        have = set((CGROUPS / "cgroup.controllers").read_text().split())
        missing = [name for name in V2_CONTROLLERS if name in have - set(control.read_text().split())]
        if missing:
            _switch_on(control, missing)
        (CGROUPS / addresses.cgroup).mkdir(exist_ok=True)
        return missing
    for hierarchy in CGROUPS.iterdir():
        if hierarchy.is_mount():
            (hierarchy / addresses.cgroup).mkdir(exist_ok=True)
    for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, and then nothing may enter it
        parent = CGROUPS / "cpuset" / setting
        (parent.parent / addresses.cgroup / setting).write_text(parent.read_text())
    return []


def _switch_on(control: Path, controllers: list[str]) -> None:
    try:
        control.write_text(" ".join(f"+{name}" for name in controllers))
    except OSError as error:
        raise LocalError(
            f"cgroup controllers {', '.join(controllers)} cannot be switched on in {control} ({error.strerror}); "
            "in a container this needs its processes moved out of the root cgroup: run it on the host, or use kind"
        ) from error


def remove_cgroups(addresses: Addresses, switched_on: list[str], seconds: float = 20) -> None:
    """Remove the cluster's cgroups once their processes are gone, and switch off what was switched on."""
    deadline = time.monotonic() + seconds
    while left := [path for path in _cgroups(addresses) if not _removed(path)]:
        if time.monotonic() > deadline:
            raise LocalError(f"cgroup {left[0]} is still in use; see its cgroup.procs")
        time.sleep(0.05)
    if switched_on:
        control = CGROUPS / "cgroup.subtree_control"
        try:
            control.write_text(" ".join(f"-{name}" for name in switched_on))
        except OSError:  # another cgroup uses them by now, and then they are its own
            return


def _cgroups(addresses: Addresses) -> list[Path]:
    return [path for path in (CGROUPS / addresses.cgroup, *CGROUPS.glob(f"*/{addresses.cgroup}")) if path.is_dir()]


def _removed(root: Path) -> bool:
    """Remove a tree of cgroups from its leaves up; False if a process still holds one."""
    inner = [path for path in root.rglob("*") if path.is_dir()]
    for path in (*sorted(inner, key=lambda found: -len(found.parts)), root):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _ip(*arguments: str) -> str:
    try:
        return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        raise LocalError(f"ip {' '.join(arguments)} failed: {error.stderr.strip()}") from error
