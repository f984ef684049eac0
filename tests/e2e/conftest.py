"""One real cluster with the product on it, as `helm install` leaves it; a namespace with a model's file per module."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from local import Cluster, images, product
from tests.e2e.site import Site


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A node of our own, with the images and the chart; unused engines go at once."""
    with Cluster.up(name=f"e2e-{os.getpid()}", mode="node", kwok=True) as found:
        product.load_images(found)
        product.install(found, {"engineRetention": "0s", "drainSeconds": 30})
        yield found


@pytest.fixture(scope="module")
def site(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A namespace that enforces PodSecurity `restricted`, with the demo model's file on a claim."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    product.namespace(cluster, name)
    real = images.demo_model()
    product.model_claim(cluster, name, {product.MODEL_FILE: real, "copy.gguf": real})
    yield Site(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """When a test with pods fails, print what the cluster says."""
    if call.when != "call" or call.excinfo is None:
        return
    site = getattr(item, "funcargs", {}).get("site")
    if site is None:
        return
    for command in (
        ("get", "axm,axe,pods,jobs", "-A", "-o", "wide"),
        ("-n", site.namespace, "get", "axm", "-o", "json"),
        ("-n", product.NAMESPACE, "logs", "deployment/ax-operator", "--tail=60"),
    ):
        text = site.cluster.kubectl(*command, check=False)
        if command[-1] == "json":
            found = json.loads(text or '{"items": []}')["items"]
            text = json.dumps([m.get("status") for m in found], indent=1, ensure_ascii=False)
        item.add_report_section("call", " ".join(command), text[-12000:])
