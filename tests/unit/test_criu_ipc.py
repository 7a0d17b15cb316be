"""Images of an IPC namespace: read, checked, and their settings replaced."""

import struct

import pytest

from chrek import errors
from chrek.criu import images, ipc
from chrek.criu import messages_pb2 as pb


def desc(number, key=0, mode=0o600):
    return pb.IpcDescription(key=key, uid=1, gid=1, cuid=1, cgid=1, mode=mode, id=number)


def entry(message):
    body = message.SerializeToString()
    return struct.pack("<I", len(body)) + body


def write(folder, kind, data, number=9):
    head = struct.pack("<II", images.COMMON_MAGIC, ipc.MAGICS[kind])
    (folder / f"ipcns-{kind}-{number}.img").write_bytes(head + data)


SEGMENT = pb.IpcSharedMemory(desc=desc(3, 4711), size=4096, in_pagemaps=True)
GONE = pb.IpcSharedMemory(desc=desc(4, 0, 0o1600), size=4096, in_pagemaps=True)
SET = entry(pb.IpcSemaphores(desc=desc(7, 0xFFFFFFB2), nsems=3)) + bytes(8)
QUEUE = (
    entry(pb.IpcQueue(desc=desc(9, 77), qbytes=4096, qnum=2))
    + entry(pb.IpcMessage(mtype=1, msize=3))
    + bytes(8)
    + entry(pb.IpcMessage(mtype=2, msize=9))
    + bytes(16)
)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "var", b"")
    write(tmp_path, "shm", entry(SEGMENT) + entry(GONE))
    write(tmp_path, "sem", SET)
    write(tmp_path, "msg", QUEUE)
    return tmp_path


def test_no_namespace(tmp_path):
    assert ipc.read(tmp_path) is None


def test_objects(folder):
    found = ipc.read(folder)
    assert found.found == (("shm", 3, 4711), ("shm", 4, 0), ("sem", 7, -78), ("msg", 9, 77))
    assert found.removed == (4,)
    assert found.limits_bytes == {9: 4096}


def test_criu_leaves_empty_images_out(folder):
    for kind in ("shm", "sem"):
        (folder / f"ipcns-{kind}-9.img").unlink()
    assert ipc.read(folder).found == (("msg", 9, 77),)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("shm", entry(pb.IpcSharedMemory(desc=desc(3), size=1)), "never captured"),
        (
            "shm",
            entry(pb.IpcSharedMemory(desc=desc(3), size=1, in_pagemaps=True, hugetlb_flag=1)),
            "never captured",
        ),
        ("shm", entry(SEGMENT) * 2, "one twice"),
        ("sem", SET[:-1], "ends inside"),
        ("sem", entry(pb.IpcSemaphores(desc=desc(7), nsems=4_000_000_000)), "ends inside"),
        ("msg", entry(pb.IpcQueue(desc=desc(9), qbytes=1, qnum=4_000_000_000)), "ends inside"),
        ("msg", QUEUE[:-1], "ends inside"),
        ("msg", b"\xff\xff\xff\xff", "ends inside"),
        ("msg", b"\x02\0\0\0\xff\xff", "ipcns-msg"),
        ("msg", b"\0\0\0\0", "lacks required"),
    ],
)
def test_hostile_images(folder, kind, data, words):
    write(folder, kind, data)
    with pytest.raises(errors.ArtifactError, match=words):
        ipc.read(folder)


def test_another_magic(folder):
    (folder / "ipcns-sem-9.img").write_bytes(bytes(16))
    with pytest.raises(errors.ArtifactError, match="not a CRIU image"):
        ipc.read(folder)


def test_two_namespaces(folder):
    write(folder, "shm", b"", 10)
    with pytest.raises(errors.ArtifactError, match="more than one"):
        ipc.read(folder)


def test_no_settings(folder):
    (folder / "ipcns-var-9.img").unlink()
    with pytest.raises(errors.ArtifactError, match="no or more"):
        ipc.read(folder)


def test_too_large(folder, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 20)
    with pytest.raises(errors.ArtifactError, match="larger than 20"):
        ipc.read(folder)


def test_too_many(folder, monkeypatch):
    monkeypatch.setattr(ipc, "MOST_OBJECTS", 3)
    with pytest.raises(errors.ArtifactError, match="too many"):
        ipc.read(folder)


def test_the_settings_are_the_new_namespaces(folder):
    found = ipc.read(folder)
    names = (*ipc.SYSCTLS, *ipc.SYSCTLS_OF_QUEUES)
    settings = {name: [number] for number, name in enumerate(names)}
    settings["kernel/sem"] = [250, 32000, 500, 128]
    ipc.keep_settings(found, settings)
    data = found.variables.read_bytes()
    assert data[:8] == struct.pack("<II", images.COMMON_MAGIC, ipc.MAGICS["var"])
    written = pb.IpcVariables.FromString(data[12:])
    assert list(written.sem_ctls) == [250, 32000, 500, 128]
    assert written.msg_ctlmax == settings["kernel/msgmax"][0]
    assert written.mq_msgsize_default == settings["fs/mqueue/msgsize_default"][0]
