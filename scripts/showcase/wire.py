"""A line between two network namespaces of this machine that is no faster than a node's."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from devcluster import prerequisites

NAMESPACE = "chrek-bench"
HERE, THERE = "10.177.17.1", "10.177.17.2"
RATE = "2gbit"


@contextlib.contextmanager
def wire() -> Iterator[list[str]]:
    """While inside, what runs behind these arguments is at `THERE`, and sends with `RATE`."""
    prerequisites.PACKAGES["tc"] = "iproute2"
    prerequisites.ensure(["ip", "tc"])
    inside = ["ip", "netns", "exec", NAMESPACE]
    _run("ip", "netns", "add", NAMESPACE)
    try:
        _run("ip", "link", "add", "chrek-wire", "type", "veth", "peer", "eth0", "netns", NAMESPACE)
        _run("ip", "address", "add", f"{HERE}/30", "dev", "chrek-wire")
        _run("ip", "link", "set", "chrek-wire", "up")
        _run(*inside, "ip", "address", "add", f"{THERE}/30", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "eth0", "up")
        shape = ("rate", RATE, "burst", "1mb", "latency", "20ms")
        _run(*inside, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *shape)
        yield inside
    finally:
        # Its end of the line goes with it, and so does the other.
        _run("ip", "netns", "delete", NAMESPACE)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)
