"""System V objects (shared memory, semaphores, message queues) of a container's IPC namespace.

CRIU dumps and makes them; this says whose they are, and clears what a container's previous life
left. The kernel does not tell to which container an object belongs. While the managed container is
the only one alive in the namespace, all are its own. Otherwise the processes that made or used an
object decide, as far as the kernel knows them, and where it knows none, the owner.
Source: proc_sysvipc(5), shmctl(2), semctl(2), msgctl(2).
"""

from __future__ import annotations

import ctypes
import dataclasses
import pathlib
from collections.abc import Iterable

from chrek import errors, ipcns, names, procfs

FOLDER = pathlib.Path("/proc/sysvipc")
SYSCTLS = pathlib.Path("/proc/sys/kernel")
KINDS = ("shm", "sem", "msg")
MOST_SEMAPHORES = 64
"""So many of a set are asked for who used them last."""
_IPC_RMID = 0
_IPC_SET = 1
_IPC_STAT = 2
_GETPID = 11
_libc = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True)
class Object:
    """One object.

    Attributes:
        kind: shm, sem or msg.
        key: as the kernel prints it, signed; 0 for IPC_PRIVATE and for a removed segment.
        pids: the processes that made or used it last, as far as the kernel tells; some have ended.
        attached: how many times shared memory is attached.
        used: bytes in a message queue.
    """

    kind: str
    number: int
    key: int = 0
    uid: int = 0
    pids: frozenset[int] = frozenset()
    attached: int = 0
    used: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number} (key {self.key:#x}, user {self.uid})"


def objects(pid: int) -> list[Object]:
    """The objects in the IPC namespace of a process."""
    return ipcns.inside(pid, _objects)


def _objects() -> list[Object]:
    found = []
    for kind in KINDS:
        header, *lines = (FOLDER / kind).read_text().splitlines()
        columns = header.split()
        for line in lines:
            row = {k: int(v) for k, v in zip(columns, line.split(), strict=False)}
            number = row["msqid" if kind == "msg" else f"{kind}id"]
            pids = {row.get(column, 0) for column in ("cpid", "lpid", "lspid", "lrpid")}
            for index in range(min(row.get("nsems", 0), MOST_SEMAPHORES)):
                pids.add(max(0, _libc.semctl(number, index, _GETPID)))
            found.append(
                Object(
                    *(kind, number, row["key"], row["uid"], frozenset(pids - {0})),
                    attached=row.get("nattch", 0),
                    used=row.get("cbytes", 0),
                )
            )
    return found


def has_own(pid: int) -> bool:
    """Whether the tree of a process has objects, which are then all that the namespace has.

    Raises:
        UnsupportedError: so have the pod's other containers, or CRIU could not restore one.
    """
    found = objects(pid)
    if not found:
        return False
    others = ipcns.strangers(pid)
    own: list[Object] = []
    foreign: list[Object] = []
    if others:
        living = set(procfs.in_pid_namespace(pid))
        uid = procfs.status(pid).uids[0]
        for item in found:
            is_own = bool(item.pids & living) or (not item.pids & others and item.uid == uid)
            (own if is_own else foreign).append(item)
    else:
        own = found
    if own and foreign:
        raise errors.UnsupportedError(
            f"the worker has {own[0]} in an IPC namespace where another container has {foreign[0]}",
            reason=names.Reason.IPC_SHARED,
            hint="let only one container of the pod use System V objects",
        )
    if own:
        _check_queues(pid, own)
    return bool(own)


def _check_queues(pid: int, own: Iterable[Object]) -> None:
    """Refuse what CRIU would dump and then not restore: messages above the usual limits."""
    most, room = ipcns.inside(
        pid, lambda: [int((SYSCTLS / name).read_text()) for name in ("msgmax", "msgmnb")]
    )
    for item in own:
        if item.used > room or (most > _MSGMAX and item.used > _MSGMAX):
            raise errors.UnsupportedError(
                f"{item} holds {item.used} bytes; its limits were raised, which is not restored",
                reason=names.Reason.UNSUPPORTED,
                hint="capture the worker when it has read its messages",
            )


_MSGMAX = 8192
"""The largest message that CRIU restores (criu/ipc_ns.c), and the kernel's default."""


def clear(pid: int, uid: int, wanted: Iterable[Object] = ()) -> int:
    """Remove what a container's previous life left in its IPC namespace.

    Without another container alive there, everything: nothing of this one runs yet. Else only what
    is in the way of the objects that are to come, belongs to the container's user, is not attached,
    and was made or used by known processes which all have ended.

    Args:
        pid: PID 1 of a container in which nothing else runs yet.
        uid: the container's user.
        wanted: the objects of the artifact.

    Returns:
        How many were removed.

    Raises:
        UnsupportedError: another container has an object that is in the way.
    """
    numbers = {(item.kind, item.number) for item in wanted}
    keys = {(item.kind, item.key) for item in wanted if item.key}
    found = objects(pid)
    others = ipcns.strangers(pid) if found else set()
    doomed = []
    for item in found:
        in_the_way = (item.kind, item.number) in numbers or (item.kind, item.key) in keys
        # Numbers end in an index of the namespace's table, of which each can be taken only once.
        in_the_way = in_the_way or any(
            item.kind == other.kind and _index(item.number) == _index(other.number)
            for other in wanted
        )
        if others and not in_the_way:
            continue
        ended = item.pids and not item.pids & _alive(item.pids)
        if item.attached or (others and not (item.uid == uid and ended)):
            if not in_the_way:
                continue
            raise errors.UnsupportedError(
                f"{item} of another container of the pod is in the way of the worker's",
                reason=names.Reason.IPC_CONFLICT,
                hint="let only one container of the pod use System V objects",
            )
        doomed.append(item)
    ipcns.inside(pid, lambda: _remove(doomed))
    return len(doomed)


_INDEX_MASK = (1 << 15) - 1


def _index(number: int) -> int:
    return number & _INDEX_MASK


def _alive(pids: Iterable[int]) -> set[int]:
    return {pid for pid in pids if pathlib.Path(f"/proc/{pid}").exists()}


def _remove(doomed: Iterable[Object]) -> None:
    for item in doomed:
        arguments = (0, _IPC_RMID) if item.kind == "sem" else (_IPC_RMID, None)
        try:
            ipcns.check(getattr(_libc, f"{item.kind}ctl")(item.number, *arguments), str(item))
        except OSError as err:
            raise errors.UnsupportedError(
                f"cannot remove {item} of a container before: {err.strerror}",
                reason=names.Reason.IPC_CONFLICT,
            ) from err


def discard(namespace: int, made: Iterable[Object]) -> None:
    """Remove objects that a restore which failed may have made.

    Args:
        namespace: what `ipcns.opened` gave.
        made: they are known by their kind and number.
    """

    def work() -> None:
        wanted = {(item.kind, item.number) for item in made}
        _remove(item for item in _objects() if (item.kind, item.number) in wanted)

    ipcns.inside(namespace, work, is_open=True)


class _Permissions(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_int),
        *((name, ctypes.c_uint) for name in ("uid", "gid", "cuid", "cgid", "mode")),
        ("seq", ctypes.c_ushort),
        ("reserved", ctypes.c_ulong * 2),
    )


class _Queue(ctypes.Structure):
    _fields_ = (
        ("permissions", _Permissions),
        *((name, ctypes.c_long) for name in ("sent", "received", "changed")),
        *((name, ctypes.c_ulong) for name in ("used_bytes", "messages", "limit_bytes")),
        ("rest", ctypes.c_ulong * 4),
    )


def mend(pid: int, *, removed: Iterable[int], limits_bytes: dict[int, int]) -> None:
    """Do what CRIU leaves out, when the objects are made and shared memory is attached.

    Args:
        removed: shared memory that goes with its last user.
        limits_bytes: message queue -> how many bytes it may hold.
    """

    def work() -> None:
        for number in removed:
            ipcns.check(_libc.shmctl(number, _IPC_RMID, None), f"shm {number}")
        for number, limit in limits_bytes.items():
            queue = _Queue()
            ipcns.check(_libc.msgctl(number, _IPC_STAT, ctypes.byref(queue)), f"msg {number}")
            if queue.limit_bytes != limit:
                queue.limit_bytes = limit
                ipcns.check(_libc.msgctl(number, _IPC_SET, ctypes.byref(queue)), f"msg {number}")

    ipcns.inside(pid, work)
