from __future__ import annotations

import os
import pathlib

import msgspec
import pytest

from chrek import process
from chrek.standalone import kernel, place, starter

WANTED = starter.Wanted(
    directory="/x",
    place=place.Place(
        binds=[place.Bind(path="/a", read_only=True)], memory=["/tmp"], devices={"null": "/n"}
    ),
    own=["network"],
    cwd="/",
    argv=["a"],
    environment={"A": "secret ä"},
    stdio=[3, 4, 5],
)


def test_the_command_line_tells_nothing_of_the_container() -> None:
    with starter.command(WANTED) as (argv, memory):
        assert argv[-2:] == ["chrek.standalone.starter", str(memory)]
        assert not any("secret" in word for word in argv)
        assert not os.get_inheritable(memory)
        os.lseek(memory, 0, os.SEEK_SET)
        assert msgspec.json.decode(os.read(memory, 4096), type=starter.Wanted) == WANTED
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory)


def test_what_cannot_be_bound_is_said_or_refused(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(kernel, "mount", refuse)
    starter._bind(place.Bind(path="/etc", read_only=True), tmp_path / "a")
    assert "/etc is not in the container: Operation not permitted" in capfd.readouterr().err
    with pytest.raises(OSError, match="not permitted"):
        starter._bind(place.Bind(path="/etc/passwd", read_only=False), tmp_path / "b/c")
    assert (tmp_path / "b/c").is_file()
    starter._bind(place.Bind(path="/etc", read_only=False, optional=True), tmp_path / "d")
    assert "/etc is not in the container" in capfd.readouterr().err


def test_options_of_a_mount_are_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    monkeypatch.setattr(kernel, "mount", lambda *_, **more: flags.append(more["flags"]))
    starter._bind(
        place.Bind(path="/etc", read_only=True, options=["nosuid", "noexec"]), tmp_path / "a"
    )
    assert flags == [kernel.BIND, kernel.BIND | kernel.REMOUNT | kernel.READ_ONLY | 0x2 | 0x8]


def test_another_program() -> None:
    child = os.fork()
    if child == 0:
        process.become(["/bin/sh", "-c", "exit $CODE"], {"CODE": "7"})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with pytest.raises(FileNotFoundError) as caught:
        process.become(["/nonexistent"], {})
    assert caught.value.filename == "/nonexistent"
