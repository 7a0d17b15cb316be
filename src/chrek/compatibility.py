"""Whether a captured worker can go on in another container: facts, and a rule for each.

`Facts` is what a capture notes of its container and what is noted of the new one; `compare` holds
one against the other before CRIU starts. A fact that a manifest does not have, because an older
chrek made it, is not compared. `chrek.facts` collects them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from chrek import errors, names

MOST_NAMED = 8
"""Names that a message lists."""
MOST_FILES = 8192
MOST_MOUNTS = 4096

_Path = Annotated[str, msgspec.Meta(max_length=4096)]


class Mount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mount of the container."""

    path: _Path
    kind: str
    """`memory`, `disk`, or the type of one of the kernel's own file systems."""
    readOnly: bool


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that the tree has open or mapped and that the artifact does not hold."""

    path: _Path
    size: int
    mtimeSeconds: int | None = None
    """None: not compared."""
    digest: str = ""
    """Salted, of a sample: of files on the node itself, where times say nothing."""


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who PID 1 is."""

    uids: list[int]
    gids: list[int]
    groups: list[int]


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU, as NVML describes it."""

    uuid: Annotated[str, msgspec.Meta(max_length=96)]
    """`GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`."""
    minor: int
    """N of /dev/nvidiaN on its node."""
    model: Annotated[str, msgspec.Meta(max_length=96)]
    memoryBytes: int
    """All of its memory."""
    computeCapability: str
    """Such as `9.0`."""
    partitioned: bool = False
    """MIG is on."""


@dataclasses.dataclass(frozen=True)
class GpuFacts:
    """What a container has of its node's GPUs."""

    devices: tuple[Gpu, ...] = ()
    """The container's, by their minor numbers."""
    driver: str = ""
    """Version; empty where the container has no GPU."""
    node: tuple[str, ...] = ()
    """UUIDs of all GPUs of the node; empty where the container has none."""

    def __str__(self) -> str:
        """Such as `2x NVIDIA H100 80GB HBM3`."""
        models = sorted({gpu.model for gpu in self.devices})
        counts = (sum(gpu.model == model for gpu in self.devices) for model in models)
        return ", ".join(
            f"{count}x {model}" if count > 1 else model
            for count, model in zip(counts, models, strict=True)
        )


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a container. None, or empty where noted: not known, not compared."""

    architecture: str = ""
    image: str = ""
    """The reference, as the pod has it."""
    imageDigest: str = ""
    """`sha256:…` of what runs, as the kubelet reports it; `id:…` where no registry had it."""
    command: list[str] = []
    environment: dict[str, str] = {}
    """Name -> digest of the value in the pod's spec, or of the reference that stands there."""
    salt: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Of the digests below; another one in each artifact."""
    secrets: dict[str, str] | None = None
    """Variable or file -> digest of the value that a Secret gave it."""
    configMaps: dict[str, str] | None = None
    mounts: Annotated[list[Mount], msgspec.Meta(max_length=MOST_MOUNTS)] | None = None
    sharedMemoryBytes: int | None = None
    """Size of /dev/shm; of a capture, what the worker can rely on."""
    user: User | None = None
    gpus: list[str] | None = None
    """Model of each GPU that the container has."""
    gpuDriver: str = ""
    """Version, such as `580.65.06`; empty where the container has no GPU."""
    gpuDevices: list[Gpu] | msgspec.UnsetType = msgspec.UNSET
    """The GPUs that the container has, by their minor numbers; unset where it has none, so that
    older agents read such manifests as well."""
    gpuNode: list[str] | msgspec.UnsetType = msgspec.UNSET
    """UUIDs of all GPUs of the node: the driver wants all of them to be mapped."""
    cpuFeatures: list[str] | None = None
    signalFrameBytes: int | None = None
    """The kernel's AT_MINSIGSTKSZ: follows the size of the CPU's xsave area."""
    pageBytes: int | None = None
    kernel: str = ""
    criu: str = ""
    timeNamespaces: bool | None = None
    memoryUsedBytes: int | None = None
    """Memory that is the container's own: not the page cache of files."""
    memoryLimitBytes: int | None = None
    tasks: int | None = None
    pidsLimit: int | None = None
    imageFiles: Annotated[list[File], msgspec.Meta(max_length=MOST_FILES)] | None = None
    """Of the image: neither changed nor made by the worker."""
    volumeFiles: Annotated[list[File], msgspec.Meta(max_length=MOST_FILES)] | None = None
    """On volumes that are not captured."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod's object says that the kernel cannot tell."""

    image_digest: str = ""
    variables: dict[str, str] = {}
    """Variable of the container's `env` -> `secret`, `configMap` or empty."""
    every_variable: str = ""
    """What variables that `env` does not name come from: `secret`, `configMap`, or empty."""
    volumes: dict[str, str] = {}
    """Mount point -> `secret`, `configMap`, `changing`, `node` or `shared`."""
    changing: dict[str, list[str]] = {}
    """Mount point of a projected volume -> files in it that change by nature, such as tokens."""


Rule = Callable[[Any, Any], str]
"""(captured, present) -> how they differ, for a person; empty when they fit."""


@dataclasses.dataclass(frozen=True)
class Fact:
    """One fact: where it stands, its rule, and what a difference means."""

    field: str
    rule: Rule
    reason: names.Reason
    what: str
    hint: str
    against: str = ""
    """The field of the present facts, when it is another one."""
    ignorable: str = ""
    """The word that makes an administrator's `ignoreDifferences` skip it."""


def _equal(captured: Any, present: Any) -> str:
    return "" if captured == present else f"captured {_show(captured)}, here {_show(present)}"


def _digest(captured: str, present: str) -> str:
    """An image's own id and the digest of its manifest cannot be held against each other."""
    alike = captured.startswith("id:") == present.startswith("id:")
    return _equal(captured, present) if alike else ""


def _user(captured: User, present: User) -> str:
    def sorted_groups(user: User) -> tuple[list[int], list[int], list[int]]:
        return user.uids, user.gids, sorted(user.groups)

    if sorted_groups(captured) == sorted_groups(present):
        return ""
    parts = [
        f"{name} captured {_show(before)}, here {_show(now)}"
        for name, before, now in (
            ("uids", captured.uids, present.uids),
            ("gids", captured.gids, present.gids),
            ("groups", sorted(captured.groups), sorted(present.groups)),
        )
        if before != now
    ]
    return "; ".join(parts)


def _superset(captured: Sequence[str], present: Sequence[str]) -> str:
    missing = sorted(set(captured) - set(present))
    return f"captured with {_list(missing)}, which are missing here" if missing else ""


def _at_least(captured: int, present: int) -> str:
    return "" if present >= captured else f"captured {captured}, here {present}"


def _version(text: str) -> tuple[int, ...]:
    """Major and minor: what follows is a distribution's count of its own fixes."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _not_older(captured: str, present: str) -> str:
    if _version(present) >= _version(captured):
        return ""
    return f"captured {captured}, here {present}"


def _same_keys(captured: Mapping[str, str], present: Mapping[str, str]) -> str:
    """Names only: what stands behind them is nobody's business, digest or not."""
    differing = sorted(
        name for name in captured.keys() | present.keys() if captured.get(name) != present.get(name)
    )
    if not differing:
        return ""
    told = [
        name + ("" if name in captured and name in present else _only(name in captured))
        for name in differing
    ]
    return f"differ from the captured ones: {_list(told)}"


def _only(captured: bool) -> str:
    return " (missing here)" if captured else " (not captured)"


def _mounts(captured: Sequence[Mount], present: Sequence[Mount]) -> str:
    here = {mount.path: mount for mount in present}
    for mount in captured:
        found = here.get(mount.path)
        if found is None:
            return f"nothing is mounted at {mount.path}, captured {_of(mount)}"
        if found != mount:
            return f"{mount.path}: captured {_of(mount)}, here {_of(found)}"
    return ""


def _of(mount: Mount) -> str:
    return f"{mount.kind} {'read-only' if mount.readOnly else 'writable'}"


def _files(captured: Sequence[File], present: Sequence[File]) -> str:
    here = {file.path: file for file in present}
    for file in captured:
        found = here.get(file.path)
        if found is None:
            return f"{file.path}: captured with {file.size} bytes, here it is missing"
        if found.size != file.size:
            return f"{file.path}: captured with {file.size} bytes, here {found.size}"
        if file.digest and found.digest != file.digest:
            return f"{file.path}: other content than captured, of the same size"
        if file.mtimeSeconds is not None and found.mtimeSeconds != file.mtimeSeconds:
            return (
                f"{file.path}: captured as modified at {file.mtimeSeconds}, "
                f"here {found.mtimeSeconds} (seconds since 1970)"
            )
    return ""


def _gpus(captured: Sequence[str], present: Sequence[str]) -> str:
    return _equal(sorted(captured), sorted(present))


def _count(captured: Collection[Any], present: Collection[Any]) -> str:
    return _equal(len(captured), len(present))


def _capabilities(captured: Sequence[Gpu], present: Sequence[Gpu]) -> str:
    return _equal(*(sorted(gpu.computeCapability for gpu in gpus) for gpus in (captured, present)))


def _whole(_captured: Sequence[Gpu], present: Sequence[Gpu]) -> str:
    cut = [gpu.uuid for gpu in present if gpu.partitioned]
    return f"MIG is on: {_list(cut)}" if cut else ""


def _memory(captured: Sequence[Gpu], present: Sequence[Gpu]) -> str:
    before, now = (sorted(gpu.memoryBytes for gpu in gpus) for gpus in (captured, present))
    short = [(want, have) for want, have in zip(before, now, strict=False) if have < want]
    return _at_least(*short[0]) if short else ""


def _list(items: Collection[str]) -> str:
    shown = [*items][:MOST_NAMED]
    more = len(items) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _show(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    # In one line: a script may stand in a command.
    return " ".join(text.split())[:200] or "nothing"


_AGAIN = "make a checkpoint of this worker, or give both the same"
_R = names.Reason

FACTS = (
    Fact("architecture", _equal, _R.ARCHITECTURE_DIFFERS, "architecture",
         "make a checkpoint on this architecture"),
    Fact("pageBytes", _equal, _R.PAGE_SIZE_DIFFERS, "page size",
         "make a checkpoint on nodes with this page size"),
    Fact("image", _equal, _R.IMAGE_DIFFERS, "image", f"{_AGAIN} image"),
    Fact("imageDigest", _digest, _R.IMAGE_DIFFERS, "image digest",
         "the tag was moved: name the image by digest, or make the checkpoint again"),
    Fact("command", _equal, _R.COMMAND_DIFFERS, "command", f"{_AGAIN} command and args"),
    Fact("environment", _same_keys, _R.ENVIRONMENT_DIFFERS, "environment variables",
         "give checkpoint job and worker the same env"),
    Fact("secrets", _same_keys, _R.SECRET_DIFFERS, "values from Secrets",
         "make the checkpoint again, or put `secrets` into agent.ignoreDifferences",
         ignorable="secrets"),
    Fact("configMaps", _same_keys, _R.CONFIG_MAP_DIFFERS, "values from ConfigMaps",
         "make the checkpoint again, or put `configMaps` into agent.ignoreDifferences",
         ignorable="configMaps"),
    Fact("user", _user, _R.USER_DIFFERS, "user",
         "checkpoint job and worker must have the same securityContext"),
    Fact("gpus", _count, _R.GPU_COUNT_DIFFERS, "number of GPUs",
         "give checkpoint job and worker the same GPU request"),
    Fact("gpus", _gpus, _R.GPU_DIFFERS, "GPUs",
         "make a checkpoint on nodes with these GPUs"),
    Fact("gpuDevices", _capabilities, _R.GPU_DIFFERS, "compute capability of GPUs",
         "make a checkpoint on nodes with these GPUs"),
    Fact("gpuDevices", _whole, _R.GPU_PARTITIONED, "GPUs",
         "use whole GPUs: the driver cannot restore into a part of one"),
    Fact("gpuDevices", _memory, _R.GPU_MEMORY_TOO_SMALL, "bytes of GPU memory",
         "make a checkpoint on the GPUs with the least memory that shall restore it"),
    Fact("gpuNode", _count, _R.GPU_COUNT_DIFFERS, "number of GPUs of the node",
         "make a checkpoint on a node with as many GPUs: the driver wants a map of all of them"),
    Fact("gpuDriver", _equal, _R.GPU_DRIVER_DIFFERS, "GPU driver",
         "use one driver version, or make the checkpoint again: the worker has the driver's "
         "libraries in its memory"),
    Fact("cpuFeatures", _superset, _R.CPU_FEATURES_MISSING, "CPU features",
         "make the checkpoint on the oldest kind of node that shall restore it"),
    Fact("signalFrameBytes", _at_least, _R.XSAVE_AREA_TOO_SMALL, "bytes of register state",
         "make the checkpoint on the oldest kind of node that shall restore it"),
    Fact("kernel", _not_older, _R.KERNEL_TOO_OLD, "kernel",
         "upgrade this node, or make the checkpoint on the oldest kernel"),
    Fact("criu", _not_older, _R.CRIU_TOO_OLD, "CRIU",
         "let the update of the agents end"),
    Fact("timeNamespaces", _at_least, _R.TIME_NAMESPACES_MISSING, "time namespaces",
         "use a kernel with CONFIG_TIME_NS"),
    Fact("memoryUsedBytes", _at_least, _R.MEMORY_LIMIT_TOO_LOW, "bytes of memory and their limit",
         "raise resources.limits.memory to that of the captured worker",
         against="memoryLimitBytes"),
    Fact("tasks", _at_least, _R.PIDS_LIMIT_TOO_LOW, "tasks and their limit",
         "raise the kubelet's podPidsLimit on this node", against="pidsLimit"),
    Fact("mounts", _mounts, _R.MOUNTS_DIFFER, "mounts", f"{_AGAIN} volumeMounts"),
    Fact("sharedMemoryBytes", _at_least, _R.SHARED_MEMORY_TOO_SMALL, "bytes of /dev/shm",
         "give the worker the emptyDir at /dev/shm that was captured"),
    Fact("imageFiles", _files, _R.IMAGE_DIFFERS, "files of the image",
         "the tag was moved: name the image by digest, or make the checkpoint again"),
    Fact("volumeFiles", _files, _R.FILE_CHANGED, "files on volumes",
         "put the captured file back, or make the checkpoint again"),
)  # fmt: skip
"""In the order in which they are told: what explains more comes first."""


_UNKNOWN = (None, "", msgspec.UNSET)


def compare(captured: Facts, present: Facts, *, ignore: Collection[str] = ()) -> None:
    """Hold what was captured against what is there.

    Args:
        captured: of the manifest.
        present: of the new container.
        ignore: words of facts that an administrator does not want compared.

    Raises:
        CompatibilityError: names the first fact that does not fit, with its Reason.
    """
    for fact in FACTS:
        if fact.ignorable and fact.ignorable in ignore:
            continue
        before = getattr(captured, fact.field)
        now = getattr(present, fact.against or fact.field)
        if any(value in _UNKNOWN for value in (before, now)):
            continue
        difference = fact.rule(before, now)
        if difference:
            raise errors.CompatibilityError(
                f"{fact.what}: {difference}", hint=fact.hint, reason=fact.reason
            )
