"""Brings a cluster up and takes it down.

Whatever is created is written down first, so that `stop` clears away a cluster at any point of its life: while
it starts, after a crash of anything in it, after a reboot.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from local import host, pki, record, render
from local.address import free_index
from local.binaries import COREDNS, HYPERKUBE, KWOK, client, go_program
from local.errors import LocalError
from local.install import SEARCH_PATH, require
from local.kwok import STAGES
from local.paths import ROOT, cache_dir, locked
from local.pause import pause_archive
from local.record import Record
from local.render import Layout, Mode

HIDDEN = ("/run", "/var/log", "/var/lib")
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Keep two commands from working on one cluster at a time."""
    with locked(cache_dir() / "locks" / f"cluster-{name}"):
        yield


def prepare(mode: Mode, kwok: bool) -> dict[str, Path]:
    """Install or build whatever a cluster of this mode needs; return its components' programs by name."""
    require(mode)
    client("kubectl")
    programs = {component: go_program(HYPERKUBE) for component in COMPONENTS}
    if mode == "node":
        programs["coredns"] = go_program(COREDNS)
        pause_archive()
    if kwok:
        programs["kwok"] = go_program(KWOK)
    return programs


def start(name: str, mode: Mode, kwok: bool) -> Record:
    """Start a cluster that does not exist and return its record; the API server is not ready yet."""
    binaries = prepare(mode, kwok)
    claimed = _claim(name, mode, kwok)
    layout = _layout(claimed)
    _refuse_hidden(layout)
    _write_files(layout, binaries)
    if mode == "node":
        claimed = replace(claimed, controllers=tuple(host.make_cgroups(claimed.addresses)))
        claimed.save()
    return _launch(claimed)


def stop(found: Record) -> None:
    """Take a cluster down, whatever is left of it."""
    if found.alive():
        record.end(found.pid, found.started)
    for pid, started in _children(found):
        record.end(pid, started)
    if found.mode == "node":
        host.disconnect(found.addresses)
        host.remove_cgroups(found.addresses, list(found.controllers))
    if found.folder.exists():
        shutil.rmtree(found.folder)


def images_root(index: int) -> Path:
    """Return containerd's root for the cluster with this index; only one living cluster has it."""
    return cache_dir() / "containerd" / str(index)


def _claim(name: str, mode: Mode, kwok: bool) -> Record:
    with locked(cache_dir() / "locks" / "indices"):
        taken = {other.index for other in record.known()}
        index = free_index(taken, *_machine(mode))
        if index is None:
            raise LocalError("No network is free for one more cluster; see `python -m local status`")
        claimed = Record(name, mode, kwok, index, 6443 if mode == "node" else _free_port())
        claimed.save()
        return claimed


def _machine(mode: Mode) -> tuple[set[str], list[str]]:
    return (host.links(), host.routes()) if mode == "node" else (set(), [])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _layout(claimed: Record) -> Layout:
    return Layout(
        name=claimed.name,
        mode=claimed.mode,
        kwok=claimed.kwok,
        addresses=claimed.addresses,
        port=claimed.port,
        folder=str(claimed.folder),
        images=str(images_root(claimed.index)),
        python=sys.executable,
    )


def _refuse_hidden(layout: Layout) -> None:
    for path in (layout.folder, layout.images):
        if layout.mode == "node" and path.startswith(tuple(f"{hidden}/" for hidden in HIDDEN)):
            raise LocalError(
                f"{path} lies under a folder that the node hides ({', '.join(HIDDEN)}): "
                "set XDG_STATE_HOME and XDG_CACHE_HOME to another place"
            )


def _write_files(layout: Layout, binaries: dict[str, Path]) -> None:
    folder = Path(layout.folder)
    for inner in ("bin", "log", "scratch", "volumes", "cni", "flex", "kubelet"):
        (folder / inner).mkdir(exist_ok=True)
    for name, program in binaries.items():
        (folder / "bin" / name).symlink_to(program)
    names = ["localhost", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "kubernetes.default"]
    keys = folder / "pki"
    pki.make_authority(keys)
    hosts = (*names, layout.api_host, layout.addresses.api_service_ip)
    pki.issue(keys, "apiserver", "/CN=kube-apiserver", hosts)
    pki.issue(keys, "admin", "/O=system:masters/CN=admin")
    _private(folder / "admin.kubeconfig", pki.kubeconfig(keys, "admin", layout.server))
    if layout.mode == "node":
        user = f"/O=system:nodes/CN=system:node:{layout.node}"
        pki.issue(keys, "node", user, (layout.node, layout.addresses.node_ip))
        _private(folder / "node.kubeconfig", pki.kubeconfig(keys, "node", layout.server))
        (folder / "kubelet.json").write_text(render.kubelet_config(layout))
        (folder / "proxy.json").write_text(render.proxy_config(layout))
        (folder / "containerd.toml").write_text(render.containerd_config(layout))
        (folder / "cni" / "10-pods.conflist").write_text(render.pod_network(layout))
        (folder / "Corefile").write_text(render.corefile(layout))
        (folder / "resolv.conf").write_text(f"nameserver {layout.addresses.node_ip}\n")
        Path(layout.images).mkdir(parents=True, exist_ok=True)
    if layout.kwok:
        (folder / "kwok.yaml").write_text(STAGES)
    plan = {
        "namespaces": layout.mode == "node",
        "server": layout.server,
        "sysctls": render.SYSCTLS,
        "network": host.inner_network(layout.addresses),
        "components": [asdict(component) for component in render.components(layout)],
        "environment": {
            "PATH": SEARCH_PATH,
            "HOME": layout.folder,
            "TMPDIR": str(folder / "scratch"),
            "NO_PROXY": "*",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    }
    (folder / "plan.json").write_text(json.dumps(plan, indent=1))


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _launch(claimed: Record) -> Record:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (claimed.folder / "log" / "supervisor.log").open("w") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "local.node", str(claimed.folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True,
        )  # fmt: skip
    with launcher:
        assert launcher.stdin is not None  # noqa: S101  for the type checker: PIPE was asked for
        assert launcher.stdout is not None  # noqa: S101
        pid = launcher.stdout.readline().strip()
        if not pid:
            raise LocalError(f"The supervisor did not start; see {claimed.folder}/log/supervisor.log")
        running = claimed.with_supervisor(int(pid))
        running.save()
        if running.mode == "node":
            host.connect(running.addresses, running.pid)
        launcher.stdin.write("go\n")
    return running


def _children(found: Record) -> list[tuple[int, str]]:
    """Return the components that the supervisor noted; inside a namespace their ids mean nothing here."""
    note = found.folder / "pids.json"
    if found.mode == "node" or found.boot != record.boot_id() or not note.exists():
        return []
    return [(pid, started) for pid, started in json.loads(note.read_text())]
