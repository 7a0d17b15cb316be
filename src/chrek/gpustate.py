"""Device memory around a dump and before a restore: what is checked, what a manifest says of it.

A worker's device memory goes through its own memory, so there must be room for it: in the limits of
its container and on its node. Source: the CUDA driver API's section on checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
from collections.abc import Iterator

import msgspec

from chrek import compatibility, errors, facts, log, manifest, names, procfs
from chrek.cuda import gpus as devices
from chrek.cuda import hostmemory, suspension


@dataclasses.dataclass(frozen=True)
class Held:
    """The GPU state of a tree that is being captured."""

    facts: compatibility.GpuFacts = dataclasses.field(default_factory=compatibility.GpuFacts)
    suspension: suspension.Suspension | None = None
    used: dict[str, int] = dataclasses.field(default_factory=dict)
    """UUID of a GPU -> bytes of its memory that the tree uses."""

    @property
    def state(self) -> manifest.GpuState | msgspec.UnsetType:
        """What a restore must be told; unset where no process used a GPU."""
        if self.suspension is None or not self.suspension.processes:
            return msgspec.UNSET
        return manifest.GpuState(
            processes=[
                manifest.GpuProcess(pid=process.nspid, bytes=process.bytes)
                for process in self.suspension.processes
            ],
            used=self.used,
        )

    def resume(self) -> None:
        """Have the tree go on with its GPUs.

        Raises:
            GpuError: it cannot.
        """
        if self.suspension is not None:
            self.suspension.resume()


@contextlib.contextmanager
def suspended(
    init_pid: int,
    root_pid: int,
    gpus: devices.Gpus | None,
    logger: log.Logger,
    seconds: dict[str, float],
) -> Iterator[Held]:
    """While inside, the device memory of a tree is in its own memory; then it goes on.

    Args:
        init_pid: PID 1 of the container.
        root_pid: root of the tree.
        gpus: of the container; None where no NVIDIA driver can be used.

    Raises:
        UnsupportedError: there is no room for it in host memory.
        GpuError: the driver failed. The tree goes on or, where the driver cannot bring back its
            device memory, was ended.
    """
    if gpus is None or not (known := gpus.facts(init_pid)).devices:
        yield Held()
        return
    pids = procfs.tree(root_pid)
    used = gpus.used_bytes(pids)
    _check_host_memory(sum(used.values()), init_pid, "GPU memory")
    end = functools.partial(_end, root_pid)
    with gpus.suspended(pids, logger, seconds, on_stuck=end) as found:
        yield Held(known, found, used)


def release(root_pid: int, gpus: devices.Gpus | None, logger: log.Logger) -> None:
    """Have a tree go on whose capture was cut off when the agent before this one was killed.

    Raises:
        GpuError: the driver does not answer.
    """
    if gpus is not None:
        end = functools.partial(_end, root_pid)
        gpus.release(procfs.tree(root_pid), logger, on_stuck=end)


def _end(root_pid: int, _stuck: object) -> None:
    # Its calls of CUDA would wait for ever; whoever runs the container starts another.
    with contextlib.suppress(ProcessLookupError):
        os.kill(root_pid, signal.SIGKILL)


def check(described: manifest.Manifest, init_pid: int, gpus: devices.Gpus | None) -> None:
    """Refuse what no container of this node, or none with these limits, could be given.

    Raises:
        CompatibilityError, UnsupportedError: says why.
    """
    if described.gpu is msgspec.UNSET:
        return
    if gpus is None:
        raise errors.CompatibilityError(
            "the artifact has GPU memory, and this node's agent has no NVIDIA driver to restore it",
            reason=names.Reason.GPU_UNAVAILABLE,
            hint="see what `chrek doctor` says of gpu on this node",
        )
    # All of it: device memory is in the processes' own when they are restored.
    needed = described.source.memoryUsedBytes or 0
    _check_host_memory(needed, init_pid, "the worker's memory", headroom=1.0)


def plan(
    described: manifest.Manifest, init_pid: int, gpus: devices.Gpus | None
) -> devices.Plan | None:
    """How the artifact's device memory comes back in a container; None where it has none.

    Raises:
        CompatibilityError, GpuError, ArtifactError: it cannot.
    """
    check(described, init_pid, gpus)
    if described.gpu is msgspec.UNSET or gpus is None:
        return None
    return gpus.plan(described, init_pid)


def _check_host_memory(
    needed_bytes: int, init_pid: int, what: str, *, headroom: float = hostmemory.HEADROOM
) -> None:
    hostmemory.check(
        needed_bytes,
        facts.memory_limit(init_pid),
        facts.memory_used(init_pid),
        hostmemory.available(),
        what,
        headroom=headroom,
    )
