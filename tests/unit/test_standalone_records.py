from __future__ import annotations

import os
import pathlib

import msgspec
import pytest

from chrek import errors
from chrek.standalone import records

RUN = records.Run(
    name="web",
    command=["python3", "server.py"],
    cwd="/srv",
    environment={"MODEL": "a", "TERM": "xterm", "SSH_TTY": "/dev/pts/0", "PATH": "/bin"},
    volumes=[],
    store="/checkpoints",
)


def test_the_identity_is_a_name_of_the_store() -> None:
    assert len(RUN.identity) == 16
    assert int(RUN.identity, 16) >= 0
    assert RUN.identity == msgspec.structs.replace(RUN, environment={}).identity


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"cwd": "/"}, {"volumes": ["/data"]}, {"own_network": True}]
)
def test_what_makes_another_program(change: dict[str, object]) -> None:
    other = msgspec.structs.replace(RUN, **change)
    assert other.identity != RUN.identity
    assert other.variant == RUN.variant


def test_the_command_is_the_variant() -> None:
    other = msgspec.structs.replace(RUN, command=["python3", "-u", "server.py"])
    assert other.identity == RUN.identity
    assert other.variant != RUN.variant


def test_variables_of_a_session_are_not_compared() -> None:
    assert set(RUN.compared) == {"MODEL", "PATH"}
    other = msgspec.structs.replace(RUN, environment={**RUN.environment, "MODEL": "b"})
    assert other.compared["PATH"] == RUN.compared["PATH"]
    assert other.compared["MODEL"] != RUN.compared["MODEL"]
    assert RUN.compared["MODEL"] != "a"


@pytest.mark.parametrize(
    ("command", "begin"),
    [("/usr/bin/Python3.13", "python3-13-"), ("./a b", "a-b-"), ("/", ""), ("x" * 99, "x" * 40)],
)
def test_the_default_name(command: str, begin: str) -> None:
    name = records.default_name([command, "x"], "/srv")
    assert name.startswith(begin)
    assert records.check_name(name) == name
    assert name == records.default_name([command, "x"], "/srv")
    assert name != records.default_name([command, "y"], "/srv")
    assert name != records.default_name([command, "x"], "/")


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a" * 64, "a\n"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(errors.InputError, match="is no name"):
        records.check_name(name)


def test_a_record_comes_back_and_is_private(tmp_path: pathlib.Path) -> None:
    with records.taken(tmp_path, "web") as folder:
        records.save(folder, RUN)
    assert records.load(tmp_path, "web") == RUN
    assert (folder / records.RECORD).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_record_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InputError, match="no program was started as web") as caught:
        records.load(tmp_path, "web")
    assert caught.value.hint == "start one with chrek run"
    with records.taken(tmp_path, "other") as folder:
        records.save(folder, RUN)
    with pytest.raises(errors.InputError) as caught:
        records.load(tmp_path, "web")
    assert caught.value.hint == "known are other"
    (folder / records.RECORD).write_text("{}")
    with pytest.raises(errors.InputError, match=r"run\.json"):
        records.load(tmp_path, "other")


def test_a_name_is_taken_once(tmp_path: pathlib.Path) -> None:
    with records.taken(tmp_path, "web"):
        with (
            pytest.raises(errors.InputError, match="web runs already"),
            records.taken(tmp_path, "web"),
        ):
            pass
        with records.taken(tmp_path, "other"):
            pass
    with records.taken(tmp_path, "web"):
        pass


def test_a_store_that_others_can_write(tmp_path: pathlib.Path) -> None:
    records.check_store(tmp_path / "missing")
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(errors.InputError, match="can be written by others"):
        records.check_store(folder)
    folder.chmod(0o700)
    if os.geteuid() == 0:
        records.check_store(folder)
        os.chown(folder, 1000, 0)
    else:
        folder.chmod(0o700)
    with pytest.raises(errors.InputError, match="can be written by others"):
        records.check_store(folder)


def test_somebody_who_is_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.UnsupportedError, match="not root") as caught:
        records.check_root()
    assert caught.value.hint == "use sudo"
