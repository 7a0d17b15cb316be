from __future__ import annotations

import ipaddress

import pytest

from devcluster import addresses, errors


def test_a_node_has_addresses_of_its_own() -> None:
    node = addresses.Node.parse("n2")
    assert (node.name, node.address, node.pods) == ("n2", "10.231.0.12", "10.244.2.0/24")


@pytest.mark.parametrize("name", ["", "n", "n0", "n01", "n31", "n100", "N1", "1", "node1", "n1\n"])
def test_what_is_no_node_is_named_in_the_error(name: str) -> None:
    with pytest.raises(errors.ClusterError, match="is not the name of a node"):
        addresses.Node.parse(name)


def test_ranges_hold_every_node_and_no_two_share_one() -> None:
    nodes = addresses.all_nodes()
    pods = [ipaddress.IPv4Network(node.pods) for node in nodes]
    assert all(one.subnet_of(ipaddress.IPv4Network(addresses.PODS)) for one in pods)
    assert all(
        ipaddress.ip_address(node.address) in ipaddress.ip_network(addresses.NODES)
        for node in nodes
    )
    assert len({node.address for node in nodes} | {addresses.HOST}) == addresses.MAX_NODES + 1
    # The kernel allows 15 characters.
    assert all(len(node.link) <= 15 for node in nodes)
