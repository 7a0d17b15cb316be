"""Checkpoint a process tree of a container: dump, copy what changed on disk, commit.

Knows nothing of Kubernetes. The tree is frozen by CRIU during all of it, or, when it is left
running, until memory and files are copied; when any step fails CRIU lets it run on, and the store
holds no artifact.

Connections of a tree that runs on, from outside and within, survive: CRIU holds each in TCP_REPAIR
while the tree is frozen, the kernel acknowledges and keeps what arrives meanwhile, and CRIU ends
the repair before it thaws the tree (`network_unlock` in `cr_dump_finish`, criu/cr-dump.c and
criu/sk-tcp.c of CRIU 4.2). They see a pause and nothing else. The artifact has them too, but a
restore closes those that lead out of the tree. What a CRIU that was killed leaves is cleared:
`leftovers`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator

import msgspec

import chrek
from chrek import (
    archive,
    compatibility,
    digest,
    errors,
    facts,
    gpustate,
    initfile,
    leftovers,
    log,
    manifest,
    mqueue,
    names,
    preflight,
    procfs,
    rootfd,
    space,
    storage,
)
from chrek import store as stores
from chrek.criu import service
from chrek.cuda import gpus as devices

DUMP_LOG = "dump.log"
_NOT_RESTORED = frozenset({DUMP_LOG, "stats-dump"})
_OF_THE_STORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG)
OUTSIDERS_SECONDS = 10
"""How long processes outside the tree (probes, exec sessions) may take to end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capture:
    """What to capture, and under which name."""

    init_pid: int
    """PID 1 of the container (its host pid)."""
    root_pid: int
    """Root of the tree (its host pid), a child of PID 1."""
    identity_hash: str
    variant: str
    image: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    origin: compatibility.Origin = dataclasses.field(default_factory=compatibility.Origin)
    volumes: tuple[manifest.Volume, ...] = ()
    """Mounts whose contents belong to the worker's state; `/` is always captured."""
    timeout_seconds: float = 1800
    leave_running: bool = False
    """The tree runs on when its memory and files are copied, whatever comes of them."""


@dataclasses.dataclass(frozen=True)
class Captured:
    """A committed artifact."""

    manifest: manifest.Manifest
    digest: str


def capture(
    wanted: Capture,
    store: storage.AnyStore,
    logger: log.Logger,
    *,
    gpus: devices.Gpus | None = None,
    on_committed: Callable[[Captured], None] = lambda _: None,
    on_resumed: Callable[[], None] = lambda: None,
) -> Captured:
    """Dump a tree into the store; unless left running, it has ended when this returns.

    Device memory is brought into the memory of its processes before anything is frozen; what goes
    on after the dump, or because of a failure, has it back on its GPUs.

    Args:
        gpus: of the container; None where no NVIDIA driver can be used.
        on_committed: called when the artifact is complete and a tree that is to end still frozen;
            raising undoes the capture.
        on_resumed: called when a tree that is left running has been dumped and runs again, before
            its artifact is complete.

    Raises:
        UnsupportedError: something in the container cannot be captured.
        CriuError: CRIU failed. StoreError: the volume did. The tree runs on.
        GpuError: the CUDA driver failed. The tree runs on or, where the driver cannot bring back
            device memory, has been ended.
    """
    seconds: dict[str, float] = {}
    deadline = time.monotonic() + wanted.timeout_seconds
    with logger.step("outsiders", seconds):
        _wait_for_outsiders(wanted)
    with gpustate.suspended(wanted.init_pid, wanted.root_pid, gpus, logger, seconds) as held:

        def resumed() -> None:
            held.resume()
            on_resumed()

        return _capture(
            *(wanted, store, logger, seconds, deadline, held),
            on_committed=on_committed,
            on_resumed=resumed,
        )


def _capture(
    wanted: Capture,
    store: storage.AnyStore,
    logger: log.Logger,
    seconds: dict[str, float],
    deadline: float,
    held: gpustate.Held,
    *,
    on_committed: Callable[[Captured], None],
    on_resumed: Callable[[], None],
) -> Captured:
    mounts = procfs.mounts(wanted.root_pid)
    with logger.step("preflight", seconds):
        found = preflight.look(wanted.root_pid)
        watched = preflight.paths(found, wanted.root_pid, mounts)
        needed = space.memory_bytes(wanted.root_pid)
        store.make_room(needed)
        space.check(needed, store.base)
    stdio = [os.readlink(f"/proc/{wanted.root_pid}/fd/{number}") for number in range(3)]
    root_pid = procfs.status(wanted.root_pid).nspids[-1]
    source: list[manifest.Source] = []
    stage = store.stage(wanted.identity_hash, wanted.variant)
    done: list[Captured] = []
    started = time.monotonic()

    def finish() -> None:
        with _errors_of_the_store(stage):
            files = _digested(stage, logger, seconds)
            described = manifest.Manifest(
                version=manifest.VERSION,
                uuid=stage.uuid,
                identityHash=wanted.identity_hash,
                variant=wanted.variant,
                createdAt=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                chrekVersion=chrek.__version__,
                rootPid=root_pid,
                stdio=stdio,
                volumes=[*_volumes(wanted)],
                source=source[0],
                files=files,
                steps=dict(seconds),
                gpu=held.state,
            )
            captured = Captured(manifest=described, digest=store.commit(stage, described))
        on_committed(captured)
        done.append(captured)

    def notified(script: str, _pid: int) -> None:
        if script == "post-dump":
            seconds["dump"] = round(time.monotonic() - started, 6)
            with _errors_of_the_store(stage), logger.step("files", seconds):
                source.append(_source(wanted, mounts, held.facts))
                _archive(wanted, stage, mounts)
            if not wanted.leave_running:
                finish()
                # CRIU would let them end without a word; so their peers are told.
                leftovers.release_sockets(wanted.root_pid)

    with contextlib.ExitStack() as stack:
        root_pidfd = os.pidfd_open(wanted.root_pid)
        stack.callback(os.close, root_pidfd)
        images_fd = os.open(stage.images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, images_fd)
        status = procfs.status(wanted.root_pid)
        try:
            with service.Service(
                root_pidfd,
                images_fd,
                log_path=stage.images / DUMP_LOG,
                real_ids=(status.uids[0], status.gids[0]),
                own_ipc=found.ipc,
                deadline=deadline,
            ) as criu:
                criu.dump(
                    root_pid,
                    notified,
                    leave_running=wanted.leave_running,
                    watched=watched,
                    external=found.external,
                )
            if wanted.leave_running:
                on_resumed()
                finish()
        except BaseException as err:
            # With the tree PID 1 ends, and with PID 1 CRIU, whether it has answered or not.
            if not done or not isinstance(err, errors.CriuError):
                leftovers.clear(wanted.root_pid)
                store.discard(stage)
                raise
        if not wanted.leave_running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(root_pidfd, signal.SIGKILL)
    return done[0]


def outsiders(init_pid: int, root_pid: int) -> list[int]:
    """Processes of the container that are neither PID 1 nor in the tree."""
    inside = {init_pid, *procfs.tree(root_pid)}
    return [pid for pid in procfs.in_pid_namespace(init_pid) if pid not in inside]


def _wait_for_outsiders(wanted: Capture) -> None:
    deadline = time.monotonic() + OUTSIDERS_SECONDS
    while found := outsiders(wanted.init_pid, wanted.root_pid):
        if time.monotonic() > deadline:
            described = []
            for pid in found[:5]:
                with contextlib.suppress(ProcessLookupError):
                    status = procfs.status(pid)
                    described.append(f"{status.name} ({status.nspids[-1]})")
            raise errors.UnsupportedError(
                f"processes outside the worker's tree: {', '.join(described)}",
                reason=names.Reason.PROCESSES_OUTSIDE_TREE,
                hint="end kubectl exec sessions in the pod",
            )
        time.sleep(0.05)


@contextlib.contextmanager
def _errors_of_the_store(stage: stores.Stage) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno not in _OF_THE_STORE:
            raise
        raise errors.StoreError(
            f"{stage.path}: {err.strerror}",
            hint="check the volume of storage.pvc and its free space",
        ) from err


def _volumes(wanted: Capture) -> tuple[manifest.Volume, ...]:
    return (manifest.Volume(path="/", exclusive=True), *wanted.volumes)


def _source(
    wanted: Capture, mounts: list[procfs.Mount], gpu_facts: compatibility.GpuFacts
) -> manifest.Source:
    """What is known of the container, while its tree is frozen."""
    declared = compatibility.Facts(
        image=wanted.image, command=list(wanted.command), environment=wanted.environment
    )
    upper = _upper_directory(mounts)
    try:
        known = facts.captured(
            *(wanted.init_pid, wanted.root_pid, wanted.origin, declared),
            upper=upper,
            volumes=[volume.path for volume in wanted.volumes],
            gpus=gpu_facts,
        )
    finally:
        os.close(upper)
    return manifest.Source(
        **msgspec.structs.asdict(known),
        hostname=_hostname(wanted.root_pid),
        addresses=procfs.addresses(wanted.root_pid),
    )


def _digested(
    stage: stores.Stage, logger: log.Logger, seconds: dict[str, float]
) -> list[manifest.File]:
    """Digest and sync what was dumped and copied."""
    with logger.step("digest", seconds), digest.Pool() as pool:
        files = []
        for path in sorted(p for p in stage.path.rglob("*") if p.is_file()):
            if path.name in _NOT_RESTORED:
                continue
            path.chmod(0o600)
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                files.append(
                    manifest.File(
                        name=str(path.relative_to(stage.path)),
                        size=size,
                        chunks=pool.chunks(file.fileno(), size),
                    )
                )
    with logger.step("sync", seconds):
        for item in files:
            stores.sync(stage.path / item.name)
        stores.sync(stage.images)
    return files


def _archive(wanted: Capture, stage: stores.Stage, mounts: list[procfs.Mount]) -> None:
    points = frozenset(os.fsencode(m.mount_point.strip("/")) for m in mounts) - {b""}
    data_path = stage.path / archive.DATA
    with contextlib.ExitStack() as stack:
        root = rootfd.process_root(wanted.root_pid)
        stack.callback(os.close, root)
        data = stack.enter_context(open(data_path, "xb", opener=_private))
        writer = archive.Writer(data)
        upper = _upper_directory(mounts)
        stack.callback(os.close, upper)
        writer.add(0, upper, skip=points)
        for index, volume in enumerate(_volumes(wanted)[1:], 1):
            found = [m for m in mounts if m.mount_point == volume.path]
            if not found:
                raise errors.UnsupportedError(f"no volume is mounted at {volume.path}")
            fd = rootfd.mount(root, volume.path, found[-1].mount_id)
            stack.callback(os.close, fd)
            writer.add(index, fd)
        with open(stage.path / archive.INDEX, "xb", opener=_private) as file:
            file.write(writer.index())
        if queues := mqueue.read(wanted.root_pid):
            with open(stage.path / mqueue.NAME, "xb", opener=_private) as file:
                file.write(mqueue.encode(queues))
        with (
            initfile.directory(root, mounts) as ours,
            open(stage.path / initfile.NAME, "xb", opener=_private) as file,
        ):
            file.write(initfile.read(ours))


def _upper_directory(mounts: list[procfs.Mount]) -> int:
    """Descriptor of the directory in which overlayfs keeps the root file system's changes."""
    top = [m for m in mounts if m.mount_point == "/"][-1]
    upper = top.option("upperdir")
    if top.fs_type != "overlay" or upper is None:
        raise errors.UnsupportedError(
            f"the container's root file system is {top.fs_type}, not overlay",
            hint="use the container runtime's overlayfs snapshotter",
        )
    try:
        host = rootfd.process_root(1)
    except PermissionError:  # Not the agent: this process sees what mounted the container.
        host = rootfd.process_root(os.getpid())
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY
        return rootfd.open_below(host, upper, flags, resolve=rootfd.RESOLVE_IN_ROOT)
    except OSError as err:
        raise errors.UnsupportedError(
            f"the changes of the container's root file system are not at {upper}: {err.strerror}",
            hint="the agent must share the mount namespace of PID 1 with the container runtime",
        ) from err
    finally:
        os.close(host)


def _hostname(pid: int) -> str:
    values = (value for name, value in procfs.environment(pid) if name == b"HOSTNAME")
    return next(values, b"").decode(errors="replace")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
