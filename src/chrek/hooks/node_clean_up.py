"""Removes a release's directories from one node: what pods of the post-delete hook run.

`python3 -m chrek.hooks.node_clean_up --root /node --until SECONDS PATH...`: the directories of the
node that hold them are mounted below the root, and nothing else of it. No link is followed, and
nothing is removed that is mounted inside. Its last line goes to the hook. It knows no cluster, and
starts in a tenth of a second.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Collection, Sequence

import click

from chrek import errors, procfs

ROOT = pathlib.Path("/node")
TERMINATION_LOG = pathlib.Path(os.environ.get("CHREK_TERMINATION_LOG", "/dev/termination-log"))
TERMINATION_BYTES = 4096
"""What Kubernetes keeps of it."""


def clean_up(
    root: pathlib.Path, paths: Sequence[str], mounts: Collection[pathlib.Path]
) -> tuple[str, bool]:
    """Remove what can be removed.

    Args:
        root: where the node's directories are mounted.
        paths: directories, as the node names them.
        mounts: mount points of this process.

    Returns:
        What became of them, for a person, and whether none is left.
    """
    removed, problems = [], []
    for path in paths:
        try:
            if remove(root / path.lstrip("/"), mounts):
                removed.append(path)
        except errors.ChrekError as err:
            problems.append(f"{path} stays: {err}")
        except OSError as err:
            where = os.path.basename(err.filename or path)
            problems.append(f"{path} stays: {where}: {err.strerror}")
    told = [f"removed {', '.join(removed)}"] if removed else []
    return "; ".join([*told, *problems]) or "nothing was there", not problems


def remove(target: pathlib.Path, mounts: Collection[pathlib.Path]) -> bool:
    """Remove a directory with all that is in it.

    Returns:
        Whether there was one.

    Raises:
        ChrekError: it is no directory, or something is mounted in it.
        OSError: something in it cannot be removed; the rest may be gone.
    """
    if target.is_symlink():
        raise errors.ChrekError("it is a symbolic link, which is not followed")
    if not target.exists():
        return False
    if not target.is_dir():
        raise errors.ChrekError("it is no directory")
    inside = sorted(mount.relative_to(target) for mount in mounts if target in mount.parents)
    if inside:
        raise errors.ChrekError(f"something is mounted in it, at {inside[0]}")
    try:
        # It works with descriptors, so that a link planted meanwhile is not followed either.
        shutil.rmtree(target)
    except OSError as err:
        # A disk of its own, mounted there: it is as empty as it can be.
        if err.errno != errno.EBUSY or target not in mounts or any(target.iterdir()):
            raise
    return True


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--root", type=click.Path(path_type=pathlib.Path), default=ROOT, show_default=True)
@click.option(
    "--until", type=float, required=True, help="Time of day (seconds) when the order expires."
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def main(root: pathlib.Path, until: float, paths: tuple[str, ...]) -> None:
    """Remove them, say so and exit."""
    late = time.time() - until
    if late >= 0:
        # With its node a pod starts anew, and by then the release may be there again.
        conclude(f"nothing was removed: the order had expired {late:.0f} s ago by the node's clock")
        sys.exit(errors.ChrekError.exit_code)
    mounts = {pathlib.Path(mount.mount_point) for mount in procfs.mounts(os.getpid())}
    line, clean = clean_up(root, paths, mounts)
    conclude(line)
    sys.exit(0 if clean else errors.ChrekError.exit_code)


def conclude(line: str) -> None:
    """Print the last line and leave it as the termination message.

    `chrek.hooks.program` does the same, but takes seconds to import.
    """
    print(line, flush=True)
    with contextlib.suppress(OSError):
        TERMINATION_LOG.write_bytes(line.encode()[:TERMINATION_BYTES])


if __name__ == "__main__":
    main()
