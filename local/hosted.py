"""Puts a stand-in for a hosted API into a local cluster: a pod, its Service, its key, and the AXHostedAPI."""

import base64
import json
import secrets
from pathlib import Path
from typing import Any

from local import product
from local.cluster import Cluster
from local.hosted_standin import PORT

NAMESPACE = "hosted"
NAME = "stand-in"
SCRIPT = Path(__file__).with_name("hosted_standin.py")
PRICES = {"input": 1500, "output": 4500}
"""KRW per million tokens, as in examples/hosted-api.yaml."""
SPEND = (
    "-n",
    product.NAMESPACE,
    "exec",
    "deploy/ax-gateway",
    "-c",
    "agent",
    "--",
    "python3",
    "-m",
    "ax_gateway",
    "spend",
)
"""What to tell kubectl for the table of what hosted answers cost today."""
_KEY = "api-key"


def start(cluster: Cluster, *namespaces: str, **spec: Any) -> None:
    """Run the stand-in and let models of these namespaces use it; `spec` adds to the AXHostedAPI's."""
    product.namespace(cluster, NAMESPACE)
    key = _key(cluster)
    labels = {"serving.axmodel.io/usable-by": "gateway"}
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {_KEY: key}}
    objects = [
        {**secret, "metadata": {"name": NAME, "namespace": product.NAMESPACE, "labels": labels}},
        {**secret, "metadata": {"name": NAME, "namespace": NAMESPACE}},
        _named("v1", "ConfigMap", data={SCRIPT.name: SCRIPT.read_text()}),
        _named("v1", "Service", spec={"selector": {"app": NAME}, "ports": [{"port": PORT}]}),
        _named("v1", "Pod", spec=_pod()),
        {
            "apiVersion": "serving.axmodel.io/v1alpha1",
            "kind": "AXHostedAPI",
            "metadata": {"name": NAME},
            "spec": {
                "baseUrl": f"http://{NAME}.{NAMESPACE}.svc.cluster.local:{PORT}/v1",
                "model": "ax4",
                "keySecret": {"name": NAME, "key": _KEY},
                "prices": PRICES,
                "contextLength": 32768,
                "allowedNamespaces": list(namespaces),
                **spec,
            },
        },
    ]
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    cluster.kubectl("apply", "--server-side", "-f", "-", input=items)
    cluster.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=60s", f"pod/{NAME}")


def _key(cluster: Cluster) -> str:
    """Return the key of an earlier run, or a new one."""
    found = cluster.kubectl(
        "-n", NAMESPACE, "get", "secret", NAME, "--ignore-not-found", "-o", f"jsonpath={{.data.{_KEY}}}"
    )
    return base64.b64decode(found).decode() or secrets.token_urlsafe(32)


def _named(version: str, kind: str, **content: Any) -> dict[str, Any]:
    metadata = {"name": NAME, "namespace": NAMESPACE, "labels": {"app": NAME}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def _pod() -> dict[str, Any]:
    program = ("python3", f"/app/{SCRIPT.name}")
    spec = product.python_pod(program, "/app", {"configMap": {"name": NAME}}, PORT, terminationGracePeriodSeconds=1)
    key = {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": NAME, "key": _KEY}}}
    spec["containers"][0]["env"] = [key]
    return spec
