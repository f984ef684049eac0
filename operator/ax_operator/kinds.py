"""The kinds of objects that the operator and the gateway read and write, and how their addresses are built.

Pure. A manifest finds its kind by `apiVersion` and `kind` (`kind_of`); nothing is discovered at run time, so a
cluster cannot make us write to a resource that is not listed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ax_operator.api.names import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of the Kubernetes API."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What a manifest of this kind carries as `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of the collection, of one object, or of its subresource.

        Without a namespace the collection of a namespaced kind spans the cluster; a name then raises ValueError.
        """
        if self.namespaced and name and not namespace:
            raise ValueError(f"{self.kind} {name!r} lies in a namespace, which is missing")
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(quote(part, safe="") for part in parts)


AXMODEL = Kind(GROUP, VERSION, "AXModel", "axmodels")
AXENGINE = Kind(GROUP, VERSION, "AXEngine", "axengines")
AXHOSTEDAPI = Kind(GROUP, VERSION, "AXHostedAPI", "axhostedapis", namespaced=False)
CONFIGMAP = Kind("", "v1", "ConfigMap", "configmaps")
CRD = Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
ENDPOINTSLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
EVENT = Kind("events.k8s.io", "v1", "Event", "events")
JOB = Kind("batch", "v1", "Job", "jobs")
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
NETWORKPOLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
NODE = Kind("", "v1", "Node", "nodes", namespaced=False)
PDB = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
POD = Kind("", "v1", "Pod", "pods")
PVC = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SECRET = Kind("", "v1", "Secret", "secrets")
SERVICE = Kind("", "v1", "Service", "services")
SERVICEACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")

KINDS = (
    AXMODEL, AXENGINE, AXHOSTEDAPI, CONFIGMAP, CRD, DEPLOYMENT, ENDPOINTSLICE, EVENT, JOB, NAMESPACE,
    NETWORKPOLICY, NODE, PDB, POD, PVC, SECRET, SERVICE, SERVICEACCOUNT,
)  # fmt: skip
_BY_NAME = {(kind.api_version, kind.kind): kind for kind in KINDS}


def kind_of(manifest: dict[str, Any]) -> Kind:
    """Return the kind of a manifest; raises KeyError for one that is not listed here."""
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]
