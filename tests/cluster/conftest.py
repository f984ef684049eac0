"""A real API server for the tests of this folder: one per test run, a namespace per test."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from ax_operator.api.crd import crds as make_crds
from ax_operator.api.crd import render
from ax_operator.kinds import NAMESPACE
from ax_operator.kube import Kube
from local import Cluster

_count = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane of our own, gone at the end."""
    with Cluster.up(name=f"tests-{os.getpid()}", mode="control-plane") as found:
        yield found


@pytest.fixture
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    """A connection as administrator."""
    async with Kube(cluster.kubeconfig) as connection:
        yield connection


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> None:
    """Our three kinds, installed and established."""
    manifests = [render(crd) for crd in make_crds()]
    cluster.kubectl("apply", "--server-side", "-f", "-", input="---\n".join(manifests))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")


@pytest.fixture
async def namespace(kube: Kube) -> AsyncIterator[str]:
    """A namespace that nobody else uses; its objects go with it."""
    name = f"test-{next(_count)}"
    await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    await kube.delete(NAMESPACE, name)


@pytest.fixture(scope="session")
def shared_namespace(cluster: Cluster) -> str:
    """A namespace for objects that do not mind each other; it goes with the cluster."""
    cluster.kubectl("create", "namespace", "shared")
    return "shared"
