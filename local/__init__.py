"""A real Kubernetes on this machine, for the demo and the tests.

Read in this order: `cluster` (what a caller sees), `address` (what each cluster may occupy), `render` (every
flag and configuration file), `lifecycle` (up and down), `node` (the supervisor, PID 1 of a node's namespaces),
`binaries` and `install` (where the programs come from), `images` and `build` (container images), `kwok` (nodes
that are only simulated).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local.cluster import Cluster

__all__ = ["Cluster"]


def __getattr__(name: str) -> Any:
    # Loaded at first use: the supervisor starts from this package too and must stay small.
    if name == "Cluster":
        from local.cluster import Cluster  # noqa: PLC0415

        return Cluster
    raise AttributeError(name)
