"""What one cluster occupies on the host, all of it derived from one small number.

Cluster `i` has the network `10.(200+i).0.0/16`, the link `axk<i>` and the cgroup `axk<i>`; nothing else of it is
visible outside its namespaces. Inside that network:

    .0.0/30    the veth pair: .1 the host, .2 the node
    .16.0/20   pods of the real node (the first /24)
    .32.0/20   addresses that simulated pods carry; nobody answers there
    .48.1      the address that every simulated node carries; nobody answers there either
    .64.0/18   Services

The node has a route to these and no other, so packets to anywhere else are refused at once.
"""

import ipaddress
from dataclasses import dataclass

INDICES = range(32)


@dataclass(frozen=True)
class Addresses:
    """The names and addresses of the cluster with one index."""

    index: int

    @property
    def link(self) -> str:
        """Name of the host's end of the veth pair."""
        return f"axk{self.index}"

    @property
    def cgroup(self) -> str:
        """Name of the cgroup, in every hierarchy, under which all pods run."""
        return f"axk{self.index}"

    @property
    def network(self) -> str:
        """Everything the host routes to the node, as CIDR."""
        return self._at("0.0/16")

    @property
    def host_ip(self) -> str:
        """The host's address on the veth pair."""
        return self._at("0.1")

    @property
    def node_ip(self) -> str:
        """The node's address: API server, kubelet and DNS listen on it."""
        return self._at("0.2")

    @property
    def pods(self) -> str:
        """Pod addresses of the real node, as CIDR."""
        return self._at("16.0/24")

    @property
    def simulated_pods(self) -> str:
        """First address and prefix length from which kwok numbers its pods."""
        return self._at("32.1/20")

    @property
    def simulated_host(self) -> str:
        """The address of every simulated node."""
        return self._at("48.1")

    @property
    def services(self) -> str:
        """Cluster addresses of Services, as CIDR."""
        return self._at("64.0/18")

    @property
    def api_service_ip(self) -> str:
        """The address of the Service `kubernetes`: the first of the range."""
        return self._at("64.1")

    def _at(self, rest: str) -> str:
        return f"10.{200 + self.index}.{rest}"


def free_index(taken: set[int], links: set[str], routes: list[str]) -> int | None:
    """Return the smallest index that no cluster has and that the machine's links and routes leave alone, or None.

    `routes` are destinations as the routing table prints them; `default` overlaps with nothing.
    """
    networks = [ipaddress.ip_network(route, strict=False) for route in routes if _is_network(route)]
    for index in INDICES:
        candidate = Addresses(index)
        own = ipaddress.ip_network(candidate.network)
        busy = any(network.version == 4 and network.prefixlen > 0 and network.overlaps(own) for network in networks)
        if index not in taken and candidate.link not in links and not busy:
            return index
    return None


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
