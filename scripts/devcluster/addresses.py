"""The cluster's network: which range is whose, and which address a node has."""

from __future__ import annotations

import dataclasses
import re

from devcluster import errors

BRIDGE = "chrek0"
HOST = "10.231.0.1"
PREFIX_LENGTH = 24
NODES = "10.231.0.0/24"
PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
API_PORT = 6443
DNS_PORT = 1053
DNS_HEALTH_PORT = 1054
REGISTRY_NAME = "registry.chrek.test"
REGISTRY_PORT = 5000
ETCD_PORT = 23790
ETCD_PEER_PORT = 23800
CLUSTER_DOMAIN = "cluster.local"
MAX_NODES = 30
"""Each node has routes to the pods of all that there may be, so a late one needs no visit."""


@dataclasses.dataclass(frozen=True, order=True)
class Node:
    """A node's name and the addresses that follow from its number."""

    number: int

    @classmethod
    def parse(cls, name: str) -> Node:
        """The node of a name such as n2.

        Raises:
            ClusterError: the name is not one of a node.
        """
        match = re.fullmatch(r"n([1-9][0-9]?)", name)
        if not match or int(match[1]) > MAX_NODES:
            raise errors.ClusterError(
                f"'{name}' is not the name of a node",
                hint=f"nodes are named n1 to n{MAX_NODES}",
            )
        return cls(int(match[1]))

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def address(self) -> str:
        return f"10.231.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        return f"10.244.{self.number}.0/24"

    @property
    def link(self) -> str:
        """The host's end of the node's cable."""
        return f"chrek-{self.name}"

    @property
    def cgroup(self) -> str:
        """The node's cgroup, under the root of each hierarchy."""
        return f"chrek-{self.name}"


def all_nodes() -> list[Node]:
    """Every node that there may be."""
    return [Node(number) for number in range(1, MAX_NODES + 1)]
