"""Which rounds are done, in which order, and which of them this machine has no room for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from chrek import compatibility
from chrek.cuda import words
from gpucheck import machine, rounds, workload
from showcase import table

DEVICE_BYTES = 1 << 30
"""Beside a worker's data: contexts, and torch's own."""
HOST_FACTOR, HOST_BYTES = 1.1, 2 << 30
"""Device memory goes into host memory, and a process has some of its own."""
DISK_FACTOR, DISK_BYTES = 1.05, 1 << 30
"""Its artifact."""
FIRST_SECONDS = {"driver": 10.0, "torch": 60.0, "model": 60.0}
"""What a round is thought to take before one of its kind was done, whatever its size; a cold disk
gives torch slowly."""
SECONDS_PER_GIBIBYTE = 5.0


def rounds_of(
    works: Sequence[workload.Workload],
    sizes: Sequence[int],
    gpus: Sequence[compatibility.Gpu],
    *,
    repeat: int,
) -> list[rounds.Wanted]:
    """All rounds, the most telling first: time may be short.

    Args:
        works: the kinds of worker; the model has one size, and so does what goes to another GPU.
        sizes: bytes of device memory, the smallest first.
        repeat: how often the smallest is done; bigger ones are done once.
        gpus: of the machine. The first is used, and where the second is of its kind, that one is
            restored to as well.
    """
    smallest, *bigger = sizes
    first = [gpus[0].minor]

    def wanted(
        work: workload.Workload, size: int, target: Sequence[int] = first, goes_on: bool = False
    ) -> rounds.Wanted:
        return rounds.Wanted(
            work=work, device_bytes=size, source_gpus=first, target_gpus=target, goes_on=goes_on
        )

    found = [wanted(work, smallest, goes_on=True) for work in works]
    again = [work for work in works if work.name != "model"]
    if len(gpus) > 1 and gpus[1].model == gpus[0].model:
        found += [wanted(work, smallest, [gpus[1].minor]) for work in again]
    for _ in range(repeat - 1):
        found += [wanted(work, smallest) for work in again]
    for size in bigger:
        found += [wanted(work, size) for work in again]
    return found


def no_room(
    wanted: rounds.Wanted,
    usage: Sequence[words.Usage],
    gpus: Sequence[compatibility.Gpu],
    folder: Path,
    sight: machine.Sight,
) -> str:
    """Why a round does not fit now; empty if it does."""
    size = wanted.device_bytes
    minors = {*wanted.source_gpus, *wanted.target_gpus}
    uuids = {gpu.uuid for gpu in gpus if gpu.minor in minors}
    device = min((used.freeBytes for used in usage if used.uuid in uuids), default=0)
    host = machine.available_bytes(sight)
    disk = shutil.disk_usage(folder).free
    # Small sizes are of tests, on GPUs that are small as well.
    margin = min(1.0, size / rounds.GIBIBYTE)
    needs = (
        ("the GPU's memory", size + margin * DEVICE_BYTES, device),
        ("host memory", size * HOST_FACTOR + margin * HOST_BYTES, host),
        (str(folder), size * DISK_FACTOR + margin * DISK_BYTES, disk),
    )
    for where, needed, free in needs:
        if needed > free:
            return f"{where} has {table.size(free)} free, {table.size(needed)} are needed"
    return ""


class Clock:
    """How long rounds take here, so that one is not begun that cannot end in time."""

    def __init__(self, left: Callable[[], float]) -> None:
        """Nothing is known yet.

        Args:
            left: seconds until all must be over.
        """
        self._left = left
        self._fixed = dict(FIRST_SECONDS)
        self._rate = SECONDS_PER_GIBIBYTE

    def note(self, wanted: rounds.Wanted, seconds: float) -> None:
        """What a round took; a repeated one is known from then on."""
        size = wanted.device_bytes / rounds.GIBIBYTE
        self._fixed[wanted.work.name] = max(seconds - self._rate * size, seconds / 4)

    def expected(self, wanted: rounds.Wanted) -> float:
        size = wanted.device_bytes / rounds.GIBIBYTE
        return self._fixed.get(wanted.work.name, 60.0) + self._rate * size

    def no_time(self, wanted: rounds.Wanted) -> str:
        """Why a round is not begun; empty if there is time."""
        left, needed = self._left(), self.expected(wanted)
        if needed <= left:
            return ""
        return f"it would take about {needed:.0f} s, and {max(left, 0):.0f} s are left"
