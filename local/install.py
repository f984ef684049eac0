"""Finds out what the machine lacks, installs what can be installed, and says exactly what cannot.

Only Debian and its relatives are served with packages; on others the missing programs are named. No service is
started: containerd's package would start a daemon that nobody here needs.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.errors import LocalError
from local.paths import cache_dir, locked
from local.progress import step
from local.render import Mode

PROGRAMS: dict[Mode, dict[str, str]] = {
    "control-plane": {"openssl": "openssl", "setpriv": "util-linux"},
    "node": {
        "openssl": "openssl",
        "nsenter": "util-linux",
        "ip": "iproute2",
        "nft": "nftables",
        "containerd": "containerd",
        "ctr": "containerd",
        "runc": "runc",
        "/usr/lib/cni/ptp": "containernetworking-plugins",
    },
}
"""Program (or file) → the Debian package that brings it, per mode."""
IMAGE_PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
ELSEWHERE = (
    "Any other Kubernetes serves as well: kind (https://kind.sigs.k8s.io) or k3d (https://k3d.io); "
    "point KUBECONFIG at it and install the chart with helm."
)
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
POLICY = Path("/usr/sbin/policy-rc.d")


def require(mode: Mode) -> None:
    """Make the machine able to run a cluster of this mode.

    Raises LocalError with everything that is missing at once.
    """
    problems = _lacking(mode)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise LocalError(f"This machine cannot run a local cluster of mode {mode}:{listed}\n{ELSEWHERE}")
    ensure_programs(PROGRAMS[mode])


def ensure_programs(programs: dict[str, str]) -> None:
    """Install the Debian packages of the programs that are not here."""
    missing = sorted({package for program, package in programs.items() if not _present(program)})
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LocalError(f"These packages are missing: {names}. As root on Debian: apt-get install {names}")
    with locked(cache_dir() / "locks" / "apt"), step(f"Installing Debian packages: {names}"), _no_services():
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update", "--quiet=2"],
            [
                "apt-get",
                "install",
                "--yes",
                "--quiet=2",
                "--option=DPkg::Lock::Timeout=300",
                "--no-install-recommends",
                *missing,
            ],
        ):
            done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise LocalError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    absent = [program for program in programs if not _present(program)]
    if absent:
        raise LocalError(f"After installing {names} these are still missing: {' '.join(absent)}")


def _present(program: str) -> bool:
    return shutil.which(program, path=SEARCH_PATH) is not None


def _lacking(mode: Mode) -> list[str]:
    if platform.system() != "Linux":
        return [f"Linux is needed, this is {platform.system()}"]
    if platform.machine() != "x86_64":
        return [
            f"an x86-64 processor is needed, this is {platform.machine()}: kubectl, helm and wheels are locked for it"
        ]
    if mode == "control-plane":
        return []
    problems = []
    if os.geteuid() != 0:
        problems.append("root is needed for namespaces, mounts and cgroups: run it with sudo")
    if "overlay" not in Path("/proc/filesystems").read_text().split() and not _loads("overlay"):
        problems.append("the kernel has no overlayfs (modprobe overlay failed)")
    problems += [f"the kernel has no {kind} namespaces" for kind in ("mnt", "net", "pid") if not _namespace(kind)]
    controllers = _controllers()
    lacking = [name for name in ("cpu", "memory", "pids") if name not in controllers]
    if lacking:
        problems.append(f"no cgroup controllers {', '.join(lacking)} under /sys/fs/cgroup")
    return problems


def _namespace(kind: str) -> bool:
    return Path(f"/proc/self/ns/{kind}").exists()


def _loads(module: str) -> bool:
    return subprocess.run(["modprobe", module], check=False, capture_output=True).returncode == 0


def _controllers() -> set[str]:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        return set(unified.read_text().split())
    root = Path("/sys/fs/cgroup")
    return {name for path in root.glob("*") if path.is_mount() for name in path.name.split(",")}


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting their daemons, in the way that Debian's policy layer provides."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
