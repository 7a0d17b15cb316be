"""A listening socket in the chrek volume of every managed pod of this node.

The agent sees the pods' volumes below the kubelet's root directory; nothing of the node is mounted
into a pod. The volume belongs to the pod, so every access goes through a descriptor of its
directory and follows no link.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
from collections.abc import Awaitable, Callable

from chrek import log, names, rootfd

LOG = log.get(__name__)
_VOLUME_POLL_SECONDS = 0.02
_VOLUME_POLL_MAX_SECONDS = 0.5
_BIND_ATTEMPTS = 5

Serve = Callable[[str, int, socket.socket], Awaitable[None]]
"""Called with pod UID, descriptor of the pod's chrek volume, and a connected socket."""


class Sockets:
    """Binds and serves; one task for each pod."""

    def __init__(self, kubelet_root: pathlib.Path, serve: Serve) -> None:
        self._root = kubelet_root
        self._serve = serve
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._served: set[asyncio.Task[None]] = set()

    def open(self, pod_uid: str) -> None:
        """Start serving a pod; nothing happens when it is served already."""
        if pod_uid not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._pod(pod_uid))
            self._tasks[pod_uid] = task
            task.add_done_callback(lambda done: self._forget(pod_uid, done))

    def _forget(self, pod_uid: str, done: asyncio.Task[None]) -> None:
        if self._tasks.get(pod_uid) is done:
            del self._tasks[pod_uid]

    def close(self, pod_uid: str) -> None:
        """Stop serving a pod; conversations that run go on."""
        task = self._tasks.pop(pod_uid, None)
        if task is not None:
            task.cancel()

    def stop(self) -> None:
        """Stop listening everywhere; conversations that run go on."""
        for pod_uid in list(self._tasks):
            self.close(pod_uid)

    async def _pod(self, pod_uid: str) -> None:
        try:
            directory = await self._volume(pod_uid)
        except OSError as err:
            LOG.warning("cannot listen in a pod's volume", pod_uid=pod_uid, error=str(err))
            return
        loop = asyncio.get_running_loop()
        try:
            with _bind(directory) as listener:
                LOG.debug("listening", pod_uid=pod_uid)
                while True:
                    connection, _ = await loop.sock_accept(listener)
                    # Its own descriptor from the start: ours is closed when the pod is.
                    own = os.dup(directory)
                    task = loop.create_task(self._connection(pod_uid, own, connection))
                    self._served.add(task)
                    task.add_done_callback(self._served.discard)
        except OSError as err:
            LOG.warning("cannot listen in a pod's volume", pod_uid=pod_uid, error=str(err))
        finally:
            with contextlib.suppress(OSError):
                os.unlink(names.SOCKET_NAME, dir_fd=directory)
            os.close(directory)

    async def _connection(self, pod_uid: str, directory: int, connection: socket.socket) -> None:
        try:
            await self._serve(pod_uid, directory, connection)
        except Exception:
            LOG.exception("conversation failed", pod_uid=pod_uid)
        finally:
            connection.close()
            os.close(directory)

    async def _volume(self, pod_uid: str) -> int:
        """Descriptor of a pod's chrek volume, once the kubelet has made it."""
        path = f"pods/{pod_uid}/volumes/kubernetes.io~empty-dir/{names.VOLUME}"
        resolve = rootfd.RESOLVE_IN_ROOT | rootfd.RESOLVE_NO_MAGICLINKS | rootfd.RESOLVE_NO_SYMLINKS
        delay = _VOLUME_POLL_SECONDS
        root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                try:
                    return rootfd.open_below(
                        root, path, os.O_RDONLY | os.O_DIRECTORY, resolve=resolve
                    )
                except FileNotFoundError:
                    await asyncio.sleep(delay)
                    delay = min(_VOLUME_POLL_MAX_SECONDS, delay * 1.05)
        finally:
            os.close(root)


def _bind(directory: int) -> socket.socket:
    """A listening socket in a directory that the pod can write too.

    Bind itself follows no link, and the mode comes from the umask: nothing is done by path to an
    inode that the pod could have replaced meanwhile.
    """
    for attempt in range(_BIND_ATTEMPTS):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(names.SOCKET_NAME, dir_fd=directory)
            before = os.umask(0)
            try:
                # Through /proc: sun_path holds 108 bytes, volume paths are longer.
                listener.bind(f"/proc/self/fd/{directory}/{names.SOCKET_NAME}")
            finally:
                os.umask(before)
            listener.listen(16)
        except OSError:
            listener.close()
            if attempt == _BIND_ATTEMPTS - 1:
                raise
        else:
            return listener
    raise AssertionError("unreachable")
