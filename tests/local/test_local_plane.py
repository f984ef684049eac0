"""A real control plane: up, usable, idempotent, two at once, and gone without a trace."""

import os
import signal
from pathlib import Path

import pytest

from local import Cluster, record
from local.errors import LocalError
from tests.local.host_snapshot import processes, snapshot

pytestmark = pytest.mark.cluster
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: build}
spec:
  backoffLimit: 0
  template:
    metadata:
      annotations:
        local.axmodel.io/complete-after: 1s
        local.axmodel.io/message: '{"engine": "e"}'
    spec:
      restartPolicy: Never
      containers:
      - name: build
        image: any
        resources: {limits: {nvidia.com/gpu: 8}}
        volumeMounts: [{name: store, mountPath: /store}]
      volumes: [{name: store, persistentVolumeClaim: {claimName: ax-engines}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ax-engines}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""
MESSAGE = "jsonpath={.items[0].status.containerStatuses[0].state.terminated.message}"


def test_a_control_plane_serves_and_leaves_nothing() -> None:
    before = snapshot()
    with Cluster.up(name="t-plane", mode="control-plane", kwok=True) as cluster:
        assert cluster.kubectl("get", "--raw", "/version").count('"v1.34.4"') == 1
        # Up again is the same cluster: same supervisor, same files.
        pid = record.read("t-plane")
        assert Cluster.up(name="t-plane", mode="control-plane").kubeconfig == cluster.kubeconfig
        assert record.read("t-plane") == pid
        with pytest.raises(LocalError, match="runs in mode control-plane"):
            Cluster.up(name="t-plane", mode="node")
        # A simulated GPU node carries a build Job to its end, with a volume and a message.
        cluster.add_fake_gpu_nodes(
            [{"name": "h100", "product": "NVIDIA-H100-80GB-HBM3", "memory": 81559, "count": 8, "major": 9, "minor": 0}]
        )
        cluster.kubectl("apply", "-f", "-", input=JOB)
        cluster.kubectl("wait", "--for=condition=Complete", "job/build", "--timeout=60s")
        assert cluster.kubectl("get", "pods", "-o", MESSAGE) == '{"engine": "e"}'
        with Cluster.up(name="t-other", mode="control-plane") as other:
            assert other.server != cluster.server
            assert other.kubectl("get", "nodes", "-o", "name") == ""
    assert Cluster.find("t-plane") is None
    assert snapshot() == before


def test_a_killed_supervisor_takes_everything_with_it() -> None:
    before = snapshot()
    cluster = Cluster.up(name="t-crash", mode="control-plane")
    found = record.read("t-crash")
    assert found is not None
    folder: Path = cluster.folder
    assert len(processes(folder)) >= 4
    os.kill(found.pid, signal.SIGKILL)
    cluster.down()
    assert processes(folder) == []
    assert snapshot() == before
