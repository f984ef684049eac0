"""A real node: restricted pods, volumes, images, addresses that the host reaches, and nothing left behind."""

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import Cluster, images, record
from tests.local.host_snapshot import processes, snapshot

pytestmark = pytest.mark.e2e
MANIFESTS = """
apiVersion: v1
kind: Namespace
metadata: {name: team, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ax-engines, namespace: team}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: small, namespace: team}
spec: {accessModes: [ReadWriteOnce], storageClassName: memory, resources: {requests: {storage: 8Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: team}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: team, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  containers:
  - name: web
    image: IMAGE
    imagePullPolicy: Never
    command: [sh, -c, "echo hello > /store/index.html && exec python3 -m http.server --directory /store 8000"]
    readinessProbe: {httpGet: {path: /, port: 8000}, periodSeconds: 1}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts: [{name: store, mountPath: /store}, {name: small, mountPath: /small}]
  volumes:
  - {name: store, persistentVolumeClaim: {claimName: ax-engines}}
  - {name: small, persistentVolumeClaim: {claimName: small}}
"""


@pytest.fixture(scope="module")
def before() -> dict[str, list[str]]:
    return snapshot()


@pytest.fixture(scope="module")
def cluster(before: dict[str, list[str]]) -> Iterator[Cluster]:
    assert before["sysctls"]
    with Cluster.up(name="t-node", mode="node") as running:
        yield running


@pytest.fixture(scope="module")
def team(cluster: Cluster) -> Cluster:
    """Return the cluster with a restricted pod that serves a file from a volume."""
    cluster.load_images([images.build_all(["ax-engines"])["ax-engines"]])
    reference = images.reference("ax-engines")
    assert cluster.has_image(reference)
    assert not cluster.has_image("localhost/nothing:1")
    cluster.kubectl("apply", "-f", "-", input=MANIFESTS.replace("IMAGE", reference))
    cluster.kubectl("wait", "--namespace=team", "--for=condition=Ready", "pod/web", "--timeout=120s")
    return cluster


def fetch(address: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/", timeout=10) as answer:
        return str(answer.read().decode())


def reachable(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def inside(cluster: Cluster, *command: str, check: bool = True) -> str:
    return cluster.kubectl("exec", "--namespace=team", "web", "--", *command, check=check)


def test_a_restricted_pod_answers_the_host(team: Cluster) -> None:
    pod = team.kubectl("get", "pod", "web", "-n", "team", "-o", "jsonpath={.status.podIP}")
    service = team.kubectl("get", "service", "web", "-n", "team", "-o", "jsonpath={.spec.clusterIP}")
    assert fetch(f"{pod}:8000") == "hello\n"
    deadline = time.monotonic() + 30
    while not reachable(service, 80):  # the node's rules follow a Service's endpoints a moment later
        assert time.monotonic() < deadline, f"nobody answers at {service}"
        time.sleep(0.05)
    assert fetch(service) == "hello\n"


def test_exec_logs_and_names_work(team: Cluster) -> None:
    assert "GET /" in team.kubectl("logs", "--namespace=team", "web")
    assert inside(team, "id", "-u") == "65532\n"
    ask = "import urllib.request; print(urllib.request.urlopen('http://web.team.svc.cluster.local').read().decode())"
    assert inside(team, "python3", "-c", ask).strip() == "hello"


def test_the_outside_is_refused_at_once(team: Cluster) -> None:
    name = "import socket\ntry: socket.getaddrinfo('example.com', 80)\nexcept socket.gaierror: print('unknown')"
    assert inside(team, "python3", "-c", name) == "unknown\n"
    address = (
        "import socket\ntry: socket.create_connection(('192.0.2.99', 80), 30)\n"
        "except TimeoutError: print('waited')\nexcept OSError: print('refused')"
    )
    assert inside(team, "python3", "-c", address) == "refused\n"


def test_a_small_volume_is_full_when_it_is(team: Cluster) -> None:
    write = "import errno\ntry: open('/small/x', 'wb').write(bytes(9 << 20))\nexcept OSError as e: print(e.errno)"
    assert inside(team, "python3", "-c", write) == "28\n"


def test_a_bare_pod_is_forbidden(team: Cluster) -> None:
    team.kubectl("run", "bare", "--namespace=team", "--image=any", check=False)
    assert "bare" not in team.kubectl("get", "pods", "--namespace=team", "-o", "name")


def test_deleting_the_namespace_clears_its_volumes(team: Cluster) -> None:
    folder = team.folder / "volumes"
    assert len(list(folder.iterdir())) == 2
    team.kubectl("delete", "namespace", "team", "--timeout=120s")
    deadline = time.monotonic() + 60
    while list(folder.iterdir()):
        assert time.monotonic() < deadline, "the volumes' folders are still there"
        time.sleep(0.1)


def test_a_second_node_beside_it_and_a_killed_one_leave_nothing(cluster: Cluster, before: dict[str, list[str]]) -> None:
    other = Cluster.up(name="t-two", mode="node")
    assert other.node_ip != cluster.node_ip
    assert other.kubectl("get", "nodes", "-o", "name") == "node/t-two-node\n"
    folder: Path = other.folder
    found = record.read("t-two")
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    other.down()
    assert processes(folder) == []
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
    cluster.down()
    assert snapshot() == before
