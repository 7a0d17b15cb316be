"""Several processes of pytest-xdist on one cluster, each with a release of its own.

Most of these tests wait: for a kubelet, for helm, for a pod that ends. So scripts/test runs a few
lanes side by side, whole files in each. A lane's namespaces, release, volume and agents are its
own; nodes, CRDs and the API server are everybody's, and whoever changes those runs alone, last.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest
from xdist.scheduler import LoadScopeScheduling

from showcase import commands

NAME = os.environ.get("PYTEST_XDIST_WORKER", "")
"""Of this process; empty when there is one alone, as `pytest tests/e2e/test_x.py` is."""
SUFFIX = "" if NAME in ("", "gw0") else f"-{NAME}"

LAST = (
    "test_late_node",  # a node that comes and goes
    "test_no_agent",  # a taint
    "test_startup_taint",  # a taint
    "test_soak",  # everything of this machine is counted
    "test_api_server_gone",
    "test_upgrade",  # CRDs of the last release
    "test_with_platform",  # CRDs of somebody else
)
"""In this order, with nothing beside them."""
FIRST = (
    "test_conformance",
    "test_documented_release",
    "test_remote_stores",
    "test_checkpoint_life",
    "test_broken",
    "test_operator_killed",
    "test_fallback",
)
"""What takes longest, so that no lane is left with it at the end."""
TOGETHER = {name: "gpus" for name in ("test_complete_examples", "test_gpu", "test_sources")}
"""One after the other: each says how many GPUs the nodes have."""
LAST_OF_GROUP = "test_gpu"
"""For five minutes the kubelet writes over the GPUs that others give a node: those of its plugin,
which is gone."""
APART = ("test_remote_stores",)
"""Its parameters share nothing."""
ALONE = "alone"


def group(nodeid: str) -> str:
    """Tests of one group run in one lane, in their order."""
    path, _, name = nodeid.partition("::")
    stem = Path(path).stem
    if stem in APART:
        return f"{stem}[{name.partition('[')[2]}"
    return ALONE if stem in LAST else TOGETHER.get(stem, stem)


def arranged(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The items, what takes longest first and what is alone last."""
    stems = [*FIRST, "", LAST_OF_GROUP, *LAST]
    ranks = {stem: number for number, stem in enumerate(stems)}
    return sorted(items, key=lambda item: ranks.get(item.path.stem, len(FIRST)))


class Scheduler(LoadScopeScheduling):  # type: ignore[misc] # it has no types
    """Gives a lane a group at a time.

    Its own --dist=loadgroup is no help: it has written to attributes that pytest has no more.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)

    def schedule(self) -> None:
        # The order is that of `arranged`.
        self.config.option.loadscopereorder = False
        super().schedule()


class Turn:
    """Whose turn it is: that of many lanes, or of one alone.

    Whoever wants to be alone keeps the door shut while it waits, so that nobody new comes in.
    """

    def __init__(self) -> None:
        self._held: IO[bytes] | None = None
        self._group = ""

    @contextlib.contextmanager
    def during(self, item: pytest.Item, following: pytest.Item | None) -> Iterator[None]:
        """Hold it while a test runs, and on to the last of its group."""
        if not NAME:
            yield
            return
        mine = group(item.nodeid)
        if self._held is None or self._group != mine:
            self._leave()
            self._enter(mine)
        try:
            yield
        finally:
            if following is None or group(following.nodeid) != mine:
                self._leave()

    def _enter(self, mine: str) -> None:
        with _file("door") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            self._held = _file("room")
            fcntl.flock(self._held, fcntl.LOCK_EX if mine == ALONE else fcntl.LOCK_SH)
        self._group = mine

    def _leave(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def _file(name: str) -> IO[bytes]:
    folder: Path = commands.cache() / "test"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"lanes-{name}.lock").open("wb")
