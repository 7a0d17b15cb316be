"""No restored task may get a file that the new container's PID 1 could not open itself.

CRIU opens the files that an artifact names as root, inside the container's mounts. Whether PID 1
could do that is asked of the kernel, on a thread that has its user, groups and capabilities.
Source: credentials(7), setfsuid(2), faccessat2(2), `regfile.proto` of CRIU 4.2.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence

from chrek import errors, procfs, rootfd
from chrek.criu import messages_pb2 as pb

_IN_CONTAINER = rootfd.RESOLVE_IN_ROOT | rootfd.RESOLVE_NO_MAGICLINKS
_AT_EACCESS, _AT_EMPTY_PATH = 0x200, 0x1000
_NEVER_KEPT = os.O_CREAT | os.O_EXCL | os.O_TRUNC
"""Flags of open(2) that the kernel forgets: no descriptor has them, and no capture."""
_SYS_FACCESSAT2 = 439
_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159}
_CAPABILITY_VERSION_3 = 0x20080522
_REFUSED = (errno.EACCES, errno.EPERM)
_libc = ctypes.CDLL(None, use_errno=True)


def check(entries: Iterable[pb.FileEntry], init_pid: int) -> None:
    """Compare the files of a capture, as CRIU will open them, with what PID 1 may open.

    Files that do not exist are passed over: CRIU makes those anew, or fails.

    Args:
        entries: of `files.img`.

    Raises:
        PrivilegeError: PID 1 could not open one of them.
    """
    init = procfs.status(init_pid)
    files = [entry.reg for entry in entries if entry.HasField("reg")]
    for file in files:
        if file.flags & _NEVER_KEPT:
            raise _refused(file.name, f"flags {file.flags:#o}", init)
    root = rootfd.process_root(init_pid)
    refused: list[str] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            _become(init)
            refused.extend(_unreachable(root, files))
        except BaseException as err:
            failed.append(err)

    # It ends with its credentials; no other thread ever has them.
    thread = threading.Thread(target=ask, name="reach")
    try:
        thread.start()
        thread.join()
    finally:
        os.close(root)
    if failed:
        raise failed[0]
    if refused:
        raise _refused(refused[0], "open", init)


def _refused(name: str, what: str, init: procfs.Status) -> errors.PrivilegeError:
    return errors.PrivilegeError(
        f"the checkpoint has /{name.lstrip('/')} {what}, which user {init.uids[1]} of this "
        "container may not open",
        hint="checkpoint job and worker must have the same securityContext and files",
    )


def _unreachable(root: int, files: Sequence[pb.RegFileEntry]) -> Iterator[str]:
    for file in files:
        try:
            fd = rootfd.open_below(root, file.name, os.O_PATH, resolve=_IN_CONTAINER)
        except OSError as err:
            if err.errno in _REFUSED:
                yield file.name
            continue
        try:
            if not _may_open(fd, file.flags):
                yield file.name
        finally:
            os.close(fd)


def _may_open(fd: int, flags: int) -> bool:
    if flags & os.O_PATH:
        return True
    wanted = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}.get(
        flags & os.O_ACCMODE, os.R_OK | os.W_OK
    )
    if _may(fd, wanted):
        return True
    # A program may be run, and a directory be entered, that cannot be read.
    kind = os.fstat(fd).st_mode
    return wanted == os.R_OK and (stat.S_ISREG(kind) or stat.S_ISDIR(kind)) and _may(fd, os.X_OK)


def _may(fd: int, wanted: int) -> bool:
    flags = _AT_EACCESS | _AT_EMPTY_PATH
    if not _libc.syscall(_SYS_FACCESSAT2, fd, b"", wanted, flags):
        return True
    # Anything else, such as a file system that is read-only, CRIU meets as well.
    return ctypes.get_errno() not in _REFUSED


def _become(init: procfs.Status) -> None:
    """Give this thread, and no other, the rights of a process where files are concerned."""
    groups = (ctypes.c_uint32 * len(init.groups))(*init.groups)
    if _libc.syscall(_SYS_SETGROUPS[os.uname().machine], len(init.groups), groups):
        raise _failure("setgroups")
    for call, number in ((_libc.setfsgid, init.gids[3]), (_libc.setfsuid, init.uids[3])):
        call(number)
        if call(ctypes.c_uint32(-1).value) != number:
            raise _failure(call.__name__)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()
    if _libc.capget(header, held):
        raise _failure("capget")
    effective = init.capabilities["CapEff"]
    for word in range(2):
        held[3 * word] = held[3 * word + 1] & effective >> 32 * word & 0xFFFFFFFF
    if _libc.capset(header, held):
        raise _failure("capset")


def _failure(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
