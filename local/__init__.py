"""A real Kubernetes on this machine, for the demo and the tests.

Read in this order: `cluster` (what a caller sees), `address` (what each cluster may occupy), `render` (every
flag and configuration file), `node` (the supervisor, PID 1 of a node's namespaces), `binaries` and `install`
(where the programs come from), `images` and `build` (container images), `kwok` (nodes that are only simulated).
"""

from local.cluster import Cluster

__all__ = ["Cluster"]
