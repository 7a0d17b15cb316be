"""The bridge that joins the nodes and the host, and the host's routes to pods and services.

The nodes' own addresses and routes are set by their init, in their own namespace. Nothing
here forwards to the outside: pods reach the cluster and the host, no other network.
"""

from __future__ import annotations

import contextlib
import json

from devcluster import addresses, commands, errors


def ensure() -> None:
    """Make the bridge and the routes through it."""
    if not _exists(addresses.BRIDGE):
        _check_free()
        commands.run(["ip", "link", "add", addresses.BRIDGE, "type", "bridge"])
    commands.run(
        ["ip", "address", "replace", f"{addresses.HOST}/{addresses.PREFIX_LENGTH}",
         "dev", addresses.BRIDGE]
    )  # fmt: skip
    commands.run(["ip", "link", "set", addresses.BRIDGE, "up"])
    routes = [f"route replace {node.pods} via {node.address}" for node in addresses.all_nodes()]
    commands.run(["ip", "-batch", "-"], text="\n".join(routes) + "\n")


def attach(node: addresses.Node, pid: int) -> None:
    """Lay a cable from the bridge into the network namespace of a process."""
    detach(node)
    commands.run(
        ["ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", f"{pid}"]
    )
    commands.run(["ip", "link", "set", node.link, "master", addresses.BRIDGE, "up"])


def detach(node: addresses.Node) -> None:
    """Take a node's cable away; the kernel does so too when the namespace ends, but later."""
    if _exists(node.link):
        # The kernel may be faster than this.
        with contextlib.suppress(errors.CommandError):
            commands.run(["ip", "link", "delete", node.link])


def route_services(nodes: list[addresses.Node]) -> None:
    """Let the host reach services through the first of the running nodes."""
    if not _exists(addresses.BRIDGE):
        return
    if nodes:
        commands.run(["ip", "route", "replace", addresses.SERVICES, "via", min(nodes).address])
    else:
        commands.succeeds(["ip", "route", "delete", addresses.SERVICES])


def remove() -> None:
    """Remove every link of the cluster's; the routes go with the bridge."""
    for link in links():
        commands.succeeds(["ip", "link", "delete", link])


def links() -> list[str]:
    """The names of the cluster's links on the host."""
    ours = {addresses.BRIDGE, *(node.link for node in addresses.all_nodes())}
    present = json.loads(commands.run(["ip", "-json", "link", "show"]) or "[]")
    return sorted(ours & {link["ifname"] for link in present})


def _exists(link: str) -> bool:
    return commands.succeeds(["ip", "link", "show", "dev", link])


def _check_free() -> None:
    for network in (addresses.NODES, addresses.PODS, addresses.SERVICES):
        taken = json.loads(commands.run(["ip", "-json", "route", "show", "root", network]) or "[]")
        if taken:
            raise errors.ClusterError(
                f"this machine already routes {taken[0]['dst']} through {taken[0].get('dev', '?')}",
                hint=f"the cluster needs {network} for itself; end what uses it",
            )
