"""Every key that we put on or look for in a Kubernetes object; nothing else spells one."""

from typing import Final

GROUP: Final = "serving.axmodel.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
FIELD_MANAGER: Final = "ax-operator"

# Labels of what we own. Whatever lacks MANAGED_BY is never changed or deleted.
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY_VALUE: Final = "ax-operator"
COMPONENT: Final = "app.kubernetes.io/component"
MODEL: Final = f"{GROUP}/model"
ENGINE: Final = f"{GROUP}/engine"
REVISION: Final = f"{GROUP}/revision"
SOURCE: Final = f"{GROUP}/source"
SLOTS: Final = f"{GROUP}/slots"
"""On a Service and so on its EndpointSlices: requests that one replica serves at once."""
STORE: Final = f"{GROUP}/store"
# On a Deployment: the toolchain it was made with, a hash of what the chart said then, and a hash of what the author
# wished then. They tell why a new revision is wanted.
TOOLCHAIN: Final = f"{GROUP}/toolchain"
RELEASE: Final = f"{GROUP}/release"
WISH: Final = f"{GROUP}/wish"

# Values of COMPONENT.
COMPONENT_SERVING: Final = "serving"
COMPONENT_RESOLVE: Final = "resolve"
COMPONENT_BUILD: Final = "build"
COMPONENT_SWEEP: Final = "sweep"
COMPONENT_STORE: Final = "store"
COMPONENT_GATEWAY: Final = "gateway"
COMPONENT_OPERATOR: Final = "operator"

# A Secret that an author of AXModels may name carries this label with this value.
USABLE_BY: Final = f"{GROUP}/usable-by"
USABLE_BY_VALUE: Final = "axmodel"
# A Secret of the operator's namespace that the gateway reads: a hosted API's key, or a client's key.
USABLE_BY_GATEWAY: Final = "gateway"
CLIENT_KEY: Final = f"{GROUP}/client-key"

# Node labels that NVIDIA's GPU feature discovery writes.
GPU_PRODUCT: Final = "nvidia.com/gpu.product"
GPU_RESOURCE: Final = "nvidia.com/gpu"
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes' own: of a ReplicaSet's pods the one with the lowest goes first."""

STORE_CLAIM: Final = "ax-engines"
STORE_INVENTORY: Final = "ax-engines"
SERVING_ACCOUNT: Final = "ax-serving"
PORT_HTTP: Final = "http"
PORT_METRICS: Final = "metrics"


def child(model: str, suffix: str = "") -> str:
    """Return the name of a model's child; `axm-` keeps it from taking over an object of the same name."""
    return f"axm-{model}-{suffix}" if suffix else f"axm-{model}"
