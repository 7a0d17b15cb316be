"""What the worker of the round trip answers, and whether it is the same worker before and after."""

from __future__ import annotations

import dataclasses
import json
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from chrek import errors
from chrek.hooks import counter

TIMEOUT_SECONDS = 2
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a worker knows of its own memory.

    Attributes:
        nonce: drawn when the process started.
        count: how often it was asked.
        ballast: digest of random bytes, and `size`, how many.
    """

    nonce: str
    count: int
    ballast: str
    size: int

    def __str__(self) -> str:
        size = f"{self.size / 2**20:.0f} MiB"
        return f"nonce {self.nonce[:8]}, count {self.count}, {size} {self.ballast[:8]}"


@dataclasses.dataclass(frozen=True)
class Files:
    """What a worker reads in its files: a digest or a problem for each path."""

    digests: Mapping[str, str]
    problems: Mapping[str, str]

    def __str__(self) -> str:
        places = dict.fromkeys(path.rpartition("/")[0] for path in self.digests)
        return f"{len(self.digests)} in {', '.join(places)}"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What a worker reads in the memory of its GPU, or the problem that it has with it.

    Attributes:
        uuid: of the GPU.
        count: how often it was asked; a number that is on the GPU.
        ballast: digest of random bytes, and `size`, how many.
    """

    uuid: str = ""
    count: int = 0
    ballast: str = ""
    size: int = 0
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        size = f"{self.size / 2**20:.0f} MiB"
        return f"count {self.count}, {size} {self.ballast[:8]} on {self.uuid[:12]}"


def memory(address: str) -> Memory:
    """Ask a worker.

    Raises:
        OSError, ValueError: it does not answer.
    """
    said, ballast = _request("GET", address, "/count"), _request("GET", address, "/ballast")
    return Memory(said["nonce"], said["count"], ballast["digest"], ballast["bytes"])


def files(address: str) -> Files:
    """Have a worker read its files.

    Raises:
        OSError, ValueError: it does not answer.
    """
    return Files(**_request("GET", address, "/files"))


def gpu(address: str) -> Gpu:
    """Have a worker of `counter_gpu` read the memory of its GPU.

    Raises:
        OSError, ValueError: it does not answer.
    """
    said = _request("GET", address, "/gpu")
    if "problem" in said:
        return Gpu(problem=said["problem"])
    return Gpu(said["uuid"], said["count"], said["digest"], said["bytes"])


def attempt(question: Callable[[str], T], address: str) -> T | None:
    """Ask; None when there is no answer."""
    try:
        return question(address)
    except (OSError, ValueError):
        return None


def release(address: str) -> None:
    """Tell a worker to be ready from now on.

    Raises:
        ChrekError: it does not answer.
    """
    try:
        _request("POST", address, "/go")
    except (OSError, ValueError) as err:
        raise errors.ChrekError(f"the worker at {address} stopped answering: {err}") from err


def check_written(before: Files) -> None:
    """Whether the worker could write its files at all.

    Raises:
        ChrekError: naming those that it could not.
    """
    if before.problems:
        raise errors.ChrekError(
            f"the worker could not write its files: {'; '.join(before.problems.values())}",
            hint="let pods write into their root file system, emptyDir and /dev/shm, or run the "
            "test in a namespace whose policies do",
        )


def compare_memory(before: Memory, after: Memory) -> None:
    """Whether the same memory answered twice.

    Raises:
        ChrekError: the nonce or the ballast is another, or the counter did not go on.
    """
    if after.nonce != before.nonce:
        raise errors.ChrekError(
            f"another process answers: its nonce is {after.nonce[:8]}, the captured one's was "
            f"{before.nonce[:8]}",
            hint="the pod says that it was restored, but its memory is new: report this as a bug",
        )
    if after.count <= before.count:
        raise errors.ChrekError(
            f"the counter went from {before.count} to {after.count}",
            hint="memory of an earlier moment came back: report this as a bug",
        )
    if (after.ballast, after.size) != (before.ballast, before.size):
        raise errors.ChrekError(
            f"memory changed: {before.size} bytes had the digest {before.ballast[:8]}, now it is "
            f"{after.ballast[:8]} of {after.size}",
            hint="some of the memory is not what was captured: report this as a bug",
        )


def compare_gpu(before: Gpu, after: Gpu) -> None:
    """Whether a worker finds on its GPU what it had put onto the one of the capture.

    Raises:
        ChrekError: it cannot read it, the bytes are others, or the counter did not go on.
    """
    if after.problem:
        raise errors.ChrekError(
            f"the restored worker cannot use its GPU: {after.problem}",
            hint="the pod says that it was restored, GPU memory included: report this as a bug",
        )
    if (after.ballast, after.size) != (before.ballast, before.size):
        raise errors.ChrekError(
            f"GPU memory changed: {before.size} bytes had the digest {before.ballast[:8]}, now it "
            f"is {after.ballast[:8]} of {after.size}",
            hint="some of the GPU's memory is not what was captured: report this as a bug",
        )
    if after.count <= before.count:
        raise errors.ChrekError(
            f"the counter on the GPU went from {before.count} to {after.count}",
            hint="GPU memory of an earlier moment came back: report this as a bug",
        )


def compare_files(before: Files, after: Files) -> None:
    """Whether a worker finds in its files what it had written.

    Raises:
        ChrekError: naming each file with what it holds, and what it held.
    """
    differ = [
        f"{path} had the digest {digest[:8]}, now {_state(after, path)}"
        for path, digest in before.digests.items()
        if after.digests.get(path) != digest
    ]
    if differ:
        raise errors.ChrekError(
            f"files changed: {'; '.join(differ)}",
            hint="the pod was restored without what its worker had written: report this as a bug",
        )


def _state(found: Files, path: str) -> str:
    if path in found.digests:
        return found.digests[path][:8]
    return f"it cannot be read: {found.problems.get(path, 'nobody knows of it')}"


def _request(method: str, address: str, path: str) -> dict[str, Any]:
    host = f"[{address}]" if ":" in address else address
    request = urllib.request.Request(f"http://{host}:{counter.PORT}{path}", method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - http
        found: dict[str, Any] = json.load(answer)
    return found
