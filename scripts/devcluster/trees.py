"""Removing folders that a cut-short command may have left with mounts in them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from devcluster import commands


def remove(folder: Path) -> None:
    """Remove a folder, whatever is mounted under it first unmounted."""
    inside = os.fspath(folder) + "/"
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((point for point in mounts if point.startswith(inside)), reverse=True):
        commands.run(["umount", mount])
    if folder.exists():
        shutil.rmtree(folder)


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            remove(entry)
        else:
            entry.unlink()
