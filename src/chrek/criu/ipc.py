"""CRIU's images of an IPC namespace: what objects are in them, and whether CRIU will make them.

The images come from the store and are not trusted: counts and lengths are bounded, and what CRIU
would refuse, or do to the pod's namespace beside making the objects, is found before it runs.
Source: criu/ipc_ns.c and images/ipc-*.proto of CRIU 4.2.
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from collections.abc import Mapping, Sequence

from chrek import errors
from chrek.criu import images
from chrek.criu import messages_pb2 as pb

MAGICS = {"var": 0x53115007, "shm": 0x46283044, "msg": 0x55453737, "sem": 0x59573019}
MOST_OBJECTS = 32768
"""Of a kind; the kernel's usual limit."""
_SHM_DEST = 0o1000
_SINGLE = {
    "msg_ctlmax": "msgmax",
    "msg_ctlmnb": "msgmnb",
    "msg_ctlmni": "msgmni",
    "auto_msgmni": "auto_msgmni",
    "shm_ctlmax": "shmmax",
    "shm_ctlall": "shmall",
    "shm_ctlmni": "shmmni",
    "shm_rmid_forced": "shm_rmid_forced",
}
_OF_QUEUES = {
    "mq_queues_max": "queues_max",
    "mq_msg_max": "msg_max",
    "mq_msgsize_max": "msgsize_max",
    "mq_msg_default": "msg_default",
    "mq_msgsize_default": "msgsize_default",
}
SYSCTLS = ("kernel/sem", *(f"kernel/{v}" for v in _SINGLE.values()))
SYSCTLS_OF_QUEUES = tuple(f"fs/mqueue/{v}" for v in _OF_QUEUES.values())


@dataclasses.dataclass(frozen=True)
class Images:
    """What the images of a namespace hold.

    Attributes:
        variables: path of the image with the namespace's settings.
        found: kind, number and key of each object.
        removed: shared memory that was removed and lives until its last user detaches it.
        limits_bytes: message queue -> how many bytes it may hold.
    """

    variables: pathlib.Path
    found: tuple[tuple[str, int, int], ...] = ()
    removed: tuple[int, ...] = ()
    limits_bytes: Mapping[int, int] = dataclasses.field(default_factory=dict)


def read(folder: pathlib.Path) -> Images | None:
    """The objects in a folder's images; None where CRIU dumped no IPC namespace.

    Raises:
        ArtifactError: damaged, or something that CRIU must not be given.
    """
    paths = {kind: sorted(folder.glob(f"ipcns-{kind}-*.img")) for kind in MAGICS}
    if not any(paths.values()):
        return None
    # CRIU leaves images without an entry out.
    if len(paths["var"]) != 1 or any(len(of_kind) > 1 for of_kind in paths.values()):
        raise errors.ArtifactError("the images hold no or more than one IPC namespace")
    found: list[tuple[str, int, int]] = []
    removed, limits_bytes = [], {}
    shared = _Reader(paths["shm"], "shm")
    while shared.left():
        segment = shared.entry(pb.IpcSharedMemory)
        if not segment.in_pagemaps or segment.hugetlb_flag:
            raise errors.ArtifactError(f"{shared.name}: a segment of a kind that is never captured")
        found.append(("shm", segment.desc.id, segment.desc.key))
        if segment.desc.mode & _SHM_DEST:
            removed.append(segment.desc.id)
    sets = _Reader(paths["sem"], "sem")
    while sets.left():
        semaphores = sets.entry(pb.IpcSemaphores)
        sets.skip(2 * semaphores.nsems)
        found.append(("sem", semaphores.desc.id, semaphores.desc.key))
    queues = _Reader(paths["msg"], "msg")
    while queues.left():
        queue = queues.entry(pb.IpcQueue)
        for _ in range(queue.qnum):
            queues.skip(queues.entry(pb.IpcMessage).msize)
        found.append(("msg", queue.desc.id, queue.desc.key))
        limits_bytes[queue.desc.id] = queue.qbytes
    if len(found) > MOST_OBJECTS or len({item[:2] for item in found}) < len(found):
        raise errors.ArtifactError(f"{len(found)} System V objects, too many or one twice")
    # CRIU reads the number as a signed one, the kernel prints the key as one.
    signed = tuple((kind, number, _signed(key)) for kind, number, key in found)
    return Images(paths["var"][0], signed, tuple(removed), limits_bytes)


def keep_settings(read_images: Images, sysctls: Mapping[str, Sequence[int]]) -> None:
    """Have CRIU write the settings that the new container's namespace has already.

    They are the pod's, and its other containers live by them.

    Args:
        sysctls: the new namespace's, by their names in SYSCTLS and SYSCTLS_OF_QUEUES.
    """
    entry = pb.IpcVariables(sem_ctls=sysctls["kernel/sem"])
    for field, name in _SINGLE.items():
        setattr(entry, field, sysctls[f"kernel/{name}"][0])
    for field, name in _OF_QUEUES.items():
        setattr(entry, field, sysctls[f"fs/mqueue/{name}"][0])
    body = entry.SerializeToString()
    head = struct.pack("<III", images.COMMON_MAGIC, MAGICS["var"], len(body))
    read_images.variables.write_bytes(head + body)


def _signed(key: int) -> int:
    return key - (1 << 32) if key >> 31 else key


class _Reader:
    """An image in which entries and raw data, padded to eight bytes, take turns."""

    def __init__(self, paths: Sequence[pathlib.Path], kind: str) -> None:
        """Read the image, if there is one."""
        self.name, self._data, self._at = "", b"", 0
        for path in paths:
            self._open(path, kind)

    def _open(self, path: pathlib.Path, kind: str) -> None:
        self.name = path.name
        if path.stat().st_size > images.MAX_BYTES:
            raise errors.ArtifactError(f"{self.name}: larger than {images.MAX_BYTES} bytes")
        self._data = path.read_bytes()
        self._at = 8
        if self._data[:8] != struct.pack("<II", images.COMMON_MAGIC, MAGICS[kind]):
            raise errors.ArtifactError(f"{self.name}: not a CRIU image of this kind")

    def left(self) -> bool:
        return self._at < len(self._data)

    def entry(self, kind: type[images.MessageT]) -> images.MessageT:
        size = int.from_bytes(self._take(4), "little")
        return images.parse(self._take(size), kind, self.name)

    def skip(self, size: int) -> None:
        self._take((size + 7) & ~7)

    def _take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise errors.ArtifactError(f"{self.name}: ends inside an entry")
        self._at += size
        return self._data[self._at - size : self._at]
