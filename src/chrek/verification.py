"""Whether an artifact's files are those that its manifest describes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Iterable

from chrek import digest, manifest
from chrek import store as stores


def is_pages(file: manifest.File) -> bool:
    """Whether it is memory of the tree, which CRIU reads last."""
    return file.name.startswith(f"{stores.IMAGES}/pages-")


def begin(
    artifact: stores.Artifact,
    files: Iterable[manifest.File],
    pool: digest.Pool,
    stack: contextlib.ExitStack,
) -> list[concurrent.futures.Future[None]]:
    """Start reading and verifying files; each future raises ArtifactError on a difference.

    Args:
        stack: closes the files, so it must outlive the futures.

    Raises:
        ArtifactError: one is missing or has another size. StoreError: it cannot be read.
    """
    futures = []
    for file in files:
        fd = stores.open_file(artifact, file.name)
        stack.callback(os.close, fd)
        futures += pool.verify(fd, file)
    return futures


def whole(artifact: stores.Artifact) -> None:
    """Compare all files of an artifact with its manifest.

    Raises:
        ArtifactError: on the first difference. StoreError: a file cannot be read.
    """
    # The pool's threads end before the files are closed.
    with contextlib.ExitStack() as stack, digest.Pool() as pool:
        for future in begin(artifact, artifact.manifest.files, pool, stack):
            future.result()
