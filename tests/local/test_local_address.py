"""What a cluster occupies: distinct for distinct clusters, and never what the machine uses already."""

import ipaddress

import pytest

from local.address import INDICES, Addresses, free_index

PARTS = ("pods", "services")


def test_clusters_never_overlap() -> None:
    networks = [ipaddress.ip_network(Addresses(index).network) for index in INDICES]
    assert all(not one.overlaps(other) for one in networks for other in networks if one is not other)
    assert len({Addresses(index).link for index in INDICES}) == len(INDICES)


@pytest.mark.parametrize("index", [0, 17, 31])
def test_parts_lie_in_the_cluster_and_apart(index: int) -> None:
    addresses = Addresses(index)
    own = ipaddress.ip_network(addresses.network)
    parts = [
        ipaddress.ip_network(f"{addresses.host_ip}/30", strict=False),
        ipaddress.ip_network(addresses.pods),
        ipaddress.ip_network(addresses.simulated_pods, strict=False),
        ipaddress.ip_network(f"{addresses.simulated_host}/32"),
        ipaddress.ip_network(addresses.services),
    ]
    assert all(part.subnet_of(own) for part in parts)
    assert all(not one.overlaps(other) for one in parts for other in parts if one is not other)
    assert ipaddress.ip_address(addresses.node_ip) in parts[0]
    assert next(parts[4].hosts()) == ipaddress.ip_address(addresses.api_service_ip)


def test_link_names_fit_the_kernel() -> None:
    assert all(len(Addresses(index).link) <= 15 for index in INDICES)


@pytest.mark.parametrize(
    ("taken", "links", "routes", "expected"),
    [
        (set(), set(), ["default", "192.0.2.0/24"], 0),
        ({0, 1}, set(), [], 2),
        (set(), {"axk0"}, [], 1),
        (set(), set(), ["10.200.7.0/24"], 1),
        (set(), set(), ["10.200.0.0/15", "10.202.0.2"], 3),
        (set(), set(), ["0.0.0.0/0"], 0),
        (set(), set(), ["10.0.0.0/8"], None),
        (set(INDICES), set(), [], None),
    ],
    ids=["empty", "clusters", "link", "route", "two-routes", "default", "all-of-ten", "full"],
)
def test_the_smallest_free_index_is_taken(
    taken: set[int], links: set[str], routes: list[str], expected: int | None
) -> None:
    assert free_index(taken, links, routes) == expected
