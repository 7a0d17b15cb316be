"""Up, down, and what happens in between: crashes, power losses, and nodes that join late."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import kube, toolbox
from devcluster import addresses, cache, cgroups, processes, sysctls

pytestmark = [pytest.mark.cluster_down, pytest.mark.timeout(600)]


@dataclasses.dataclass(frozen=True)
class Traces:
    """What a cluster may leave on a machine."""

    processes: frozenset[str]
    mounts: frozenset[str]
    links: frozenset[str]
    routes: frozenset[str]
    tables: frozenset[str]
    cgroups: frozenset[str]
    settings: frozenset[str]
    state: frozenset[str]

    @classmethod
    def of(cls, where: cache.Cache) -> Traces:
        def lines(*argv: str) -> frozenset[str]:
            with contextlib.suppress(FileNotFoundError):
                return frozenset(subprocess.check_output(argv, text=True).splitlines())
            return frozenset()

        records = processes.Records(where.run, os.fspath(where.cluster))
        strays = frozenset(
            Path(f"/proc/{one.pid}/cmdline").read_text().replace("\0", " ")
            for one in records.stragglers()
        )
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        folders = [folder for path in cgroups.hierarchies() for folder in path.glob("chrek-*")]
        names = [*sysctls.BY_KUBELET, *sysctls.AT_LEAST]
        state = where.cluster.iterdir() if where.cluster.exists() else ()
        return cls(
            processes=strays,
            mounts=frozenset(mounts),
            links=frozenset(
                link["ifname"]
                for link in json.loads(subprocess.check_output(["ip", "-json", "link"]))
            ),
            routes=lines("ip", "route"),
            tables=lines("nft", "list", "tables"),
            cgroups=frozenset(map(os.fspath, folders)),
            settings=frozenset(
                f"{name}={(sysctls.PROC / name).read_text().strip()}"
                for name in names
                if (sysctls.PROC / name).exists()
            ),
            state=frozenset(path.name for path in state) - {"log"},
        )


def cluster(command: Path, *words: str) -> None:
    subprocess.run([command, *words], check=True)


@pytest.fixture
def before(where: cache.Cache, command: Path) -> Iterator[Traces]:
    """The machine without the cluster, which it is again after the test."""
    cluster(command, "down")
    yield Traces.of(where)
    cluster(command, "down")


def test_down_leaves_nothing_and_both_can_be_repeated(
    where: cache.Cache, command: Path, before: Traces
) -> None:
    cluster(command, "up")
    cluster(command, "up")
    assert Traces.of(where) != before
    cluster(command, "down")
    assert Traces.of(where) == before
    cluster(command, "down")
    assert Traces.of(where) == before
    done = subprocess.run([command, "status"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    done = subprocess.run([command, "kubeconfig"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the cluster is not up" in done.stderr


def test_late_node_has_images_and_survives_a_power_loss(
    where: cache.Cache, command: Path, before: Traces, tmp_path: Path
) -> None:
    cluster(command, "up", "--nodes", "1")
    cluster(command, "load", f"{toolbox.write(where, tmp_path / 'toolbox.tar')}")
    cluster(command, "start", "n3")
    view = kube.Kube(where, namespace="default")
    view.wait(
        lambda: "default" in view.kubectl("get", "serviceaccounts", "-o", "name"),
        "pods can be made",
    )
    view.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "late"},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": "n3"},
                "containers": [{"name": "main", "image": toolbox.REFERENCE}],
            },
        }
    )
    view.ready("late")
    assert view.address("late").startswith("10.244.3.")
    cluster(command, "stop", "n3")
    assert subprocess.run([command, "status"], check=False).returncode == 1
    assert subprocess.run([command, "exec", "n3", "--", "true"], check=False).returncode == 1
    cluster(command, "start", "n3")
    view.wait(
        lambda: view.get("pod", "late")["status"]["containerStatuses"][0]["restartCount"] == 1,
        "the kubelet starts the container again",
    )
    view.ready("late")
    view.inside("late", "true")
    cluster(command, "down")
    assert Traces.of(where) == before


def test_up_heals_what_was_killed(where: cache.Cache, command: Path, before: Traces) -> None:
    cluster(command, "up")
    records = processes.Records(where.run, os.fspath(where.cluster))
    for name in ("kube-apiserver", "coredns", "node-n1", "launch-n2"):
        victim = records.load(name)
        assert victim is not None, name
        victim.kill(signal.SIGKILL)
    time.sleep(0.5)
    assert subprocess.run([command, "status"], check=False).returncode == 1
    cluster(command, "up")
    assert subprocess.run([command, "status"], check=False).returncode == 0
    cluster(command, "down")
    assert Traces.of(where) == before


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 2.0, 3.5])
def test_down_after_an_up_that_was_killed(
    where: cache.Cache, command: Path, before: Traces, seconds: float
) -> None:
    with subprocess.Popen([command, "up"], stderr=subprocess.DEVNULL) as starting:
        time.sleep(seconds)
        starting.kill()
    cluster(command, "down")
    assert Traces.of(where) == before


def test_up_after_an_up_that_was_killed(where: cache.Cache, command: Path, before: Traces) -> None:
    for seconds in (0.3, 0.5, 1.5):
        with subprocess.Popen([command, "up"], stderr=subprocess.DEVNULL) as starting:
            time.sleep(seconds)
            starting.kill()
    cluster(command, "up")
    assert subprocess.run([command, "status"], check=False).returncode == 0
    cluster(command, "down")
    assert Traces.of(where) == before


def test_down_after_its_state_was_deleted(
    where: cache.Cache, command: Path, before: Traces
) -> None:
    cluster(command, "up", "--nodes", "1")
    for path in where.run.iterdir():
        path.unlink()
    cluster(command, "down")
    assert Traces.of(where) == before
    assert addresses.BRIDGE not in Traces.of(where).links
