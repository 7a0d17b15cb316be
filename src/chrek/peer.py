"""Who called the agent's socket: decided by the kernel, never by what the caller says.

The peer must be PID 1 of its PID namespace; its pod and container are read from its cgroups and
mounts while a pidfd makes sure that the process is still the one that connected.
Source: unix(7) SO_PEERCRED, SO_PEERPIDFD (Linux 6.5), SCM_CREDENTIALS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import signal
import socket
import struct

from chrek import errors, procfs

_SO_PEERPIDFD = 77
_NONCE_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Peer:
    """PID 1 of a container."""

    pid: int
    pidfd: int
    """Owned by whoever called `identify`; `close()` it."""
    pod_uid: str
    container_id: str
    container: str

    def alive(self) -> bool:
        """Whether the process still exists."""
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Give the pidfd back."""
        os.close(self.pidfd)


def identify(connection: socket.socket) -> Peer:
    """Find out who is at the other end of a connected Unix socket.

    Blocks only on kernels older than 6.5, for at most `_NONCE_SECONDS`.

    Raises:
        PeerError: not PID 1 of a container of a pod, or gone.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, _, _ = struct.unpack("3i", raw)
    if pid <= 0:
        raise errors.PeerError(
            "the caller is not in a PID namespace below the agent's",
            hint="the agent needs hostPID: true",
        )
    pidfd = _pidfd(connection, pid)
    try:
        status = procfs.status(pid)
        if len(status.nspids) < 2 or status.nspids[-1] != 1:
            raise errors.PeerError(f"process {pid} ({status.name}) is not PID 1 of a container")
        found = procfs.pod_and_container(pid)
        name = procfs.container_name(pid)
        if found is None or name is None:
            raise errors.PeerError(f"process {pid} ({status.name}) is in no container of a pod")
        peer = Peer(pid=pid, pidfd=pidfd, pod_uid=found[0], container_id=found[1], container=name)
        if not peer.alive():
            raise errors.PeerError(f"process {pid} has ended")
    except (OSError, KeyError) as err:
        os.close(pidfd)
        raise errors.PeerError(f"process {pid} cannot be identified: {err}") from err
    except BaseException:
        os.close(pidfd)
        raise
    return peer


def _pidfd(connection: socket.socket, pid: int) -> int:
    with contextlib.suppress(OSError):
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as err:
        raise errors.PeerError(f"process {pid} has ended") from err
    try:
        _prove(connection, pid)
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


def _prove(connection: socket.socket, pid: int) -> None:
    """Have the peer answer a nonce: the kernel then vouches for its pid after `pidfd_open`."""
    nonce = secrets.token_hex(16)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    blocking = connection.getblocking()
    connection.settimeout(_NONCE_SECONDS)
    try:
        connection.sendall(f"nonce {nonce}\n".encode())
        data, ancillary, _, _ = connection.recvmsg(128, socket.CMSG_SPACE(12))
    except OSError as err:
        raise errors.PeerError(f"process {pid} did not answer: {err}") from err
    finally:
        connection.setblocking(blocking)
    senders = [
        struct.unpack("3i", body[:12])[0]
        for level, kind, body in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    ]
    if senders != [pid] or data != f"nonce {nonce}\n".encode():
        raise errors.PeerError(f"process {pid} did not prove to be the caller")
