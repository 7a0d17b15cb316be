"""The GPUs of one container, for whoever captures or restores it.

Knows nothing of Kubernetes but the UUIDs that somebody else may have been told by the kubelet.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from chrek import compatibility, errors, log, manifest, names, procfs
from chrek.cuda import allocation, client, mapping, suspension


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the GPU state of an artifact comes back in a container."""

    sizes: Mapping[int, int]
    """Pid in its PID namespace of each process that used GPUs -> bytes of device memory."""
    uuids: Mapping[str, str] | None
    """GPU of the capture -> GPU of this node, for all of both; None: they are the same."""


class Gpus:
    """The GPUs that one container has, through the driver's helper."""

    def __init__(
        self,
        helper: client.Helper,
        *,
        allocated: Callable[[], Sequence[str] | None] = lambda: None,
        lock_timeout_seconds: float = 60.0,
    ) -> None:
        """Nothing is asked yet.

        Args:
            allocated: UUIDs of the GPUs that the kubelet gave to the container; None where nobody
                knows, and its device files tell.
            lock_timeout_seconds: how long work that is on a GPU may take to end before a capture.
        """
        self._helper = helper
        self._allocated = allocated
        self._lock_timeout_seconds = lock_timeout_seconds

    def facts(self, init_pid: int) -> compatibility.GpuFacts:
        """What is compared between a captured container and a new one.

        Raises:
            GpuError: the driver does not answer, or a GPU of the container is not known to it.
        """
        if not allocation.has_device_files(init_pid):
            return compatibility.GpuFacts()
        node = self._helper.node()
        devices = allocation.of_container(node, init_pid, self._allocated())
        if not devices:
            return compatibility.GpuFacts()
        return compatibility.GpuFacts(
            devices=tuple(devices), driver=node.driver, node=tuple(gpu.uuid for gpu in node.gpus)
        )

    def used_bytes(self, pids: Iterable[int]) -> dict[str, int]:
        """UUID of each GPU that processes use -> bytes of its memory that they have."""
        wanted = set(pids)
        return {
            usage.uuid: sum(usage.processes[pid] for pid in usage.processes.keys() & wanted)
            for usage in self._helper.usage()
            if usage.processes.keys() & wanted
        }

    @contextlib.contextmanager
    def suspended(
        self,
        pids: Sequence[int],
        logger: log.Logger,
        seconds: dict[str, float],
        *,
        on_stuck: suspension.OnStuck,
    ) -> Iterator[suspension.Suspension]:
        """Have the device memory of processes in their own memory.

        On leaving, what still lives goes on with its GPUs.

        Args:
            on_stuck: called with processes that live and cannot go on.

        Raises:
            GpuError: it could not be brought there; all of them go on.
        """
        with suspension.Suspension.begin(
            self._helper,
            pids,
            usage=self._helper.usage(),
            lock_timeout_seconds=self._lock_timeout_seconds,
            logger=logger,
            seconds=seconds,
            on_stuck=on_stuck,
        ) as suspended:
            yield suspended

    def release(
        self, pids: Sequence[int], logger: log.Logger, *, on_stuck: suspension.OnStuck
    ) -> None:
        """Have processes go on that an agent, which was killed, left suspended.

        Raises:
            GpuError: the driver does not answer.
        """
        suspension.release(self._helper, pids, logger, on_stuck=on_stuck)

    def plan(self, described: manifest.Manifest, init_pid: int) -> Plan:
        """How an artifact's GPU state would come back in a container with nothing but PID 1.

        Raises:
            CompatibilityError, GpuError: it cannot.
        """
        state, source = described.gpu, described.source
        if (
            state is msgspec.UNSET
            or source.gpuDevices is msgspec.UNSET
            or source.gpuNode is msgspec.UNSET
        ):
            raise errors.ArtifactError("manifest: no state of GPUs, or not of which")
        if state.memory != "host":
            raise errors.ArtifactError(
                f"manifest: gpu.memory {state.memory} cannot be restored",
                reason=names.Reason.ARTIFACT_UNREADABLE,
                hint="use the chrek version that made it, or make the checkpoint again",
            )
        here = self.facts(init_pid)
        uuids = mapping.extend(
            [gpu.uuid for gpu in source.gpuDevices],
            source.gpuNode,
            [gpu.uuid for gpu in here.devices],
            here.node,
        )
        usage = self._helper.usage()
        by_uuid = {gpu.uuid: gpu for gpu in here.devices}
        for old, needed in state.used.items():
            new = by_uuid.get(uuids.get(old, old) if uuids else old)
            if new is not None:
                mapping.fits(needed, [new], usage)
        return Plan({process.pid: process.bytes for process in state.processes}, uuids)

    def resume(
        self, plan: Plan, init_pid: int, logger: log.Logger, seconds: dict[str, float]
    ) -> None:
        """Bring device memory back to the GPUs once the processes run again.

        Raises:
            GpuError: at least one of them cannot go on.
        """
        inside: dict[int, int] = {}
        for pid in procfs.in_pid_namespace(init_pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                inside[procfs.status(pid).nspids[-1]] = pid
        missing = [pid for pid in plan.sizes if pid not in inside]
        if missing:
            raise errors.GpuError(
                f"process {missing[0]} had used a GPU and was not restored",
                reason=names.Reason.GPU_RESTORE_FAILED,
            )
        sizes = {inside[pid]: size for pid, size in plan.sizes.items()}
        if plan.uuids:
            logger.info("gpu map", map=mapping.describe(plan.uuids))
        suspension.resume(self._helper, [*sizes], plan.uuids, logger, seconds, sizes=sizes)
