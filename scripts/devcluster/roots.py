"""The Debian root file systems: the nodes' and the container base image's.

One debootstrap gives the base; the nodes' root is a copy of it with more packages.
Each has a stamp of what it was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from devcluster import cache, commands, prerequisites, steps, trees

SUITE = "trixie"

NODE_PACKAGES = [
    "busybox-static",
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "docker-registry",
    "e2fsprogs",
    "etcd-client",
    "etcd-server",
    "ethtool",
    "iproute2",
    "iptables",
    "kmod",
    "libnuma1",
    "mount",
    "nftables",
    "procps",
    "python3",
    "runc",
    "socat",
    "util-linux",
]

# A mirror that lags behind keeps index files past the date that they bear.
APT_CONFIGURATION = 'Acquire::Check-Valid-Until "false";\n'

# As in every container image of Debian: no package may start a service.
POLICY = "#!/bin/sh\nexit 101\n"


def ensure_base(where: cache.Cache) -> Path:
    """Build the base image's root file system if need be, and return its tar."""
    wanted = _digest("base", SUITE, APT_CONFIGURATION)
    if _stamped(where.base, wanted) and where.base_tar.exists():
        return where.base_tar
    prerequisites.require_root("base-image")
    prerequisites.ensure(prerequisites.FOR_ROOTS)
    root = where.base / "root"
    log = where.build_log / "debootstrap.log"
    with steps.step(f"Bootstrap Debian {SUITE}"):
        trees.remove(root)
        root.mkdir(parents=True)
        where.packages.mkdir(parents=True, exist_ok=True)
        commands.run(
            ["debootstrap", "--variant=minbase", f"--cache-dir={where.packages}", SUITE, f"{root}"],
            log=log,
        )
        (root / "usr/sbin/policy-rc.d").write_text(POLICY)
        (root / "usr/sbin/policy-rc.d").chmod(0o755)
        (root / "etc/apt/apt.conf.d/80check-valid-until").write_text(APT_CONFIGURATION)
        # The host's resolver and name must not become part of an image.
        for name in ("etc/resolv.conf", "etc/hostname"):
            (root / name).unlink(missing_ok=True)
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            trees.empty(root / folder)
    with steps.step(f"Write {where.base_tar}"):
        draft = where.base_tar.with_suffix(".draft")
        commands.run(
            ["tar", "--create", "--numeric-owner", "--xattrs", "--one-file-system", "--sort=name",
             f"--file={draft}", f"--directory={root}",
             "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./dev/*", "."]
        )  # fmt: skip
        draft.replace(where.base_tar)
        trees.remove(root)
    _stamp(where.base, wanted)
    return where.base_tar


def node_is_current(where: cache.Cache) -> bool:
    """Whether the nodes' root file system is there and what it would be made from today."""
    wanted = _digest("node", SUITE, *NODE_PACKAGES)
    return _stamped(where.node, wanted) and where.node_root.exists()


def ensure_node(where: cache.Cache) -> Path:
    """Build the root file system that the nodes share if need be, and return it."""
    if node_is_current(where):
        return where.node_root
    ensure_base(where)
    prerequisites.ensure(prerequisites.FOR_ROOTS)
    with steps.step("Install the nodes' packages"):
        draft = where.node / "draft"
        trees.remove(draft)
        draft.mkdir(parents=True)
        commands.run(["tar", "--extract", f"--file={where.base_tar}", f"--directory={draft}"])
        shutil.copyfile("/etc/resolv.conf", draft / "etc/resolv.conf")
        log = where.build_log / "node-root.log"
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        with _mounted(where, draft):
            inside = ["chroot", f"{draft}", "apt-get"]
            commands.run([*inside, "update"], env=quiet, log=log)
            commands.run(
                [*inside, "install", "--yes", "--no-install-recommends",
                 "--option=Dpkg::Options::=--force-unsafe-io", *NODE_PACKAGES],
                env=quiet, log=log,
            )  # fmt: skip
        trees.empty(draft / "var/lib/apt/lists")
        trees.remove(where.node_root)
        draft.rename(where.node_root)
    _stamp(where.node, _digest("node", SUITE, *NODE_PACKAGES))
    return where.node_root


@contextlib.contextmanager
def _mounted(where: cache.Cache, root: Path) -> Iterator[None]:
    """/proc and the packages' cache, while packages are installed."""
    archives = root / "var/cache/apt/archives"
    # debootstrap wants a flat folder, apt a partial/ in it.
    (where.packages / "partial").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for argv, target in (
            (["mount", "--types", "proc", "proc"], root / "proc"),
            (["mount", "--bind", f"{where.packages}"], archives),
        ):
            commands.run([*argv, f"{target}"])
            stack.callback(commands.run, ["umount", f"{target}"])
        yield


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _stamped(folder: Path, wanted: str) -> bool:
    stamp = folder / "stamp"
    return stamp.exists() and stamp.read_text() == wanted


def _stamp(folder: Path, wanted: str) -> None:
    (folder / "stamp").write_text(wanted)
