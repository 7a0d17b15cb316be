"""Faults, made by real means: files of the store, mounts in the agent's container, signals."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e import node, place
from showcase import example

Object = dict[str, Any]

_MOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1] == 'bind':
    failed = libc.mount(os.fsencode(sys.argv[2]), os.fsencode(sys.argv[3]), None, 4096, None)
else:
    failed = libc.umount2(os.fsencode(sys.argv[2]), 2)
if failed:
    sys.exit(f'{sys.argv[1:]}: {os.strerror(ctypes.get_errno())}')
"""


@contextlib.contextmanager
def flipped_byte(path: Path, at: int) -> Iterator[None]:
    """One bit of one byte of a file is wrong; put right at the end."""
    before = _exchange(path, at, None)
    _exchange(path, at, bytes([before[0] ^ 1]))
    try:
        yield
    finally:
        _exchange(path, at, before)


def _exchange(path: Path, at: int, data: bytes | None) -> bytes:
    fd = os.open(path, os.O_RDWR)
    try:
        before = os.pread(fd, 1, at)
        if data is not None:
            os.pwrite(fd, data, at)
        return before
    finally:
        os.close(fd)


@contextlib.contextmanager
def missing(path: Path) -> Iterator[None]:
    """The file is away; back at the end."""
    away = path.with_name(f".{path.name}.away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


@contextlib.contextmanager
def digest_in_status(here: place.Place, name: str, digest: str) -> Iterator[None]:
    """The checkpoint's status names another digest for its newest artifact."""
    right = here.checkpoint(name)["status"]["variants"]
    wrong = [{**right[0], "digest": digest}, *right[1:]]
    path = here.checkpoint_path(name) + "/status"
    here.live.merge(path, {"status": {"variants": wrong}})
    try:
        yield
    finally:
        here.live.merge(path, {"status": {"variants": right}})


@contextlib.contextmanager
def replaced_in_agent(here: place.Place, on: str, path: str, other: str) -> Iterator[None]:
    """A file of the agent's image is another one for the agent on a node (a bind mount)."""
    agent = node.agent(here.live, here.namespace, on)
    here.exec(agent, "python3", "-c", _MOUNT, "bind", other, path, container="agent")
    try:
        yield
    finally:
        here.exec(agent, "python3", "-c", _MOUNT, "unmount", path, container="agent")


@contextlib.contextmanager
def without_agent(here: place.Place, on: str) -> Iterator[None]:
    """A node on which no agent may run; there is one again at the end."""
    live = here.live
    agent = node.agent(live, here.namespace, on)
    live.kubectl("taint", "nodes", on, "chrek.test/no-agent=:NoSchedule", "--overwrite")
    try:
        live.kubectl(
            "delete", "pod", agent["metadata"]["name"], f"--namespace={here.namespace}",
            "--grace-period=5", timeout=60,
        )  # fmt: skip
        yield
    finally:
        live.kubectl("taint", "nodes", on, "chrek.test/no-agent-")
        node.agent(live, here.namespace, on)


TOLERATION = {"key": "chrek.test/no-agent", "operator": "Exists"}


def largest_pages(artifact: Path) -> Path:
    """The file that holds most of the captured memory."""
    return max(artifact.glob("criu/pages-*.img"), key=lambda path: path.stat().st_size)


def newest(here: place.Place, name: str) -> Object:
    return example.variant(here.checkpoint(name))
