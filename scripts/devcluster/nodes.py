"""Starting, ending, and entering nodes.

A node is one process tree: the init in a PID namespace of its own. Killing the init
is the node's power loss: the kernel ends every process of it, containers included,
and with the last one its network and its mounts.
"""

from __future__ import annotations

import os
import signal
from typing import IO

from devcluster import (
    addresses,
    cache,
    cgroups,
    commands,
    errors,
    network,
    node_files,
    processes,
    steps,
)

START_SECONDS = 30.0
BOOT_OFFSETS = "CHREK_BOOT_OFFSETS"
"""Environment variable: `n2=259200`, separated by commas; see `boot_seconds`."""


def record_name(node: addresses.Node) -> str:
    """The name of the record of a node's init."""
    return f"node-{node.name}"


def recorded(records: processes.Records) -> list[addresses.Node]:
    """The nodes that were started and not removed, running or not, lowest number first."""
    names = [name.removeprefix("node-") for name in records.names() if name.startswith("node-")]
    return sorted(addresses.Node.parse(name) for name in names)


def running(records: processes.Records) -> list[addresses.Node]:
    """The nodes that run."""
    return [node for node in recorded(records) if records.load(record_name(node))]


def init_of(records: processes.Records, node: addresses.Node) -> processes.Process:
    """The node's init.

    Raises:
        ClusterError: the node does not run.
    """
    init = records.load(record_name(node))
    if init is None:
        raise errors.ClusterError(
            f"node {node.name} does not run", hint=f"scripts/cluster start {node.name}"
        )
    return init


def boot_seconds(node: addresses.Node, offsets: str) -> int:
    """How much longer than this machine a node shall seem to run: its clocks since boot are ahead.

    Raises:
        ClusterError: `offsets` is not what BOOT_OFFSETS says.
    """
    found = {}
    for part in filter(None, offsets.split(",")):
        name, _, seconds = part.partition("=")
        try:
            found[addresses.Node.parse(name.strip())] = int(seconds)
        except ValueError as err:
            raise errors.ClusterError(
                f"{BOOT_OFFSETS}: {part!r} is not a node and its seconds", hint="such as n2=259200"
            ) from err
    return found.get(node, 0)


def _unshare(node: addresses.Node) -> list[str]:
    """The command that runs another one in a node's own namespaces."""
    argv = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child",
            "--propagation", "private"]  # fmt: skip
    seconds = boot_seconds(node, os.environ.get(BOOT_OFFSETS, ""))
    if seconds:
        argv += ["--time", f"--boottime={seconds}", f"--monotonic={seconds}"]
    return argv


def start(where: cache.Cache, records: processes.Records, node: addresses.Node) -> None:
    """Start a node and connect it, unless it runs; its daemons come up on their own."""
    if records.load(record_name(node)):
        return
    _end(records, node)
    state = where.nodes / node.name
    logs = where.log / node.name
    for folder in (state, logs, where.volumes, where.share):
        folder.mkdir(parents=True, exist_ok=True)
    node_files.write(where, node)
    cgroups.create(node.cgroup)
    launcher = records.spawn(
        f"launch-{node.name}",
        [*_unshare(node), "bash", f"{node_files.INIT}", "enter"],
        log=logs / "init.log",
        env={
            "NODE": node.name,
            "NODE_ADDRESS": node.address,
            "HOST_ADDRESS": addresses.HOST,
            "PREFIX_LENGTH": str(addresses.PREFIX_LENGTH),
            "API_PORT": str(addresses.API_PORT),
            "ROUTES": "\n".join(
                f"{other.pods} {other.address}" for other in addresses.all_nodes() if other != node
            ),
            "STATE": os.fspath(state),
            "LOWER": os.fspath(where.node_root),
            "BIN": os.fspath(where.bin),
            "LOGS": os.fspath(logs),
            "VOLUMES": os.fspath(where.volumes),
            "SHARE": os.fspath(where.share),
        },
    )  # fmt: skip

    def explain() -> str:
        return f"the last lines of {logs / 'init.log'}:\n{commands.tail(logs / 'init.log')}"

    def forked() -> bool:
        if not launcher.alive():
            raise errors.ClusterError(f"the init of node {node.name} ended\n{explain()}")
        return bool(processes.children(launcher.pid))

    steps.wait_until(
        forked, f"node {node.name} has an init", timeout_seconds=START_SECONDS,
        interval_seconds=0.01, explain=explain,
    )  # fmt: skip
    init = processes.Process.of(processes.children(launcher.pid)[0])
    if init is None:
        raise errors.ClusterError(f"the init of node {node.name} ended\n{explain()}")
    # The record comes last: it says that the node is whole.
    network.attach(node, init.pid)
    records.save(record_name(node), init)


def wait_for_containerd(
    where: cache.Cache, records: processes.Records, node: addresses.Node
) -> None:
    """Wait until the node's containerd answers."""
    log = where.log / node.name / "containerd.log"

    def answers() -> bool:
        init = init_of(records, node)
        return commands.succeeds([*entering(init), "ctr", "version"])

    steps.wait_until(
        answers, f"containerd of node {node.name} answers", timeout_seconds=START_SECONDS,
        explain=lambda: f"the last lines of {log}:\n{commands.tail(log)}",
    )  # fmt: skip


def entering(init: processes.Process) -> list[str]:
    """The command that runs another one inside a node."""
    kinds = ["--mount", "--uts", "--ipc", "--net", "--pid", "--time"]
    return ["nsenter", f"--target={init.pid}", *kinds, "--"]


def run_inside(
    records: processes.Records,
    node: addresses.Node,
    argv: list[str],
    *,
    stdin: IO[bytes] | None = None,
) -> str:
    """Run a command inside a node and return what it wrote to stdout."""
    return commands.run([*entering(init_of(records, node)), *argv], stdin=stdin)


def stop(records: processes.Records, node: addresses.Node) -> None:
    """End a node at once, as a power loss does; its disk stays."""
    _end(records, node)
    network.detach(node)
    cgroups.remove(node.cgroup)


def _end(records: processes.Records, node: addresses.Node) -> None:
    """Kill a node's processes, those of a start that was cut short included."""
    known = [records.load(record_name(node)), records.load(f"launch-{node.name}")]
    strays = records.stragglers(NODE=node.name)
    # The init comes first: it takes the rest of its namespace with it.
    for process in [*(one for one in known if one), *strays]:
        process.kill(signal.SIGKILL)
        steps.wait_until(
            lambda one=process: not one.alive(),  # type: ignore[misc]
            f"process {process.pid} of node {node.name} ends",
            timeout_seconds=30, interval_seconds=0.02,
        )  # fmt: skip
