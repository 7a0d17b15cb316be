"""What is done to a new container's IPC namespace before and after CRIU."""

import os

import pytest

from chrek import errors, ipc, ipcstate, log, mqueue, procfs
from chrek.criu import images
from chrek.criu import ipc as ipc_images
from chrek.criu import messages_pb2 as pb

LOG = log.get(__name__)
QUEUE = mqueue.Queue(
    name="q", inode=0x2A, mode=0o600, uid=0, gid=0, most_messages=1, message_bytes=1
)
MOUNTED = procfs.parse_mountinfo("30 1 0:77 / /dev/mqueue rw - mqueue mqueue rw\n")


class User:
    uids = (1000,) * 4


@pytest.fixture
def called(monkeypatch):
    done = []

    def clear(pid, uid, coming):
        done.append(("clear", pid, uid, coming))
        return 1

    def put(pid, uid, queues):
        done.append(("put", pid, uid, queues))
        return 0

    monkeypatch.setattr(ipc, "clear", clear)
    monkeypatch.setattr(mqueue, "put", put)
    monkeypatch.setattr(ipc, "mend", lambda pid, **rest: done.append(("mend", pid, rest)))
    monkeypatch.setattr(procfs, "status", lambda pid: User())
    monkeypatch.setattr(procfs, "mounts", lambda pid: MOUNTED)
    monkeypatch.setattr(ipc, "discard", lambda fd, made: done.append(("discard", made)))
    monkeypatch.setattr(mqueue, "discard", lambda fd, made: done.append(("unlink", made)))
    monkeypatch.setattr("chrek.ipcns.opened", lambda pid: os.open("/dev/null", os.O_RDONLY))
    monkeypatch.setattr("chrek.ipcns.inside", lambda pid, work: work())
    return done


def write_files(folder, name, ext=True):
    entries = [
        pb.FileEntry(type=1, id=1, reg=pb.RegFileEntry(id=1, flags=2, name=name, ext=ext)),
        pb.FileEntry(type=1, id=2, reg=pb.RegFileEntry(id=2, flags=0, name="/etc/file")),
    ]
    (folder / "files.img").write_bytes(images.encode("files.img", entries))


def files(folder):
    entries = images.read(folder / "files.img", pb.FileEntry)
    return [(entry.reg.name, entry.reg.ext) for entry in entries]


def test_without_objects_leftovers_are_cleared_all_the_same(called, tmp_path):
    with ipcstate.prepare(tmp_path, {}, 7, LOG) as prepared:
        prepared.mend()
    assert prepared.images is None
    assert called == [("clear", 7, 1000, []), ("put", 7, 1000, [])]


def test_objects_and_what_criu_leaves_out(called, tmp_path, monkeypatch):
    found = ipc_images.Images(tmp_path / "var", (("shm", 3, 4711),), (3,), {9: 4096})
    kept = []
    monkeypatch.setattr(ipc_images, "read", lambda folder: found)
    monkeypatch.setattr(ipc_images, "keep_settings", lambda *given: kept.append(given))
    with ipcstate.prepare(tmp_path, {}, 7, LOG) as prepared:
        prepared.mend()
    ((given, settings),) = kept
    assert given is found
    assert len(settings["kernel/sem"]) == 4
    assert called[0] == ("clear", 7, 1000, [ipc.Object("shm", 3, 4711)])
    assert called[-1] == ("mend", 7, {"removed": (3,), "limits_bytes": {9: 4096}})


def test_what_a_failed_restore_made_is_removed(called, tmp_path, monkeypatch):
    found = ipc_images.Images(tmp_path / "var", (("shm", 3, 4711),))
    monkeypatch.setattr(ipc_images, "read", lambda folder: found)
    monkeypatch.setattr(ipc_images, "keep_settings", lambda *given: None)
    write_files(tmp_path, "file[1f:2a]")
    small = {mqueue.NAME: mqueue.encode([QUEUE])}
    with pytest.raises(ZeroDivisionError), ipcstate.prepare(tmp_path, small, 7, LOG) as prepared:
        raise ZeroDivisionError
    assert called[-2:] == [("discard", [ipc.Object("shm", 3, 4711)]), ("unlink", ("q",))]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(prepared.namespace)


def test_descriptors_of_queues_get_their_paths(called, tmp_path):
    write_files(tmp_path, "file[1f:2a]")
    ipcstate.prepare(tmp_path, {mqueue.NAME: mqueue.encode([QUEUE])}, 7, LOG)
    assert files(tmp_path) == [("/dev/mqueue/q", False), ("/etc/file", False)]
    assert called[-1] == ("put", 7, 1000, [QUEUE])


def test_an_ordinary_file_of_that_name_stays(called, tmp_path):
    write_files(tmp_path, "file[1f:2a]", ext=False)
    ipcstate.prepare(tmp_path, {mqueue.NAME: mqueue.encode([QUEUE])}, 7, LOG)
    assert files(tmp_path)[0] == ("file[1f:2a]", False)


def test_a_descriptor_of_no_queue(called, tmp_path):
    write_files(tmp_path, "file[1f:2b]")
    with pytest.raises(errors.ArtifactError, match="no captured message queue"):
        ipcstate.prepare(tmp_path, {mqueue.NAME: mqueue.encode([QUEUE])}, 7, LOG)
    assert called[-1] == ("unlink", ("q",))


def test_a_container_without_the_file_system_of_queues(called, tmp_path, monkeypatch):
    monkeypatch.setattr(procfs, "mounts", lambda pid: [])
    write_files(tmp_path, "file[1f:2a]")
    with pytest.raises(errors.UnsupportedError, match="/dev/mqueue"):
        ipcstate.prepare(tmp_path, {mqueue.NAME: mqueue.encode([QUEUE])}, 7, LOG)
