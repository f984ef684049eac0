"""A local cluster as the demo and the tests see it.

with Cluster.up(name="e2e", mode="node", kwok=True) as cluster:
    cluster.kubectl("apply", "-f", "-", input=manifests)
"""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from local import lifecycle, record, store
from local.api import Api
from local.binaries import client
from local.errors import LocalError
from local.kwok import GpuNode, node_manifest
from local.pause import pause_archive
from local.progress import step
from local.record import Record
from local.render import PROXY_HEALTH_PORT, Mode

NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")
PATIENCE_S = 180.0


class Cluster:
    """A living cluster. `with` takes it down at the end of the block."""

    def __init__(self, found: Record) -> None:
        self._record = found

    @classmethod
    def up(cls, name: str = "demo", mode: Mode = "node", kwok: bool = False) -> "Cluster":
        """Return the cluster of this name, started if need be; blocks until it can be used.

        Used means: the API server is ready and the default ServiceAccount exists; in mode `node` also the node
        is Ready and names resolve. A crashed cluster of this name is cleared away first. Raises LocalError
        where it cannot start, or where it runs already in another mode or without the kwok that is asked for.
        """
        if not NAME.fullmatch(name):
            raise LocalError(f"{name!r} is no cluster name: at most 20 lower-case letters, digits and dashes")
        with lifecycle.alone(name):
            found = record.read(name)
            if found is not None and found.alive():
                _same(found, mode, kwok)
                cluster = cls(found)
                cluster._wait("Finding")
                return cluster
            if found is not None:
                lifecycle.stop(found)
            try:
                cluster = cls(lifecycle.start(name, mode, kwok))
                cluster._wait("Starting")
            except BaseException:
                broken = record.read(name)
                if broken is not None:
                    lifecycle.stop(broken)
                raise
            return cluster

    @classmethod
    def find(cls, name: str = "demo") -> "Cluster | None":
        """Return the living cluster of this name, if there is one."""
        found = record.read(name)
        return cls(found) if found is not None and found.alive() else None

    def down(self) -> None:
        """Take the cluster down; nothing of it is left but what is cached."""
        take_down(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._record.name

    @property
    def mode(self) -> Mode:
        """Whether it has a node."""
        return self._record.mode

    @property
    def kwok(self) -> bool:
        """Whether it can have simulated nodes."""
        return self._record.kwok

    @property
    def folder(self) -> Path:
        """The state folder; the components' logs are in `log/`."""
        return self._record.folder

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def server(self) -> str:
        """The API server's URL."""
        config = json.loads(self.kubeconfig.read_text())
        return str(config["clusters"][0]["cluster"]["server"])

    @property
    def node_ip(self) -> str:
        """Address of the real node; pods and Services have routes from the host too."""
        return self._record.addresses.node_ip

    @property
    def node(self) -> str:
        """Name of the real node."""
        return f"{self.name}-node"

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        """Run kubectl as administrator and return what it prints on stdout."""
        return self._run([str(client("kubectl")), *arguments], input, check)

    def helm(self, *arguments: str) -> str:
        """Run helm as administrator and return what it prints on stdout."""
        return self._run([str(client("helm")), *arguments], None, True)

    def environment(self) -> dict[str, str]:
        """Return the variables with which any client reaches this cluster and no proxy does."""
        own = {"KUBECONFIG": str(self.kubeconfig), "NO_PROXY": "*", "no_proxy": "*"}
        caches = ("KUBECACHEDIR", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        return os.environ | own | {name: str(self.folder / "clients") for name in caches}

    def load_images(self, images: Sequence[Path]) -> None:
        """Import the images that the node has not: OCI layouts of `images.build_all`, or docker archives."""
        store.load(self._record, images)

    def has_image(self, reference: str) -> bool:
        """Tell whether the node has an image of this reference."""
        return reference in store.references(self._record)

    def add_fake_gpu_nodes(self, nodes: Sequence[GpuNode]) -> None:
        """Add simulated GPU nodes and wait until they are Ready; needs `kwok`."""
        if not self._record.kwok:
            raise LocalError(f"Cluster {self.name} runs without kwok; start it with kwok=True (--kwok)")
        items = [node_manifest(node) for node in nodes]
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        names = [f"node/{node['name']}" for node in nodes]
        self.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *names)

    def _run(self, command: list[str], text: str | None, check: bool) -> str:
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=self.environment(), check=False)
        if check and done.returncode:
            shown = " ".join([Path(command[0]).name.split("-")[0], *command[1:]])
            raise LocalError(f"{shown} failed ({done.returncode}): {done.stderr.strip()}")
        return done.stdout

    def _wait(self, doing: str) -> None:
        api = Api(self.server, self.folder)
        waits: list[tuple[str, Callable[[], bool]]] = [("API server", api.ready)]
        waits.append(
            ("default ServiceAccount", lambda: _exists(api, "/api/v1/namespaces/default/serviceaccounts/default"))
        )
        waits.append(("storage class", lambda: _exists(api, "/apis/storage.k8s.io/v1/storageclasses/memory")))
        if self.mode == "node":
            waits.append(("node", lambda: self._node_ready(api)))
            waits.append(("Service rules", lambda: self._answers(PROXY_HEALTH_PORT)))
            waits.append(("DNS", lambda: self._answers(53)))
        with step(f"{doing} cluster {self.name} ({self.mode})") as running:
            deadline = time.monotonic() + PATIENCE_S
            for what, answer in waits:
                running.at(f"waiting for the {what}")
                while not answer():
                    if not self._record.alive():
                        raise LocalError(f"Cluster {self.name} ended while starting:\n{self._last_words()}")
                    if time.monotonic() > deadline:
                        raise LocalError(f"No {what} after {PATIENCE_S:.0f} s:\n{self._last_words()}")
                    time.sleep(0.05)
            running.at("")
        if self.mode == "node":
            self.load_images([pause_archive()])

    def _node_ready(self, api: Api) -> bool:
        found = api.get(f"/api/v1/nodes/{self.node}")
        conditions = found["status"].get("conditions", []) if found else []
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def _answers(self, port: int) -> bool:
        try:
            socket.create_connection((self.node_ip, port), timeout=1).close()
        except OSError:
            return False
        return True

    def _last_words(self) -> str:
        logs = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(f"{log.name}: {''.join(log.read_text(errors='replace')[-400:])}" for log in logs)


def take_down(name: str) -> bool:
    """Take down what is left of a cluster, living or crashed; False if there is nothing of that name."""
    with lifecycle.alone(name):
        found = record.read(name)
        if found is None:
            return False
        with step(f"Taking down cluster {name}"):
            lifecycle.stop(found)
        return True


def _exists(api: Api, path: str) -> bool:
    return api.get(path) is not None


def _same(found: Record, mode: Mode, kwok: bool) -> None:
    if found.mode != mode:
        raise LocalError(f"Cluster {found.name} runs in mode {found.mode}; take it down first, or use another name")
    if kwok and not found.kwok:
        raise LocalError(f"Cluster {found.name} runs without kwok; take it down first, or use another name")
