"""Prometheus and promtool, out of Debian's package, which would start a service if installed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from devcluster import cache, commands, errors, steps

PACKAGE = "prometheus"
PROGRAMS = ["prometheus", "promtool"]

# A mirror that lags behind keeps index files past the date that they bear.
_APT = ["apt-get", "-o", "Acquire::Check-Valid-Until=false"]


def ensure(where: cache.Cache) -> None:
    """See that both programs are in bin/ or on PATH.

    Raises:
        ClusterError: they are not, and there is no Debian to get them from.
    """
    placed = _stamp(where).exists() and all((where.bin / name).exists() for name in PROGRAMS)
    if placed or not commands.missing(PROGRAMS):
        return
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise errors.ClusterError(
            f"missing programs: {', '.join(commands.missing(PROGRAMS))}",
            hint="put Prometheus' release, 2.42 or later, on PATH",
        )
    where.bin.mkdir(parents=True, exist_ok=True)
    with (
        steps.step(f"Fetch {', '.join(PROGRAMS)}"),
        # Beside bin/, so that a program is moved there as a whole.
        tempfile.TemporaryDirectory(dir=where.root, prefix="prometheus-") as text,
    ):
        folder = Path(text)
        package = _download(folder)
        commands.run(["dpkg-deb", "--extract", f"{package}", f"{folder}"])
        for name in PROGRAMS:
            (folder / "usr/bin" / name).replace(where.bin / name)
        _stamp(where).parent.mkdir(exist_ok=True)
        _stamp(where).write_text(package.name)


def _download(folder: Path) -> Path:
    """The package's file, without what it depends on: its pages' scripts, which nobody asks for."""
    wanted = [*_APT, "download", PACKAGE]
    try:
        commands.run(wanted, cwd=folder)
    except errors.CommandError:
        # No index yet, or one that names a file that the mirror has replaced.
        commands.run([*_APT, "update"])
        commands.run(wanted, cwd=folder)
    (found,) = folder.glob("*.deb")
    return found


def _stamp(where: cache.Cache) -> Path:
    return where.bin / ".stamps" / PACKAGE
