"""Which GPU of this node takes the place of which GPU of the capture.

Nothing is asked here. The driver wants a pair for every GPU that its kernel module sees, those that
the container never had included: a bijection of all GPUs of the one node onto all of the other.
Source: CUcheckpointRestoreArgs in NVIDIA's CUDA Driver API.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from chrek import compatibility, errors, names, quantity
from chrek.cuda import words


def extend(
    captured: Sequence[str], before: Sequence[str], allocated: Sequence[str], now: Sequence[str]
) -> dict[str, str] | None:
    """The map of all GPUs that brings those of a captured container to those of a new one.

    A GPU that both have keeps its place wherever it can; the others follow in their order.

    Args:
        captured: UUIDs of the captured container's GPUs.
        before: of all GPUs of the node of the capture.
        allocated: of the new container's GPUs.
        now: of all GPUs of this node.

    Returns:
        UUID at the capture -> UUID here, of all of them; None when each is its own.

    Raises:
        ArtifactError: what was captured contradicts itself.
        CompatibilityError: GpuCountDiffers.
        GpuError: this node does not know a GPU of the container.
    """
    if wrong := _stray(captured, before):
        raise errors.ArtifactError(f"manifest: GPU {wrong} is not one of its node's, or is twice")
    if wrong := _stray(allocated, now):
        raise errors.GpuError(
            f"GPU {wrong} is not one of this node's, or is twice",
            reason=names.Reason.GPU_UNAVAILABLE,
        )
    if len(captured) != len(allocated):
        raise errors.CompatibilityError(
            f"GPUs: captured with {len(captured)}, here {len(allocated)}",
            reason=names.Reason.GPU_COUNT_DIFFERS,
            hint="give checkpoint job and worker the same number of GPUs",
        )
    if len(before) != len(now):
        raise errors.CompatibilityError(
            f"GPUs of the node: {len(before)} at the capture, here {len(now)};"
            " the driver maps all of them",
            reason=names.Reason.GPU_COUNT_DIFFERS,
            hint="make a checkpoint on nodes with this number of GPUs",
        )
    pairs = _pairs(captured, allocated)
    pairs |= _pairs(_without(before, pairs), _without(now, pairs.values()))
    return pairs if any(old != new for old, new in pairs.items()) else None


def fits(
    needed_bytes: int, gpus: Sequence[compatibility.Gpu], usage: Sequence[words.Usage]
) -> None:
    """Refuse a restore that cannot fit into GPUs, whose memory others may use as well.

    For several GPUs their sum counts: to hold each against its own share, call it for each.

    Args:
        needed_bytes: device memory that comes back to these GPUs together.
        usage: of these GPUs at least; one that is not in it has nothing free.

    Raises:
        GpuError: GpuMemoryTooSmall, with both numbers.
    """
    by_uuid = {used.uuid: used.freeBytes for used in usage}
    free = {gpu.uuid: by_uuid.get(gpu.uuid, 0) for gpu in gpus}
    total = sum(free.values())
    if needed_bytes <= total:
        return
    needed, which = quantity.human(needed_bytes), ", ".join(free) or "none"
    raise errors.GpuError(
        f"GPU memory of {needed} comes back, {quantity.human(total)} are free ({which})",
        reason=names.Reason.GPU_MEMORY_TOO_SMALL,
        hint="see with nvidia-smi what else uses them, and do not share GPUs of restored workers",
    )


def describe(uuids: Mapping[str, str]) -> str:
    """A map for a log line: who moves, and how many do not."""
    moved = [f"{old}->{new}" for old, new in uuids.items() if old != new]
    kept = len(uuids) - len(moved)
    return ", ".join([*moved, *([f"{kept} unchanged"] if kept else [])])


def _pairs(left: Sequence[str], right: Sequence[str]) -> dict[str, str]:
    """A bijection of lists of one length: what is in both stays, the others in their order."""
    both = set(left) & set(right)
    moved = zip(_without(left, both), _without(right, both), strict=True)
    return {uuid: uuid for uuid in left if uuid in both} | dict(moved)


def _without(uuids: Sequence[str], taken: Iterable[str]) -> list[str]:
    out = set(taken)
    return [uuid for uuid in uuids if uuid not in out]


def _stray(some: Sequence[str], every: Sequence[str]) -> str:
    """The first that is not in the whole, or that is twice in either; empty when all is well."""
    for uuids, allowed in ((every, set(every)), (some, set(every))):
        seen: set[str] = set()
        for uuid in uuids:
            if uuid in seen or uuid not in allowed:
                return uuid
            seen.add(uuid)
    return ""
