"""The facts of a container, from the kernel: for a capture, and for what may be restored.

Nothing is asked of the container itself and nothing of the API server: the variables are those that
PID 1 was started with, the Secrets those that are mounted. Values are kept as digests only, keyed
with a salt of the artifact, so that no two artifacts show that they hold the same one.
Source: proc(5), getauxval(3), the kernel's cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import platform
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from chrek import cgroups, compatibility, errors, filefacts, process, procfs, rootfd

MAX_ENVIRONMENT_BYTES = 1 << 20
_AT_PAGESZ, _AT_MINSIGSTKSZ = 6, 51
_UNLIMITED = 1 << 60
"""Version 1 of cgroups writes "no limit" as a number near 2**63."""
_SHM = "/dev/shm"  # noqa: S108 - the container's
_FEATURES = re.compile(
    r"sse|ssse3|avx|amx|fma|f16c|bmi|adx$|aes$|vaes|v?pclmul|gfni|sha_ni|sha512|sm[34]$|popcnt|abm$"
    r"|movbe|mov(diri|dir64b)|rdrand|rdseed|rdpid|rdtscp|fsgsbase|fsrm|xsave|xgetbv1|clflush|clwb"
    r"|cldemote|cx16|lahf_lm|la57|pku|ospke|waitpkg|enqcmd|serialize|rtm|user_shstk|mmx|3dnow"
)
"""Of the flags in /proc/cpuinfo those that programs can see and use."""
_LINK = re.compile(r"_SERVICE_HOST$")
_LINKS = r"_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$"
_RUNTIMES = re.compile(
    r"/(proc|sys|dev/(nvidia[^/]*|dri))(/|$)"
    r"|(/usr)?/lib(32|64)?/([^/]+/)*lib(cuda|cudadebugger|nv[^/]*|[^/]+_nvidia)\.so[^/]*$"
    r"|(/usr)?/lib/firmware/nvidia/|/usr/s?bin/nv[^/]*$|(/var)?/run/nvidia[^/]*(/|$)"
    r"|/usr/share/(nvidia|egl|glvnd|vulkan)/|/etc/(nvidia|vulkan|egl|glvnd)/"
)
"""Mount points that are a runtime's own: of a GPU that a pod got, its driver's files are mounted
from the node, and every version has others. Source: nvidia-container-toolkit, internal/discover."""
_NO_GPUS = compatibility.GpuFacts()
_CHANGING = frozenset({"HOSTNAME", "NVIDIA_VISIBLE_DEVICES"})
"""Variables that a runtime sets for each container."""


def captured(
    init_pid: int,
    root_pid: int,
    origin: compatibility.Origin,
    declared: compatibility.Facts,
    *,
    upper: int,
    volumes: Sequence[str],
    gpus: compatibility.GpuFacts = _NO_GPUS,
) -> compatibility.Facts:
    """The facts of a container whose tree is being captured.

    Args:
        init_pid: PID 1 of the container.
        root_pid: root of the tree.
        declared: image, command and environment.
        upper: directory with the changes of the root file system.
        volumes: mount points whose contents are captured as well.
        gpus: what the container has of the node's GPUs.
    """
    salt = secrets.token_hex(16)
    mounts = procfs.mounts(init_pid)
    with _root(init_pid) as root:
        common = _common(init_pid, root, mounts, origin, declared, salt, gpus)
        image_files, volume_files = filefacts.of_tree(
            root_pid, root, mounts, origin, salt, upper=upper, captured=volumes
        )
    return msgspec.structs.replace(
        common,
        memoryUsedBytes=memory_used(init_pid),
        tasks=_tasks(root_pid),
        imageFiles=image_files,
        volumeFiles=volume_files,
    )


def present(
    init_pid: int,
    origin: compatibility.Origin,
    declared: compatibility.Facts,
    before: compatibility.Facts,
    *,
    gpus: compatibility.GpuFacts = _NO_GPUS,
) -> compatibility.Facts:
    """The facts of a container that has nothing but PID 1 in it.

    Args:
        before: the facts that they will be compared with: name the files to look at.
        gpus: what the container has of the node's GPUs.
    """
    mounts = procfs.mounts(init_pid)
    with _root(init_pid) as root:
        common = _common(init_pid, root, mounts, origin, declared, before.salt, gpus)
        image_files = filefacts.again(root, before.imageFiles or (), before.salt)
        volume_files = filefacts.again(root, before.volumeFiles or (), before.salt)
    return msgspec.structs.replace(common, imageFiles=image_files, volumeFiles=volume_files)


@contextlib.contextmanager
def _root(pid: int) -> Iterator[int]:
    fd = rootfd.process_root(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _common(
    pid: int,
    root: int,
    mounts: Sequence[procfs.Mount],
    origin: compatibility.Origin,
    declared: compatibility.Facts,
    salt: str,
    gpus: compatibility.GpuFacts,
) -> compatibility.Facts:
    status = procfs.status(pid)
    vector = auxiliary(pid)
    values: dict[str, dict[str, str]] = {"secret": {}, "configMap": {}}
    for kind, name, value in _sourced(_environment(pid), origin):
        values[kind][name] = filefacts.digest(value, salt)
    for kind, name, found in filefacts.of_mounts(root, mounts, origin, salt):
        values[kind][name] = found
    return msgspec.structs.replace(
        declared,
        architecture=platform.machine(),
        imageDigest=origin.image_digest,
        salt=salt,
        secrets=values["secret"],
        configMaps=values["configMap"],
        mounts=_mounts(mounts),
        sharedMemoryBytes=_shared_memory(root, mounts),
        user=compatibility.User(uids=[*status.uids], gids=[*status.gids], groups=[*status.groups]),
        gpus=[gpu.model for gpu in gpus.devices],
        gpuDriver=gpus.driver,
        gpuDevices=[*gpus.devices] or msgspec.UNSET,
        gpuNode=[*gpus.node] or msgspec.UNSET,
        cpuFeatures=cpu_features(),
        signalFrameBytes=vector.get(_AT_MINSIGSTKSZ),
        pageBytes=vector.get(_AT_PAGESZ),
        kernel=platform.release(),
        criu=criu_version(),
        timeNamespaces=(procfs.PROC / "self/ns/time").exists(),
        memoryLimitBytes=memory_limit(pid),
        pidsLimit=pids_limit(pid),
    )


def _environment(pid: int) -> dict[str, bytes]:
    found = procfs.environment(pid, most_bytes=MAX_ENVIRONMENT_BYTES)
    return {os.fsdecode(name): value for name, value in found}


def _sourced(
    variables: Mapping[str, bytes], origin: compatibility.Origin
) -> Iterator[tuple[str, str, bytes]]:
    """(kind, name, value) of every variable that a Secret or ConfigMap gives."""
    links = [_LINK.sub("", name) for name in variables if _LINK.search(name)]
    link = re.compile("|".join(re.escape(name) + _LINKS for name in links) or r"\Z.")
    for name, value in variables.items():
        kind = origin.variables.get(name)
        if kind is None and not (link.match(name) or name in _CHANGING):
            # Of envFrom, or of the image: there is no telling, and neither may differ.
            kind = origin.every_variable
        if kind:
            yield kind, name, value


def _mounts(mounts: Sequence[procfs.Mount]) -> list[compatibility.Mount]:
    """Every mount point once, with what is on top."""
    top = {m.mount_point: m for m in mounts}
    return [
        compatibility.Mount(path=path, kind=filefacts.kind(mount), readOnly=mount.read_only)
        for path, mount in sorted(top.items())
        if not _RUNTIMES.match(path)
    ]


def _shared_memory(root: int, mounts: Sequence[procfs.Mount]) -> int | None:
    found = [m for m in mounts if m.mount_point == _SHM]
    if not found:
        return None
    with contextlib.suppress(OSError):
        fd = rootfd.mount(root, _SHM, found[-1].mount_id)
        try:
            about = os.fstatvfs(fd)
        finally:
            os.close(fd)
        size, used = about.f_blocks * about.f_frsize, about.f_blocks - about.f_bfree
        # A default of the node's own memory says what the node has, not what the worker needs.
        own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
        return size if size < own else used * about.f_frsize
    return None


def auxiliary(pid: int) -> dict[int, int]:
    """What the kernel told a program when it started it: type -> value."""
    data = (procfs.PROC / str(pid) / "auxv").read_bytes()
    words = memoryview(data[: len(data) // 16 * 16]).cast("Q")
    return dict(zip(words[::2], words[1::2], strict=True))


@functools.cache
def cpu_features() -> list[str]:
    """What programs can use of this node's CPU."""
    with open(procfs.PROC / "cpuinfo") as file:
        for line in file:
            if line.startswith("flags"):
                flags = line.partition(":")[2].split()
                return sorted(flag for flag in flags if _FEATURES.match(flag))
    return []


@functools.cache
def criu_version() -> str:
    """Version of the CRIU of this image; empty when it cannot be asked."""
    bundle = process.LIBEXEC / "criu"
    argv = [str(bundle / "ld.so"), "--inhibit-cache", "--library-path", str(bundle / "lib")]
    try:
        text = process.run([*argv, str(bundle / "criu"), "--version"], timeout_seconds=10)
    except errors.ToolError:
        return ""
    found = re.search(rb"Version: *([\d.]+)", text)
    return found[1].decode() if found else ""


def memory_limit(pid: int, root: pathlib.Path = cgroups.ROOT) -> int | None:
    """The lowest limit of a process's cgroup and those above it; None without any."""
    return _lowest(pid, root, ("memory.max", "memory.limit_in_bytes"))


def pids_limit(pid: int, root: pathlib.Path = cgroups.ROOT) -> int | None:
    """How many tasks the cgroup and those above it may hold; None without a limit."""
    return _lowest(pid, root, ("pids.max",))


def memory_used(pid: int, root: pathlib.Path = cgroups.ROOT) -> int | None:
    """Memory of a process's cgroup that cannot be dropped; None where nobody counts."""
    for directory in cgroups.directories(pid, root):
        with contextlib.suppress(OSError):
            lines = (directory / "memory.stat").read_text().splitlines()
            found = {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}
            if "total_rss" in found:
                return found["total_rss"] + found.get("total_shmem", 0)
            return found.get("anon", 0) + found.get("shmem", 0)
    return None


def _lowest(pid: int, root: pathlib.Path, files: Sequence[str]) -> int | None:
    limits = []
    for directory in cgroups.directories(pid, root):
        for above in (directory, *directory.parents):
            if above == root or root not in above.parents:
                break
            for name in files:
                with contextlib.suppress(OSError, ValueError):
                    limits.append(int((above / name).read_text()))
    limit = min(limits, default=_UNLIMITED)
    return None if limit >= _UNLIMITED else limit


def _tasks(root_pid: int) -> int:
    count = 0
    for pid in procfs.tree(root_pid):
        with contextlib.suppress(FileNotFoundError):
            count += len(os.listdir(procfs.PROC / str(pid) / "task"))
    return count
