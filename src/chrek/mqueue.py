"""POSIX message queues of a container's IPC namespace, of which CRIU knows nothing.

There is no way to look at a message but to receive it. While the tree is frozen each queue is
emptied and filled again in the same order, so that a worker that runs on, or that is resumed after
a failure, finds what it had. Only where no other container could send or receive meanwhile, and
nobody waits for a notification, which a message sent again would use up: else it is refused. An
agent that is killed between the two, some microseconds, takes the messages of that queue with it.

Descriptors of queues are dumped as files from elsewhere and opened again by their path.
Source: mq_overview(7), fsopen(2), criu/files-reg.c of CRIU 4.2.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import pathlib
import re
import stat
from collections.abc import Iterable, Iterator

import msgspec

from chrek import errors, ipcns, names, procfs

NAME = "queues.data"
"""File of an artifact; absent where there are no queues."""
FOLDER = "/dev/mqueue"
FILE_SYSTEMS = pathlib.Path("/proc/filesystems")
MOST_QUEUES = 1024
MOST_BYTES = 64 << 20
"""Of all messages together."""
_NUMBERS = {"fsopen": 430, "fsconfig": 431, "fsmount": 432}
_FSCONFIG_CMD_CREATE = 6
_CLOEXEC = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Queue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One queue, its messages in the order in which they are received."""

    name: str
    inode: int
    mode: int
    uid: int
    gid: int
    most_messages: int
    message_bytes: int
    messages: list[tuple[int, bytes]] = []


class _Attributes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("flags", "maxmsg", "msgsize", "curmsgs")),
        ("reserved", ctypes.c_long * 4),
    )


@contextlib.contextmanager
def _folder() -> Iterator[int]:
    """The file system of queues of this thread's namespace, mounted nowhere."""
    with contextlib.ExitStack() as stack:
        opened = _system("fsopen", b"mqueue", _CLOEXEC)
        stack.callback(os.close, opened)
        _system("fsconfig", opened, _FSCONFIG_CMD_CREATE, None, None, 0)
        mounted = _system("fsmount", opened, _CLOEXEC, 0)
        stack.callback(os.close, mounted)
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)
        stack.callback(os.close, folder)
        yield folder


@functools.cache
def is_supported() -> bool:
    """Whether this kernel has POSIX message queues."""
    return bool(re.search(r"\tmqueue$", FILE_SYSTEMS.read_text(), re.MULTILINE))


def _system(name: str, *arguments: object) -> int:
    return ipcns.check(_libc.syscall(_NUMBERS[name], *arguments), f"{name} of mqueue")


def descriptors(root_pid: int) -> list[str]:
    """The names by which CRIU leaves the queues' descriptors of a tree alone.

    Raises:
        UnsupportedError: a queue cannot be captured.
    """
    if not is_supported():
        return []
    device, listed = ipcns.inside(root_pid, _look)
    found = set()
    for pid in procfs.tree(root_pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{number}"
                with contextlib.suppress(FileNotFoundError):
                    if not os.readlink(path).startswith("/"):
                        continue
                    info = os.stat(path)
                    if info.st_dev != device or not stat.S_ISREG(info.st_mode):
                        continue
                    if info.st_ino not in listed:
                        raise errors.UnsupportedError(
                            f"process {pid} has a message queue open that was unlinked",
                            reason=names.Reason.UNSUPPORTED,
                            hint="unlink message queues when they are closed",
                        )
                    with open(f"/proc/{pid}/fdinfo/{number}") as file:
                        mount = re.search(r"^mnt_id:\s*(\d+)$", file.read(), re.MULTILINE)
                    if mount:
                        found.add(f"file[{int(mount[1]):x}:{info.st_ino:x}]")
    if any(listed.values()) and (others := ipcns.strangers(root_pid)):
        raise errors.UnsupportedError(
            f"message queues hold messages, and another container (process {min(others)}) may use"
            " them",
            reason=names.Reason.IPC_SHARED,
            hint="let only one container of the pod use message queues",
        )
    return sorted(found)


def _look() -> tuple[int, dict[int, int]]:
    """Device of the namespace's queues, and inode -> how many messages are in it."""
    listed = {}
    with _folder() as folder:
        for name in os.listdir(folder):
            with _opened(folder, name) as fd:
                status = os.pread(fd, 200, 0).decode()
                if re.search(r"NOTIFY_PID:\s*[1-9]", status):
                    raise errors.UnsupportedError(
                        f"a process waits to be notified of messages in the queue {name}",
                        reason=names.Reason.UNSUPPORTED,
                        hint="neither that nor its messages can be captured",
                    )
                listed[os.fstat(fd).st_ino] = _attributes(fd).curmsgs
        return os.fstat(folder).st_dev, listed


def read(pid: int) -> list[Queue]:
    """All queues of a namespace in which everything is frozen, with their messages.

    Raises:
        UnsupportedError: they hold too much.
    """
    return ipcns.inside(pid, _read) if is_supported() else []


def _read() -> list[Queue]:
    queues: list[Queue] = []
    left = MOST_BYTES
    with _folder() as folder:
        listed = sorted(os.listdir(folder))
        if len(listed) > MOST_QUEUES:
            raise _refused(f"{len(listed)} message queues, more than {MOST_QUEUES}")
        for name in listed:
            with _opened(folder, name) as fd:
                info, attributes = os.fstat(fd), _attributes(fd)
                left -= attributes.curmsgs * attributes.msgsize
                if left < 0:
                    raise _refused(f"message queues with more than {MOST_BYTES} bytes")
                queues.append(
                    Queue(
                        name=name,
                        inode=info.st_ino,
                        mode=stat.S_IMODE(info.st_mode),
                        uid=info.st_uid,
                        gid=info.st_gid,
                        most_messages=attributes.maxmsg,
                        message_bytes=attributes.msgsize,
                        messages=_messages(fd, attributes),
                    )
                )
    return queues


def _messages(fd: int, attributes: _Attributes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    space = ctypes.create_string_buffer(max(1, attributes.msgsize))
    priority = ctypes.c_uint()
    try:
        for _ in range(attributes.curmsgs):
            size = _libc.mq_receive(fd, space, len(space), ctypes.byref(priority))
            found.append((priority.value, space.raw[: ipcns.check(size, "mq_receive")]))
    finally:
        _send(fd, found)
    return found


def _send(fd: int, messages: Iterable[tuple[int, bytes]]) -> None:
    for priority, data in messages:
        ipcns.check(_libc.mq_send(fd, data, len(data), priority), "mq_send")


def _attributes(fd: int) -> _Attributes:
    attributes = _Attributes()
    ipcns.check(_libc.mq_getattr(fd, ctypes.byref(attributes)), "mq_getattr")
    return attributes


@contextlib.contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def encode(queues: list[Queue]) -> bytes:
    """The file of an artifact."""
    return msgspec.msgpack.encode(queues)


def decode(data: bytes) -> list[Queue]:
    """As `encode` made it.

    Raises:
        ArtifactError: damaged, or more than is ever captured.
    """
    try:
        queues = msgspec.msgpack.decode(data, type=list[Queue])
    except msgspec.MsgspecError as err:
        raise errors.ArtifactError(f"{NAME}: {err}") from err
    size = sum(len(message) for queue in queues for _, message in queue.messages)
    for queue in queues:
        if "/" in queue.name or "\0" in queue.name or queue.name in ("", ".", ".."):
            raise errors.ArtifactError(f"{NAME}: no name of a queue: {queue.name!r}")
        if not 0 <= queue.mode <= 0o7777 or min(queue.uid, queue.gid) < 0:
            raise errors.ArtifactError(f"{NAME}: no mode or owner of a queue: {queue.name}")
    if len(queues) > MOST_QUEUES or size > MOST_BYTES:
        raise errors.ArtifactError(f"{NAME}: {len(queues)} queues, {size} bytes: too many")
    return queues


def put(pid: int, uid: int, queues: list[Queue]) -> int:
    """Make a container's queues, and before remove what its previous life left.

    Without another container alive in the namespace that is every queue there is.

    Args:
        pid: PID 1 of a container in which nothing else runs yet.
        uid: the container's user, whose RLIMIT_MSGQUEUE they count for.

    Returns:
        How many were removed.

    Raises:
        UnsupportedError: another container may have a queue of such a name, or the kernel refuses.
    """
    if not queues and not is_supported():
        return 0
    wanted = {queue.name for queue in queues}

    def work() -> int:
        with _folder() as folder:
            present = set(os.listdir(folder))
            shared = bool(present and ipcns.strangers(pid))
            if shared and present & wanted:
                raise errors.UnsupportedError(
                    f"the message queue {min(present & wanted)} is there already, and may be"
                    " another container's",
                    reason=names.Reason.IPC_CONFLICT,
                    hint="let only one container of the pod use message queues",
                )
            doomed = set() if shared else present
            for name in doomed:
                os.unlink(name, dir_fd=folder)
            try:
                for queue in queues:
                    _make(queue, folder)
            except errors.UnsupportedError:
                _unlink(wanted, folder)
                raise
            return len(doomed)

    return ipcns.inside(pid, work, uid=uid)


def discard(namespace: int, made: Iterable[str]) -> None:
    """Remove queues of a restore that failed.

    Args:
        namespace: what `ipcns.opened` gave.
    """

    def work() -> None:
        with _folder() as folder:
            _unlink(made, folder)

    ipcns.inside(namespace, work, is_open=True)


def _unlink(listed: Iterable[str], folder: int) -> None:
    for name in listed:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _make(queue: Queue, folder: int) -> None:
    attributes = _Attributes(maxmsg=queue.most_messages, msgsize=queue.message_bytes)
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        name = b"/" + os.fsencode(queue.name)
        fd = ipcns.check(_libc.mq_open(name, flags, 0o600, ctypes.byref(attributes)), "mq_open")
        try:
            os.chown(queue.name, queue.uid, queue.gid, dir_fd=folder)
            os.chmod(queue.name, queue.mode, dir_fd=folder)
            _send(fd, queue.messages)
        finally:
            os.close(fd)
    except OSError as err:
        hint = "raise RLIMIT_MSGQUEUE of the agent" if err.errno == errno.EMFILE else None
        raise errors.UnsupportedError(
            f"cannot make the message queue {queue.name}: {err.strerror}",
            reason=names.Reason.UNSUPPORTED,
            hint=hint,
        ) from err


def _refused(what: str) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        f"{what}, which is more than is captured",
        reason=names.Reason.UNSUPPORTED,
        hint="capture the worker when it has read its messages",
    )
