"""BLAKE3 of files, chunk by chunk, on several threads.

Reading for a digest is also what brings a file into the page cache, where CRIU then finds it.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading

import blake3

from chrek import errors, manifest

THREADS = max(1, min(4, os.cpu_count() or 1))
BESIDE_CRIU = max(1, THREADS - 1)
"""Threads while CRIU works, which is what a restore waits for: one core is CRIU's."""


class Pool:
    """Threads that digest chunks.

    `cancel()` stops everything that is still queued; a restore that has failed waits for nobody.
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._executor = concurrent.futures.ThreadPoolExecutor(
            threads, thread_name_prefix="chrek-digest"
        )
        self._buffers = threading.local()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Drop what has not started, wait for what has."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def chunks(self, fd: int, size: int) -> list[str]:
        """Digests of all chunks of an open file."""
        spans = range(0, size, manifest.CHUNK_BYTES)
        return list(self._executor.map(lambda at: self._chunk(fd, at, size), spans))

    def verify(self, fd: int, file: manifest.File) -> list[concurrent.futures.Future[None]]:
        """Start verifying an open file; each future raises ArtifactError on a difference."""
        try:
            _check_size(os.fstat(fd).st_size, file)
        except OSError as err:
            raise errors.StoreError(f"{file.name}: {err.strerror}") from err
        return [
            self._executor.submit(self._verify_chunk, fd, file, index)
            for index in range(len(file.chunks))
        ]

    def verify_bytes(self, data: bytes, file: manifest.File) -> None:
        """Verify a file that is in memory.

        Raises:
            ArtifactError: on a difference.
        """
        _check_size(len(data), file)
        spans = range(0, len(data), manifest.CHUNK_BYTES)
        found = [blake3.blake3(data[at : at + manifest.CHUNK_BYTES]).hexdigest() for at in spans]
        for index, (one, other) in enumerate(zip(found, file.chunks, strict=True)):
            if one != other:
                raise _different(file, index)

    def _verify_chunk(self, fd: int, file: manifest.File, index: int) -> None:
        at = index * manifest.CHUNK_BYTES
        try:
            found = self._chunk(fd, at, file.size)
        except OSError as err:
            raise errors.StoreError(f"{file.name}: {err.strerror}") from err
        if found != file.chunks[index]:
            raise _different(file, index)

    def _chunk(self, fd: int, at: int, size: int) -> str:
        length = min(manifest.CHUNK_BYTES, size - at)
        if not hasattr(self._buffers, "view"):
            self._buffers.view = memoryview(bytearray(manifest.CHUNK_BYTES))
        view: memoryview = self._buffers.view[:length]
        done = 0
        while done < length:
            count = os.preadv(fd, [view[done:]], at + done)
            if not count:
                break
            done += count
        return blake3.blake3(view[:done]).hexdigest()


def _check_size(size: int, file: manifest.File) -> None:
    if size != file.size:
        raise errors.ArtifactError(f"{file.name}: {size} bytes instead of {file.size}")


def _different(file: manifest.File, index: int) -> errors.ArtifactError:
    at = index * manifest.CHUNK_BYTES
    return errors.ArtifactError(
        f"{file.name}: the bytes from {at} on are not those that were captured",
        hint="the artifact is damaged: make the checkpoint again",
    )
