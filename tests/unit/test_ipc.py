"""Whose a System V object is, and which are removed."""

import ctypes

import pytest

from chrek import errors, ipc, names

SHM = """       key      shmid perms       size  cpid  lpid nattch   uid   gid  cuid  cgid
      4711          3   600      65536    10    11      0  1000  1000     0     0
         0          4   600      65536    10    10      2  1000  1000  1000  1000
"""
SEM = """       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime
       -78          7   600          2  1000  1000  1000  1000          0 1764055000
"""
MSG = """       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid
        77          9   600         128          2    10     0     0     0     0     0
"""


class Libc:
    """Notes what is removed; semaphores were used by process 12."""

    def __init__(self):
        self.removed, self.result, self.limits = [], 0, {9: 16384}

    def shmctl(self, number, command, argument):
        return self._note("shm", number, command)

    def semctl(self, number, index, command):
        if command == 11:
            return 12 if index == 0 else 0
        assert index == 0
        return self._note("sem", number, command)

    def msgctl(self, number, command, argument):
        if command == 2:
            argument._obj.limit_bytes = self.limits[number]
            return 0
        if command == 1:
            self.limits[number] = argument._obj.limit_bytes
            return 0
        return self._note("msg", number, command)

    def _note(self, kind, number, command):
        assert command == 0, "IPC_RMID"
        self.removed.append((kind, number))
        return self.result


@pytest.fixture
def libc(tmp_path, monkeypatch):
    for name, text in (("shm", SHM), ("sem", SEM), ("msg", MSG)):
        (tmp_path / name).write_text(text)
    for name, text in (("msgmax", "8192\n"), ("msgmnb", "16384\n")):
        (tmp_path / name).write_text(text)
    made = Libc()
    monkeypatch.setattr(ipc, "FOLDER", tmp_path)
    monkeypatch.setattr(ipc, "SYSCTLS", tmp_path)
    monkeypatch.setattr(ipc, "_libc", made)
    monkeypatch.setattr("chrek.ipcns.inside", lambda pid, work: work())
    monkeypatch.setattr("chrek.ipcns.strangers", lambda pid: set())
    return made


def live_with(monkeypatch, strangers, own=(), alive=()):
    monkeypatch.setattr("chrek.ipcns.strangers", lambda pid: set(strangers))
    monkeypatch.setattr("chrek.procfs.in_pid_namespace", lambda pid: list(own))
    monkeypatch.setattr("chrek.procfs.status", lambda pid: User())
    monkeypatch.setattr(ipc, "_alive", lambda pids: set(pids) & set(alive))


class User:
    uids = (1000,) * 4


def put(tmp_path, **texts):
    for kind in ipc.KINDS:
        header = {"shm": SHM, "sem": SEM, "msg": MSG}[kind].splitlines(keepends=True)[0]
        (tmp_path / kind).write_text(header + texts.get(kind, ""))


def test_what_the_kernel_says_of_them(libc):
    assert ipc.objects(1) == [
        ipc.Object("shm", 3, 4711, 1000, frozenset({10, 11})),
        ipc.Object("shm", 4, 0, 1000, frozenset({10}), attached=2),
        ipc.Object("sem", 7, -78, 1000, frozenset({12})),
        ipc.Object("msg", 9, 77, 0, frozenset({10}), used=128),
    ]


def test_alone_every_object_is_the_containers(libc):
    assert ipc.has_own(1)


def test_no_object(libc, tmp_path):
    put(tmp_path)
    assert not ipc.has_own(1)
    assert ipc.clear(1, 1000) == 0


def test_an_object_that_a_stranger_made_is_not(libc, monkeypatch):
    live_with(monkeypatch, {10, 11, 12})
    assert not ipc.has_own(1)


def test_objects_of_both(libc, monkeypatch):
    live_with(monkeypatch, {10, 11}, own={12})
    with pytest.raises(errors.UnsupportedError, match="another container has shm 3") as caught:
        ipc.has_own(1)
    assert caught.value.reason == names.Reason.IPC_SHARED


def test_of_ended_processes_the_owner_decides(libc, tmp_path, monkeypatch):
    live_with(monkeypatch, {99})
    put(tmp_path, shm=SHM.splitlines(keepends=True)[1])
    assert ipc.has_own(1)
    put(tmp_path, msg=MSG.splitlines(keepends=True)[1])
    assert not ipc.has_own(1)


@pytest.mark.parametrize(
    ("name", "text"), [("msgmax", "65536"), ("msgmnb", "100")], ids=["message", "queue"]
)
def test_queues_that_criu_could_not_fill_again(libc, tmp_path, name, text):
    row = MSG.splitlines()[1].replace(" 128", " 9000")
    put(tmp_path, msg=row + "\n")
    assert ipc.has_own(1)
    (tmp_path / name).write_text(text)
    with pytest.raises(errors.UnsupportedError, match="9000 bytes"):
        ipc.has_own(1)


def test_alone_everything_unattached_is_removed(libc):
    assert ipc.clear(1, 1000) == 3
    assert libc.removed == [("shm", 3), ("sem", 7), ("msg", 9)]


def test_beside_another_container_only_what_is_in_the_way(libc, monkeypatch):
    live_with(monkeypatch, {99})
    assert ipc.clear(1, 1000, [ipc.Object("sem", 8, -78)]) == 1
    assert libc.removed == [("sem", 7)]


@pytest.mark.parametrize(
    "coming",
    [
        ipc.Object("sem", 1, -78),
        ipc.Object("sem", 7),
        ipc.Object("sem", 7 + (5 << 15)),
    ],
    ids=["key", "number", "place"],
)
def test_what_a_living_process_used_is_a_conflict(libc, monkeypatch, coming):
    live_with(monkeypatch, {12}, alive={12})
    with pytest.raises(errors.UnsupportedError, match="in the way") as caught:
        ipc.clear(1, 1000, [coming])
    assert caught.value.reason == names.Reason.IPC_CONFLICT
    assert libc.removed == []


@pytest.mark.parametrize(
    "coming",
    [ipc.Object("msg", 2, 77), ipc.Object("shm", 4)],
    ids=["another user's", "attached"],
)
def test_what_may_be_anothers_is_a_conflict(libc, monkeypatch, coming):
    live_with(monkeypatch, {99})
    with pytest.raises(errors.UnsupportedError, match="in the way"):
        ipc.clear(1, 1000, [coming])
    assert libc.removed == []


def test_an_object_of_which_nobody_is_known_is_left_beside_another_container(
    libc, monkeypatch, tmp_path
):
    live_with(monkeypatch, {99})
    put(tmp_path, msg="77 9 600 128 2 0 0 1000 1000 0 0\n")
    with pytest.raises(errors.UnsupportedError, match="in the way"):
        ipc.clear(1, 1000, [ipc.Object("msg", 2, 77)])


def test_two_private_objects_do_not_conflict(libc, tmp_path, monkeypatch):
    live_with(monkeypatch, {10}, alive={10})
    assert ipc.clear(1, 1000, [ipc.Object("shm", 1, 0)]) == 0


def test_what_cannot_be_removed_is_named(libc):
    libc.result = -1
    ctypes.set_errno(1)
    with pytest.raises(errors.UnsupportedError, match="cannot remove shm 3"):
        ipc.clear(1, 1000)


def test_what_criu_leaves_out(libc):
    ipc.mend(1, removed=[4], limits_bytes={9: 4096})
    assert libc.removed == [("shm", 4)]
    assert libc.limits == {9: 4096}
