"""The supervisor of one cluster: starts every component, restarts what ends, and reaps orphans.

Run as `python -m local.node <state folder>`. It forks, prints the child's process id for the caller and ends;
the child waits for a line on stdin, so that a caller who died before noting the id leaves nothing behind. In
mode `node` the child is PID 1 of new mount, network and process namespaces: when it dies, the kernel ends every
process, mount, link, route and nftables table in them. In mode `control-plane` there are no namespaces; each
component is killed by the kernel when the supervisor is gone.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from local.api import Api
from local.process import start_time

CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x00020000, 0x40000000, 0x20000000
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 4096, 16384, 1 << 18, 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Start the supervisor of the cluster whose state folder is the first argument."""
    os.chdir(sys.argv[1])
    plan = json.loads(Path("plan.json").read_text())
    if plan["namespaces"]:
        _call(LIBC.unshare, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID)
    child = os.fork()
    if child:
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()
    if sys.stdin.readline() != "go\n":
        return
    if plan["namespaces"]:
        _prepare_node(plan)
    _supervise(plan)


def _call(function: Any, *arguments: Any) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), function.__name__)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call(LIBC.mount, source.encode(), target.encode(), kind.encode(), flags, data.encode())


def _prepare_node(plan: dict[str, Any]) -> None:
    """Hide what components would write to on the host, then configure the only link."""
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("proc", "/proc", "proc", 0)
    for folder in ("/run", "/var/log"):
        _mount("tmpfs", folder, "tmpfs", 0)
    for folder in ("/run/netns", "/run/containerd", "/run/upper", "/run/work", "/run/sys", "/run/lock"):
        Path(folder).mkdir()
    # The CNI library keeps its cache there and cannot be told otherwise.
    _mount("overlay", "/var/lib", "overlay", 0, "lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work")
    for key, value in plan["sysctls"].items():
        shown = Path("/run/sys") / key.replace("/", ".")
        shown.write_text(value + "\n")
        _mount(str(shown), f"/proc/sys/{key}", "", MS_BIND)
    _mount("none", "/", "", MS_REC | MS_SHARED)
    for command in plan["network"]:
        subprocess.run(command, check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    # Every refusal is sent; by default only one per second and destination is, and the rest wait in vain.
    Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0\n")


def _supervise(plan: dict[str, Any]) -> None:
    running: dict[int, dict[str, Any]] = {}
    for component in plan["components"]:
        if not component["after_api"]:
            _start(component, plan, running)
    api = Api(plan["server"], Path.cwd())
    while not api.ready():
        _collect(running, plan, os.WNOHANG)
        time.sleep(0.05)
    for component in plan["components"]:
        if component["after_api"]:
            _start(component, plan, running)
    while True:
        _collect(running, plan, 0)


def _start(component: dict[str, Any], plan: dict[str, Any], running: dict[int, dict[str, Any]]) -> None:
    argv = component["argv"]
    if not plan["namespaces"]:
        argv = ["setpriv", "--pdeathsig", "KILL", *argv]
    log = os.open(f"log/{component['name']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    quiet = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    outputs = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    pid = os.posix_spawnp(argv[0], argv, plan["environment"], file_actions=quiet + outputs)
    os.close(log)
    running[pid] = component
    note = Path("pids.json")
    partial = note.with_suffix(".partial")
    partial.write_text(json.dumps([[pid, start_time(pid)] for pid in running]))
    partial.rename(note)


def _collect(running: dict[int, dict[str, Any]], plan: dict[str, Any], flags: int) -> None:
    """Reap one ended process; a component is started again after a second."""
    pid, status = os.waitpid(-1, flags)
    component = running.pop(pid, None)
    if component is not None:
        sys.stderr.write(f"{component['name']} ended, status={os.waitstatus_to_exitcode(status)}\n")
        time.sleep(1)
        _start(component, plan, running)


if __name__ == "__main__":
    main()
