"""The cluster around a gateway: a fake API server, and the objects that users and Kubernetes put there."""

from __future__ import annotations

import base64
from typing import Any

from ax_operator.api.names import API_VERSION, MODEL, SLOTS, USABLE_BY, USABLE_BY_GATEWAY
from ax_operator.kinds import AXHOSTEDAPI, AXMODEL, ENDPOINTSLICE
from tests.gateway.fake_api import FakeApi
from tests.gateway.replica import Replica


class Cluster:
    """What a gateway watches; each change is one event."""

    def __init__(self) -> None:
        self.api = FakeApi()

    def model(self, name: str, namespace: str = "t", created: str = "2026-01-01T00:00:00Z", **routing: Any) -> str:
        """Make an AXModel; return the name that always works."""
        self.api.put(
            {
                "apiVersion": API_VERSION,
                "kind": AXMODEL.kind,
                "metadata": {"namespace": namespace, "name": name, "creationTimestamp": created},
                "spec": {"model": "A.X-4.0", "routing": routing},
            }
        )
        return f"{namespace}/{name}"

    def hosted_api(self, name: str, standin: Replica | None, **spec: Any) -> None:
        """Make an AXHostedAPI for a stand-in, or for what its `baseUrl` says, which every test namespace may use."""
        base = f"https://localhost:{standin.port}/api/v1" if standin else ""
        defaults: dict[str, Any] = {"baseUrl": base, "model": "ax4", "allowedNamespaces": ["t"]}
        defaults["capabilities"] = ["tools", "vision", "json_schema", "logprobs", "choices"]
        defaults["keySecret"] = {"name": f"{name}-key"}
        metadata = {"name": name}
        self.api.put(
            {"apiVersion": API_VERSION, "kind": AXHOSTEDAPI.kind, "metadata": metadata, "spec": defaults | spec}
        )

    def secret(self, name: str, labels: dict[str, str] | None = None, **data: str) -> None:
        """Make a Secret that the gateway reads."""
        encoded = {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in data.items()}
        metadata = {"namespace": "ax-system", "name": name, "labels": {USABLE_BY: USABLE_BY_GATEWAY} | (labels or {})}
        self.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded})

    def replicas(
        self, model: str, *replicas: Replica, terminating: tuple[Replica, ...] = (), slots: int | None = None
    ) -> None:
        """Say which replicas of a model are ready: one EndpointSlice for each, as each has a port of its own."""
        namespace, _, name = model.partition("/")
        for each in (*replicas, *terminating):
            self.api.put(endpoint_slice(namespace, name, each.port, each in terminating, slots))
        wanted = {f"{name}-{each.port}" for each in (*replicas, *terminating)}
        for old in self.api.names(ENDPOINTSLICE, namespace, f"{MODEL}={name}") - wanted:
            self.api.delete(ENDPOINTSLICE, namespace, old)

    def remove(self, model: str) -> None:
        namespace, _, name = model.partition("/")
        self.api.delete(AXMODEL, namespace, name)


def endpoint_slice(
    namespace: str, model: str, port: int, terminating: bool = False, slots: int | None = None, name: str = ""
) -> dict[str, Any]:
    """Return the EndpointSlice of one replica, by default called after its port."""
    labels = {MODEL: model} | ({SLOTS: str(slots)} if slots else {})
    conditions = {"ready": not terminating, "serving": True, "terminating": terminating}
    return {
        "apiVersion": ENDPOINTSLICE.api_version,
        "kind": ENDPOINTSLICE.kind,
        "metadata": {"namespace": namespace, "name": name or f"{model}-{port}", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "metrics", "port": 1}, {"name": "http", "port": port}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": conditions}],
    }
