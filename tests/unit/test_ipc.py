"""Which System V objects are counted, and which are removed."""

import pytest

from chrek import errors, ipc

SHM = """       key      shmid perms       size  cpid  lpid nattch   uid   gid  cuid  cgid
      4711          3   600      65536    10    10      0  1000  1000  1000  1000
         0          4   600      65536    10    10      2  1000  1000  1000  1000
      4712          5   600      65536    10    10      0     0     0     0     0
"""
SEM = """       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime
        78          7   600          3  1000  1000  1000  1000          0 1764055000
"""
MSG = """       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid
"""


class Libc:
    """Notes what is removed."""

    def __init__(self, result=0):
        self.removed, self.result = [], result

    def shmctl(self, number, command, argument):
        return self._note("shm", number, command)

    def semctl(self, number, index, command):
        return self._note("sem", number, command)

    def msgctl(self, number, command, argument):
        return self._note("msg", number, command)

    def _note(self, kind, number, command):
        assert command == 0, "IPC_RMID"
        self.removed.append((kind, number))
        return self.result


@pytest.fixture
def libc(tmp_path, monkeypatch):
    for name, text in (("shm", SHM), ("sem", SEM), ("msg", MSG)):
        (tmp_path / name).write_text(text)
    made = Libc()
    monkeypatch.setattr(ipc, "FOLDER", tmp_path)
    monkeypatch.setattr(ipc, "_inside", lambda pid, work: work())
    monkeypatch.setattr(ipc, "_libc", made)
    return made


def test_all_are_counted(libc):
    assert ipc.count(1) == 4


def test_what_the_user_left_and_nobody_has_attached_is_removed(libc):
    assert ipc.clear(1, 1000) == 2
    assert libc.removed == [("shm", 3), ("sem", 7)]


def test_what_cannot_be_removed_is_named(libc):
    libc.result = -1
    with pytest.raises(errors.UnsupportedError, match="shm object 3"):
        ipc.clear(1, 1000)
