"""Restore an artifact into a running container that has nothing but PID 1 in it.

Knows nothing of Kubernetes. Small files are verified and copied into private memory first; CRIU
reads those copies. Page files are verified on other threads while CRIU reads them, and nothing of
the tree runs before all of it is verified.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import io
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

from chrek import (
    archive,
    cgroups,
    context,
    digest,
    dynamo,
    errors,
    gpustate,
    initfile,
    ipcstate,
    log,
    manifest,
    privilege,
    procfs,
    reach,
    rootfd,
    surroundings,
    verification,
)
from chrek import store as stores
from chrek.criu import service
from chrek.cuda import gpus as devices

RESTORE_LOG = "restore.log"
_MS_BIND = 4096
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A tree that runs again."""

    seconds: dict[str, float]
    """Seconds of each step; `criu` is the time from CRIU's start to its end."""
    total_seconds: float


def restore(
    artifact: stores.Artifact,
    init_pid: int,
    staging: pathlib.Path,
    logger: log.Logger,
    *,
    volumes: dict[str, bool],
    pod: context.Pod | None = None,
    gpus: devices.Gpus | None = None,
    timeout_seconds: float,
    progress: Callable[[str], None] = lambda _: None,
    pages_arrive: Callable[[], None] | None = None,
) -> Restored:
    """Restore a tree as children of a container's PID 1.

    Args:
        init_pid: PID 1 of the new container (its host pid).
        staging: empty directory on a tmpfs that only the agent sees; emptied again.
        volumes: mount point -> whether the new container alone sees it.
        pod: whose container it is; told to the restored worker.
        gpus: of the container; None where no NVIDIA driver can be used.
        progress: called with the name of each step as it begins.
        pages_arrive: called once CRIU has read all else: page files (`verification.is_pages`) need
            be there only when it returns. Its time does not count for `timeout_seconds`.

    Raises:
        ArtifactError, CompatibilityError, PrivilegeError, CriuError, UnsupportedError: nothing of
            the tree runs.
        GpuError: device memory could not be brought back. If the tree runs, it must be ended.
    """
    begin = time.monotonic()
    seconds: dict[str, float] = {}
    described = artifact.manifest

    def step(name: str) -> contextlib.AbstractContextManager[None]:
        progress(name)
        return logger.step(name, seconds)

    with contextlib.ExitStack() as stack:
        pidfd = os.pidfd_open(init_pid)
        stack.callback(os.close, pidfd)
        pool = stack.enter_context(digest.Pool(digest.BESIDE_CRIU))
        pages: list[concurrent.futures.Future[None]] = []

        def arrive() -> float:
            """Seconds for which nobody could go on."""
            if pages_arrive is None:
                return 0.0
            with step("pages"):
                pages_arrive()
            pages.extend(_verify_pages(artifact, pool, stack))
            return seconds["pages"]

        plan = gpustate.plan(described, init_pid, gpus)
        with step("stage"):
            if pages_arrive is None:
                pages.extend(_verify_pages(artifact, pool, stack))
            stack.callback(pool.cancel)
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
            small = _stage(artifact, staging)
        with step("privilege"):
            filters = service.seccomp_filters(init_pid)
            cores = privilege.check(staging, procfs.status(init_pid), filters)
            privilege.relabel(staging, cores, procfs.lsm_label(init_pid))
        with step("sockets"):
            opened = surroundings.adapt(staging, described, init_pid, logger)
        with step("files"):
            shared = stack.enter_context(ipcstate.prepare(staging, small, init_pid, logger))
            _put_files(small, described, init_pid, volumes, logger, pod or context.Pod())
            reach.check(opened, init_pid)
        with step("criu"):
            stack.enter_context(_page_files(artifact, staging))
            try:
                _run_criu(
                    *(described, init_pid, pidfd, staging, pages, shared, arrive),
                    deadline=begin + timeout_seconds,
                    progress=progress,
                    seconds=seconds,
                )
            except errors.CriuError:
                # CRIU stumbles over damaged pages in its own words; say what is really wrong.
                for future in pages:
                    future.result()
                raise
        # Each step is told without those inside of it.
        seconds["criu"] = round(seconds["criu"] - seconds.get("pages", 0.0), 6)
        if plan is not None and gpus is not None:
            progress("gpu")
            gpus.resume(plan, init_pid, logger, seconds)
        with step("tell"):
            _tell(init_pid)
    return Restored(seconds=seconds, total_seconds=round(time.monotonic() - begin, 6))


def _verify_pages(
    artifact: stores.Artifact, pool: digest.Pool, stack: contextlib.ExitStack
) -> list[concurrent.futures.Future[None]]:
    """Start reading and verifying the page files; CRIU finds them in the page cache."""
    pages = filter(verification.is_pages, artifact.manifest.files)
    return verification.begin(artifact, pages, pool, stack)


def _stage(artifact: stores.Artifact, staging: pathlib.Path) -> dict[str, bytes]:
    """Verify every other file; CRIU's go to `staging`, the rest is returned by name."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    rest = {}
    with digest.Pool() as pool:
        for file in artifact.manifest.files:
            if verification.is_pages(file):
                continue
            fd = stores.open_file(artifact, file.name)
            try:
                data = _read(fd, file)
            finally:
                os.close(fd)
            pool.verify_bytes(data, file)
            if file.name.startswith(f"{stores.IMAGES}/"):
                path = staging / file.name.removeprefix(f"{stores.IMAGES}/")
                with open(path, "xb") as copy:
                    copy.write(data)
            else:
                rest[file.name] = data
    return rest


def _read(fd: int, file: manifest.File) -> bytes:
    try:
        size = os.fstat(fd).st_size
        if size != file.size:
            raise errors.ArtifactError(f"{file.name}: {size} bytes instead of {file.size}")
        with os.fdopen(os.dup(fd), "rb") as stream:
            return stream.read(file.size)
    except OSError as err:
        raise errors.StoreError(f"{file.name}: {err.strerror}") from err


def _put_files(
    small: dict[str, bytes],
    described: manifest.Manifest,
    init_pid: int,
    volumes: dict[str, bool],
    logger: log.Logger,
    pod: context.Pod,
) -> None:
    data = small.get(archive.DATA, b"")
    entries = archive.decode(small.get(archive.INDEX, b"\x90"), len(described.volumes), len(data))
    mounts = procfs.mounts(init_pid)
    with contextlib.ExitStack() as stack:
        root = rootfd.process_root(init_pid)
        stack.callback(os.close, root)
        roots: dict[int, int] = {}
        mirror: set[int] = set()
        for index, volume in enumerate(described.volumes):
            found = [m for m in mounts if m.mount_point == volume.path]
            if not found or (index and volume.path not in volumes):
                continue
            if found[-1].read_only:
                continue
            fd = rootfd.mount(root, volume.path, found[-1].mount_id)
            stack.callback(os.close, fd)
            roots[index] = fd
            if index and volume.exclusive and volumes[volume.path]:
                mirror.add(index)
        count = archive.apply(entries, io.BytesIO(data), roots, replace={0, *mirror}, mirror=mirror)
        with initfile.directory(root, mounts) as ours:
            changed = initfile.put(ours, small[described.file(initfile.NAME).name])
            init = procfs.status(init_pid)
            told = context.describe(described, init_pid, pod)
            context.put(ours, told, init.uids[0], init.gids[0])
            dynamo.forget(ours)
    logger.debug("files", entries=len(entries), put=count, bytes=len(data), init_changed=changed)


def _tell(init_pid: int) -> None:
    root = rootfd.process_root(init_pid)
    try:
        with initfile.directory(root, procfs.mounts(init_pid)) as ours:
            dynamo.restored(init_pid, ours)
    finally:
        os.close(root)


@contextlib.contextmanager
def _page_files(artifact: stores.Artifact, staging: pathlib.Path) -> Iterator[None]:
    """Bind the page files into the staging directory: CRIU wants all images in one place."""
    bound: list[pathlib.Path] = []
    try:
        for file in artifact.manifest.files:
            if verification.is_pages(file):
                target = staging / file.name.removeprefix(f"{stores.IMAGES}/")
                target.touch()
                _mount_bind(artifact.path / file.name, target)
                bound.append(target)
        yield
    finally:
        for target in bound:
            _libc.umount2(os.fsencode(target), _MNT_DETACH)


def _mount_bind(source: pathlib.Path, target: pathlib.Path) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None):
        error = ctypes.get_errno()
        raise errors.UnsupportedError(
            f"cannot bind {source} to {target}: {os.strerror(error)}",
            hint="the agent must be privileged",
        )


def _run_criu(
    described: manifest.Manifest,
    init_pid: int,
    pidfd: int,
    staging: pathlib.Path,
    pages: list[concurrent.futures.Future[None]],
    shared: ipcstate.Prepared,
    arrive: Callable[[], float],
    *,
    deadline: float,
    progress: Callable[[str], None],
    seconds: dict[str, float],
) -> None:
    with contextlib.ExitStack() as stack:
        images_fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, images_fd)
        inherit = {}
        for number, name in enumerate(described.stdio):
            if name.startswith("pipe:"):
                flags = os.O_RDONLY if number == 0 else os.O_WRONLY
                fd = os.open(f"/proc/{init_pid}/fd/{number}", flags | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                inherit[name] = fd
        cgroup_fds = stack.enter_context(cgroups.opened(init_pid))
        criu = stack.enter_context(
            service.Service(
                pidfd,
                images_fd,
                log_path=staging / RESTORE_LOG,
                cgroup_fds=cgroup_fds,
                extra_fds=list(inherit.values()),
                subreaper=described.rootPid,
                deadline=deadline,
            )
        )

        def notified(script: str, _pid: int) -> None:
            nonlocal deadline
            progress(script)
            if script == "pre-restore":
                # It has started and read its images; the first thing it does next is to fork.
                deadline += arrive()
                criu.deadline = deadline
            elif script == "post-restore":
                shared.mend()
                begin = time.monotonic()
                for future in pages:
                    future.result(timeout=max(0.001, deadline - time.monotonic()))
                seconds["verify_wait"] = round(time.monotonic() - begin, 6)

        criu.restore(notified, inherit=inherit, ipc=shared.images is not None)
