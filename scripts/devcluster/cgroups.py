"""A node's cgroup: made before its processes, removed after them, on cgroup v1 and v2."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from devcluster import errors, steps

ROOT = Path("/sys/fs/cgroup")


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The roots in which a node has a cgroup: one on v2, one per controller on v1.

    On v1 `unified` is among them: runc makes the cgroup there too.
    """
    if (root / "cgroup.controllers").exists():
        return [root]
    # cpu and cpuacct may be links to one shared hierarchy.
    return sorted({path.resolve() for path in root.iterdir() if path.is_dir()})


def create(name: str) -> None:
    """Make a cgroup of that name, usable for children, in each hierarchy."""
    for hierarchy in hierarchies():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        if hierarchy == ROOT:
            controllers = (hierarchy / "cgroup.controllers").read_text().split()
            enabled = " ".join(f"+{one}" for one in controllers)
            for parent in (hierarchy, folder):
                (parent / "cgroup.subtree_control").write_text(enabled)
        # A v1 cpuset starts empty, and an empty one takes no process.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if hierarchy.name == "cpuset" and (hierarchy / setting).exists():
                (folder / setting).write_text((hierarchy / setting).read_text())


def present(name: str) -> list[Path]:
    """The folders of that cgroup that exist."""
    return [hierarchy / name for hierarchy in hierarchies() if (hierarchy / name).is_dir()]


def remove(name: str) -> None:
    """Remove a cgroup with everything below; what still runs in it is killed.

    Raises:
        ClusterError: the kernel keeps it.
    """
    left: list[str] = []

    def gone() -> bool:
        left[:] = [f"{folder}" for folder in present(name) if not _remove_tree(folder)]
        return not left

    steps.wait_until(
        gone, f"cgroup {name} is removed", timeout_seconds=15, interval_seconds=0.05,
        explain=lambda: "still there: " + ", ".join(left),
    )  # fmt: skip


def _remove_tree(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            _kill_members(Path(folder))
            return False
    return True


def _kill_members(folder: Path) -> None:
    try:
        members = (folder / "cgroup.procs").read_text().split()
    except OSError:
        return
    for pid in members:
        if int(pid) in (0, os.getpid()):
            raise errors.ClusterError(f"this process itself is in {folder}")
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
