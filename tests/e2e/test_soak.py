"""Three hundred restores in a row: they stay warm, and nothing grows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
from concurrent import futures
from pathlib import Path

import pytest

from e2e import node, place, tiny
from showcase import cluster, pods

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3000)]
RESTORES = 300
WARM_UP = 24
AT_ONCE = 6
NODES = ("n1", "n2")
RESIDENT_SLACK_BYTES = 12 << 20
"""Of each agent: what its allocator keeps of a busy moment, and no more after ten times as many."""


@dataclasses.dataclass(frozen=True)
class Use:
    """What an agent and its node hold."""

    resident_bytes: int
    descriptors: int
    threads: int
    mounts: int
    children: int

    @classmethod
    def of(cls, pid: int) -> Use:
        path = Path(f"/proc/{pid}")
        status = (path / "status").read_text()
        return cls(
            resident_bytes=int(re.findall(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)[0]) << 10,
            descriptors=len(os.listdir(path / "fd")),
            threads=int(re.findall(r"^Threads:\s+(\d+)", status, re.MULTILINE)[0]),
            mounts=len((path / "mountinfo").read_text().splitlines()),
            children=len((path / f"task/{pid}/children").read_text().split()),
        )


def namespaces() -> int:
    """How many there are on this machine, of every kind."""
    argv = ["lsns", "--noheadings", "--output", "NS"]
    return len(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


def size(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += path.lstat().st_size
    return found


def test_three_hundred_restores(here: place.Place) -> None:
    worker = tiny.Worker("tiny/soak", ballast=16)
    here.capture(worker, node="n1")
    agents = {on: node.agent_pid(node.agent(here.live, here.namespace, on)) for on in NODES}
    reasons: list[str] = []

    def one(number: int) -> bool:
        wanted = worker.pod(f"soak-{number}", node=NODES[number % 2])
        with here.pod(wanted, timeout=180) as pod:
            fact = pods.reported(here.live, pod)
            if fact["status"] != "True":
                reasons.append(f"{pods.name(pod)}: {fact.get('reason')}: {fact.get('message')}")
            return bool(fact["status"] == "True")

    def several(numbers: range) -> int:
        with futures.ThreadPoolExecutor(AT_ONCE) as pool:
            return sum(pool.map(one, numbers))

    def at_rest() -> dict[str, Use]:
        cluster.wait_until(
            lambda: not left(here),
            lambda: f"no pod is left: {left(here)}",
            timeout=120,
        )
        return {on: Use.of(pid) for on, pid in agents.items()}

    assert several(range(WARM_UP)) == WARM_UP, reasons
    before, spaces, stored = at_rest(), namespaces(), size(here.volume())
    warm = several(range(WARM_UP, WARM_UP + RESTORES))
    after = at_rest()
    assert warm >= RESTORES - 1, f"{RESTORES - warm} cold starts: {reasons}"
    for on in NODES:
        assert agents[on] == node.agent_pid(node.agent(here.live, here.namespace, on)), "it lives"
        was, now = before[on], after[on]
        assert now.resident_bytes <= was.resident_bytes + RESIDENT_SLACK_BYTES, (was, now)
        assert now.descriptors <= was.descriptors + 3, (was, now)
        assert (now.mounts, now.children) == (was.mounts, was.children), (was, now)
        assert now.threads <= was.threads + 2, (was, now)
    assert namespaces() <= spaces + 2
    assert size(here.volume()) == stored
    here.forget(worker)


def left(here: place.Place) -> list[str]:
    found = here.live.items(pods.path(here.namespace))
    return [pods.name(pod) for pod in found if pods.name(pod).startswith("soak-")]
