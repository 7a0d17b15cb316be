from __future__ import annotations

import os
import pathlib
import socket
import time

import pytest

from chrek import errors, process
from chrek.standalone import container


def test_a_socket_in_a_folder_with_a_long_path(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with container.listening(folder, "control.sock") as listener:
        with container.connected(folder, "control.sock") as ours:
            theirs, _ = listener.accept()
            ours.sendall(b"x")
            assert theirs.recv(1) == b"x"
            theirs.close()
        assert (folder / "control.sock").stat().st_mode & 0o777 == 0o600
    assert not list(folder.iterdir())
    with pytest.raises(FileNotFoundError):
        container.connected(folder, "control.sock")


def test_a_socket_that_was_left_is_made_again(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").touch()
    with container.listening(tmp_path, "a"), container.connected(tmp_path, "a"):
        pass


def test_streams(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    before = os.dup(0)
    os.dup2(null, 0)
    try:
        streams = container.Streams()
        inside = [os.dup(fd) for fd in streams.inside]
        streams.started()
        assert os.read(inside[0], 10) == b"", "standard input is at its end"
        os.write(inside[1], b"out\n")
        os.write(inside[2], b"err\n")
        for fd in inside:
            os.close(fd)
        streams.drain()
        streams.close()
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(null)
    assert capfd.readouterr() == ("out\n", "err\n")


def test_streams_of_a_container_that_was_not_made() -> None:
    before = len(os.listdir("/proc/self/fd"))
    streams = container.Streams()
    assert len(os.listdir("/proc/self/fd")) == before + 6
    streams.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nobody_reads_any_more() -> None:
    """As a shell would have it: whoever writes into a closed pipe is told."""
    source, inside = os.pipe()
    reader, target = os.pipe()
    os.close(reader)
    os.write(inside, b"x")
    container._pump(source, target)
    os.close(min(source, target))
    with pytest.raises(BrokenPipeError):
        os.write(inside, b"x")
    os.close(inside)


def test_folders_are_renewed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LIBEXEC", tmp_path / "libexec")
    with pytest.raises(errors.ToolError, match=r"chrek-init: not found"):
        container._renew(tmp_path)
    (tmp_path / "libexec").mkdir()
    (tmp_path / "libexec/chrek-init").write_text("program")
    (tmp_path / "upper/old").mkdir()
    container._renew(tmp_path)
    assert not list((tmp_path / "upper").iterdir())
    assert (tmp_path / "chrek/chrek-init").read_text() == "program"


def made() -> tuple[container.Container, socket.socket]:
    """One that was never started, and the end of its chrek-init."""
    ours, theirs = socket.socketpair()
    found = container.Container.__new__(container.Container)
    found.agent, found._buffer, found.pid = ours, b"", os.getpid()
    return found, theirs


def test_lines_of_the_protocol() -> None:
    found, init = made()
    init.sendall(b"chrek 1 start\nstart")
    assert found.receive() == "chrek 1 start"
    init.sendall(b"ed 5\n")
    assert found.receive() == "started 5"
    found.send("serve", "Reason", "a\nmessage ä" + "x" * 2000)
    line = init.recv(4096)
    assert line.startswith(b"serve Reason a message  xxx")
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert len(line) <= 1024
    init.close()
    assert found.receive() == ""
    found.send("anything")
    found.agent.close()


def test_a_child_that_is_not_there() -> None:
    found, init = made()
    begin = time.monotonic()
    with pytest.raises(errors.PeerError, match="has ended"):
        found.child(1 << 22)
    assert time.monotonic() - begin < 1
    found.agent.close()
    init.close()
