"""The file of message queues, and the order in which they are read and filled."""

import ctypes
import os

import msgspec
import pytest

from chrek import errors, mqueue, names

QUEUE = mqueue.Queue(
    name="first",
    inode=5,
    mode=0o600,
    uid=1000,
    gid=1000,
    most_messages=5,
    message_bytes=64,
    messages=[(9, b"high"), (1, b"low")],
)


def test_the_file_is_what_it_was():
    assert mqueue.decode(mqueue.encode([QUEUE])) == [QUEUE]


@pytest.mark.parametrize(
    "changed",
    [{"name": "../etc"}, {"name": ""}, {"name": ".."}, {"name": "a\0b"}, {"mode": -1}, {"uid": -1}],
    ids=str,
)
def test_hostile_queues(changed):
    data = mqueue.encode([msgspec.structs.replace(QUEUE, **changed)])
    with pytest.raises(errors.ArtifactError):
        mqueue.decode(data)


@pytest.mark.parametrize("data", [b"", b"\x91\x80", b"nonsense", mqueue.encode([QUEUE])[:-1]])
def test_damaged_files(data):
    with pytest.raises(errors.ArtifactError, match=mqueue.NAME):
        mqueue.decode(data)


def test_too_much_is_refused(monkeypatch):
    data = mqueue.encode([QUEUE, msgspec.structs.replace(QUEUE, name="second")])
    for name, most in (("MOST_QUEUES", 1), ("MOST_BYTES", 13)):
        with monkeypatch.context() as patch:
            patch.setattr(mqueue, name, most)
            with pytest.raises(errors.ArtifactError, match="too many"):
                mqueue.decode(data)
    assert len(mqueue.decode(data)) == 2


class Libc:
    """A queue that fails when it is asked for the message of a number."""

    def __init__(self, messages, fails_at=99):
        self.messages, self.fails_at, self.taken = list(messages), fails_at, 0

    def mq_receive(self, _fd, space, size, priority):
        if self.taken == self.fails_at:
            ctypes.set_errno(5)
            return -1
        self.taken += 1
        priority._obj.value, data = self.messages.pop(0)
        assert len(data) <= size
        ctypes.memmove(space, data, len(data))
        return len(data)

    def mq_send(self, _fd, data, size, priority):
        self.messages.append((priority, data[:size]))
        return 0


def test_messages_are_read_and_sent_again(monkeypatch):
    libc = Libc([(9, b"high"), (1, b"a\0b"), (1, b"")])
    monkeypatch.setattr(mqueue, "_libc", libc)
    read = mqueue._messages(3, mqueue._Attributes(msgsize=64, curmsgs=3))
    assert read == [(9, b"high"), (1, b"a\0b"), (1, b"")]
    assert libc.messages == read


def test_what_was_taken_before_a_failure_goes_back(monkeypatch):
    libc = Libc([(9, b"high"), (1, b"low")], fails_at=1)
    monkeypatch.setattr(mqueue, "_libc", libc)
    with pytest.raises(OSError, match="mq_receive"):
        mqueue._messages(3, mqueue._Attributes(msgsize=64, curmsgs=2))
    assert sorted(libc.messages) == [(1, b"low"), (9, b"high")]


def test_messages_beside_another_container_are_refused(monkeypatch):
    monkeypatch.setattr("chrek.ipcns.inside", lambda pid, work: (1 << 40, {5: 2}))
    monkeypatch.setattr("chrek.ipcns.strangers", lambda pid: {77})
    with pytest.raises(errors.UnsupportedError, match="77") as caught:
        mqueue.descriptors(os.getpid())
    assert caught.value.reason == names.Reason.IPC_SHARED


def test_empty_queues_beside_another_container_are_none_of_its_business(monkeypatch):
    monkeypatch.setattr("chrek.ipcns.inside", lambda pid, work: (1 << 40, {5: 0}))
    monkeypatch.setattr("chrek.ipcns.strangers", lambda pid: {77})
    assert mqueue.descriptors(os.getpid()) == []


def test_descriptors_have_criu_s_names(monkeypatch, tmp_path):
    with (tmp_path / "queue").open("w") as file:
        info = os.fstat(file.fileno())
        monkeypatch.setattr("chrek.ipcns.inside", lambda pid, work: (info.st_dev, {info.st_ino: 0}))
        monkeypatch.setattr("os.stat", lambda path, real=os.stat: only(real, path, info))
        (name,) = mqueue.descriptors(os.getpid())
    assert name.startswith("file[")
    assert name.endswith(f":{info.st_ino:x}]")


def test_a_kernel_without_queues(monkeypatch, tmp_path):
    (tmp_path / "filesystems").write_text("nodev\tsysfs\nnodev\ttmpfs\n")
    monkeypatch.setattr(mqueue, "FILE_SYSTEMS", tmp_path / "filesystems")
    mqueue.is_supported.cache_clear()
    try:
        assert not mqueue.is_supported()
        assert mqueue.descriptors(1) == mqueue.read(1) == []
        assert mqueue.put(1, 0, []) == 0
    finally:
        monkeypatch.undo()
        mqueue.is_supported.cache_clear()


def test_an_unlinked_queue_is_refused(monkeypatch, tmp_path):
    with (tmp_path / "queue").open("w") as file:
        info = os.fstat(file.fileno())
        monkeypatch.setattr("chrek.ipcns.inside", lambda pid, work: (info.st_dev, {}))
        monkeypatch.setattr("os.stat", lambda path, real=os.stat: only(real, path, info))
        with pytest.raises(errors.UnsupportedError, match="unlinked"):
            mqueue.descriptors(os.getpid())


def only(real, path, info):
    """As os.stat, with every other file a directory."""
    found = real(path)
    return found if found.st_ino == info.st_ino else real("/")
