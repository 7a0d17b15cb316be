"""What the pod's IPC namespace must hold before a tree is restored, and what CRIU leaves out.

The order: what a container's previous life left is removed, POSIX queues are made, CRIU makes the
System V objects, and what it does not restore of them is done last. Adjustments that processes
asked for with SEM_UNDO cannot be read from the kernel: semaphores come back with their values, and
the end of a restored process undoes nothing that it did before the capture. CRIU, as root, is the
creator of the objects; their owner, whose right to them is the same, is the captured one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping

from chrek import errors, ipc, ipcns, log, mqueue, names, procfs
from chrek.criu import images
from chrek.criu import ipc as ipc_images
from chrek.criu import messages_pb2 as pb

SYSCTLS = pathlib.Path("/proc/sys")
_EXTERNAL = re.compile(r"^file\[[0-9a-f]+:([0-9a-f]+)\]$")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A namespace that is ready for CRIU.

    As a context manager it removes, on an error, what was made: the container starts again in the
    same namespace, cold, and must not find what it never made.

    Attributes:
        images: of the System V objects; None where there are none.
        queues: names of the message queues.
        namespace: a descriptor of it, closed at the end.
    """

    init_pid: int
    images: ipc_images.Images | None
    queues: tuple[str, ...]
    namespace: int

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        try:
            if kind is not None and self.images is not None:
                ipc.discard(self.namespace, _coming(self.images))
            if kind is not None and self.queues:
                mqueue.discard(self.namespace, self.queues)
        except (errors.UnsupportedError, OSError) as err:
            log.get(__name__).warning("IPC objects of a failed restore stay", error=str(err))
        finally:
            os.close(self.namespace)

    def mend(self) -> None:
        """Do what CRIU leaves out, when it has restored everything and nothing runs yet."""
        if self.images is not None:
            ipc.mend(
                self.init_pid,
                removed=self.images.removed,
                limits_bytes=dict(self.images.limits_bytes),
            )


def prepare(
    staging: pathlib.Path, small: Mapping[str, bytes], init_pid: int, logger: log.Logger
) -> Prepared:
    """Clear and fill the namespace of a new container.

    Args:
        staging: folder of the verified images, which are edited.
        small: the artifact's other verified files.

    Raises:
        ArtifactError: the images are damaged. UnsupportedError: another container is in the way.
    """
    found = ipc_images.read(staging)
    queues = mqueue.decode(small[mqueue.NAME]) if mqueue.NAME in small else []
    uid = procfs.status(init_pid).uids[0]
    removed = ipc.clear(init_pid, uid, _coming(found) if found else [])
    removed += mqueue.put(init_pid, uid, queues)
    prepared = Prepared(
        init_pid, found, tuple(queue.name for queue in queues), ipcns.opened(init_pid)
    )
    if removed:
        logger.info("IPC objects of a container before removed", count=removed)
    with contextlib.ExitStack() as stack:
        stack.push(prepared)
        if found:
            ipc_images.keep_settings(found, ipcns.inside(init_pid, _settings))
        if queues:
            _name_queues(staging / "files.img", queues, init_pid)
        stack.pop_all()
    return prepared


def _coming(found: ipc_images.Images) -> list[ipc.Object]:
    return [ipc.Object(*item) for item in found.found]


def _settings() -> dict[str, list[int]]:
    found = {}
    for name in (*ipc_images.SYSCTLS, *ipc_images.SYSCTLS_OF_QUEUES):
        try:
            found[name] = [int(value) for value in (SYSCTLS / name).read_text().split()]
        except FileNotFoundError:
            # CRIU writes those of message queues only where there are any.
            if name in ipc_images.SYSCTLS:
                raise
            found[name] = [0]
    return found


def _name_queues(path: pathlib.Path, queues: list[mqueue.Queue], init_pid: int) -> None:
    """Have CRIU open the queues' descriptors by the paths of the new container."""
    paths = {queue.inode: f"{mqueue.FOLDER}/{queue.name}" for queue in queues}
    entries = images.read(path, pb.FileEntry)
    changed = False
    for entry in entries:
        external = _EXTERNAL.match(entry.reg.name) if entry.reg.ext else None
        if external is None:
            continue
        inode = int(external[1], 16)
        if inode not in paths:
            raise errors.ArtifactError(f"{path.name}: a descriptor of no captured message queue")
        entry.reg.name, entry.reg.ext = paths[inode], False
        changed = True
    if not changed:
        return
    mounted = [m for m in procfs.mounts(init_pid) if m.mount_point == mqueue.FOLDER]
    if not mounted or mounted[-1].fs_type != "mqueue":
        raise errors.UnsupportedError(
            f"the worker has message queues open, and the container has none at {mqueue.FOLDER}",
            reason=names.Reason.UNSUPPORTED,
        )
    path.write_bytes(images.encode(path.name, entries))
