"""Processes of pods, seen from this machine: the nodes of scripts/cluster run on it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from showcase import cluster

Object = dict[str, Any]


def processes(pod: Object) -> list[int]:
    """PIDs of all processes of a pod, as this machine counts them."""
    # The kubelet writes the UID with dashes or, in systemd's style, with underscores.
    uid = str(pod["metadata"]["uid"])
    wanted = (uid, uid.replace("-", "_"))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                groups = (entry / "cgroup").read_text()
                if any(text in groups for text in wanted):
                    found.append(int(entry.name))
    return sorted(found)


def command(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    return []


def name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def state(pid: int) -> str:
    """R, S, D, T, t, Z, as in proc(5); empty when the process is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def agent(live: cluster.Cluster, namespace: str, node: str) -> Object:
    """The agent's pod on a node."""
    path = (
        f"/api/v1/namespaces/{namespace}/pods"
        f"?labelSelector=app.kubernetes.io%2Fcomponent%3Dagent&fieldSelector=spec.nodeName%3D{node}"
    )

    def running() -> Object | None:
        alive = [pod for pod in live.items(path) if "deletionTimestamp" not in pod["metadata"]]
        ready = [
            pod
            for pod in alive
            if any(
                fact["type"] == "Ready" and fact["status"] == "True"
                for fact in pod["status"].get("conditions", [])
            )
        ]
        return ready[0] if ready else None

    found: Object = cluster.wait_until(running, f"node {node} has a ready agent", timeout=60)
    return found


def agent_pid(pod: Object) -> int:
    """The agent's process: the one that runs `chrek agent`."""
    for pid in processes(pod):
        line = command(pid)
        if "agent" in line and any(part.endswith("chrek") for part in line):
            return pid
    raise AssertionError(f"no agent among {[(p, command(p)) for p in processes(pod)]}")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stopped with SIGSTOP; continued at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def catch(matches: Callable[[int], bool], what: str, *, timeout: float) -> int:
    """The first new process for which `matches` is true, looked for without a pause."""
    known = {entry for entry in os.listdir("/proc") if entry.isdecimal()}
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and entry not in known and matches(int(entry)):
                return int(entry)
    raise AssertionError(f"no {what} appeared within {timeout:.0f} s")


def criu_of(agent: int) -> Callable[[int], bool]:
    """Whether a process is CRIU, started by this agent (there may be others on the machine)."""

    def matches(pid: int) -> bool:
        if not any("criu" in part for part in command(pid)[:4]):
            return False
        while pid > 1:
            pid = parent(pid)
            if pid == agent:
                return True
        return False

    return matches
