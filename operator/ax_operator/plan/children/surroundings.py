"""What stands around a model's Deployments: an account, a Service, a network policy, a disruption budget."""

from __future__ import annotations

from collections.abc import Mapping

from ax_engines import contract
from ax_operator.api import names
from ax_operator.plan.children import pod
from ax_operator.plan.world import Json, Settings, owner


def selector(model: Json) -> dict[str, str]:
    """Return the labels by which a model's serving pods are found."""
    return {names.COMPONENT: names.COMPONENT_SERVING, names.MODEL: model["metadata"]["name"]}


def surroundings(model: Json, replicas: int, settings: Settings, slots: int | None = None) -> list[Json]:
    """Return what stands around the Deployments: account, Service, policy, and a PDB with two or more replicas.

    The Service says how many requests a replica serves at once (`slots`, where known); Kubernetes copies its labels
    to the EndpointSlices, by which the gateway decides when requests overflow.
    """
    namespace, name = model["metadata"]["namespace"], model["metadata"]["name"]
    child, extra, owners = names.child(name), {names.MODEL: name}, [owner(model)]

    def meta(more: Mapping[str, str] | None = None) -> Json:
        return pod.meta(child, namespace, names.COMPONENT_SERVING, extra={**extra, **(more or {})}, owners=owners)

    def port(name: str, number: int) -> Json:
        return {"name": name, "port": number, "protocol": "TCP", "targetPort": name}

    ours = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}}}
    gateways = {**ours, "podSelector": {"matchLabels": {names.COMPONENT: names.COMPONENT_GATEWAY}}}
    operators = {**ours, "podSelector": {"matchLabels": {names.COMPONENT: names.COMPONENT_OPERATOR}}}
    objects: list[Json] = [
        pod.account(child, namespace, names.COMPONENT_SERVING, owners, extra),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta({names.SLOTS: str(slots)} if slots else None),
            "spec": {
                "clusterIP": "None",
                "selector": selector(model),
                "ports": [
                    port(names.PORT_HTTP, contract.FRONTEND_PORT),
                    port(names.PORT_METRICS, contract.METRICS_PORT),
                ],
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": meta(),
            "spec": {
                "podSelector": {"matchLabels": selector(model)},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {"from": [gateways], "ports": [{"port": contract.FRONTEND_PORT, "protocol": "TCP"}]},
                    {"from": [operators], "ports": [{"port": contract.METRICS_PORT, "protocol": "TCP"}]},
                ],
            },
        },
    ]
    if replicas > 1:
        objects.append(
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": meta(),
                "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(model)}},
            }
        )
    return objects
