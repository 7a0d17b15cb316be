from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from typing import Any

import pytest

from chrek import errors, leftovers, names, process
from chrek.standalone import choice, container, place, records, supervisor

RUN = records.Run(
    name="web", command=["x"], cwd="/", environment={}, volumes=[], store="/nonexistent"
)


class Inside:
    """A container that notes what it is told."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.signals: list[int] = []
        self.pid = os.getpid()

    def send(self, *words: str) -> None:
        self.sent.append(" ".join(words))

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def receive(self) -> str:
        return "chrek 1 start"

    def serve(self, reason: str, message: str) -> int:
        self.sent.append(f"serve {reason}: {message}")
        return 5

    def stop(self) -> None:
        self.sent.append("stop")


@pytest.fixture
def one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> supervisor.Supervisor:
    monkeypatch.setattr(place, "look", lambda *_: place.Place(binds=[], memory=[], devices={}))
    monkeypatch.setattr(container, "Container", lambda *_: Inside())
    helper: Any = types.SimpleNamespace(available=lambda: False)
    return supervisor.Supervisor(RUN, tmp_path, helper, lambda _: None)


def test_a_cold_start_says_why(one: supervisor.Supervisor) -> None:
    one._begin(only_warm=False)
    inside: Any = one._container
    (line,) = inside.sent
    assert line.startswith(f"serve {names.Reason.CHECKPOINT_NOT_FOUND}: /nonexistent has no ")


def test_only_warm_or_not_at_all(one: supervisor.Supervisor) -> None:
    with pytest.raises(errors.ArtifactError):
        one._begin(only_warm=True)
    assert one._container is None


@pytest.mark.parametrize("where", ["compare", "restore"])
def test_a_restore_that_fails_has_a_new_container(
    one: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    made: list[Inside] = []
    artifact = types.SimpleNamespace(manifest=types.SimpleNamespace(rootPid=9))
    monkeypatch.setattr(choice, "newest", lambda _: artifact)

    def make(*_: object) -> Inside:
        made.append(Inside())
        return made[-1]

    def refuse(*_: object, **__: object) -> None:
        raise errors.CompatibilityError("no", reason=names.Reason.IMAGE_DIFFERS)

    monkeypatch.setattr(container, "Container", make)
    monkeypatch.setattr(choice, "compare", refuse if where == "compare" else lambda *_: None)
    monkeypatch.setattr(supervisor.restore, "restore", refuse)
    one._begin(only_warm=False)
    assert made[-1].sent == ["serve ImageDiffers: no"]
    if where == "restore":
        assert made[0].sent == ["restoring 3600 9 exit", "stop"]
    assert len(made) == (1 if where == "compare" else 2)


def test_what_is_no_error_of_ours_has_a_reason() -> None:
    assert supervisor._why(ValueError("x")) == ("InternalError", "x")
    assert supervisor._why(ValueError())[1] == "ValueError()"


def conversation(one: supervisor.Supervisor, inside: Any, *lines: str) -> list[bytes]:
    """What a `chrek dump` that says these lines and ends is answered."""
    ours, theirs = socket.socketpair()
    answers: list[bytes] = []

    def ask() -> None:
        with ours, ours.makefile("rb") as read:
            for line in lines:
                ours.sendall(line.encode() + b"\n")
                answers.append(read.readline())

    thread = threading.Thread(target=ask)
    thread.start()
    with theirs:
        one._dump(inside, theirs)
    thread.join()
    return answers


@pytest.fixture
def cleared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(leftovers, "clear", found.append)
    return found


def test_a_dump_that_leaves_it_running(one: supervisor.Supervisor, cleared: list[int]) -> None:
    inside = Inside()
    one._root_pid = os.getpid()
    answers = conversation(one, inside, '{"stop": false}', "resumed", "committed u")
    assert answers[0] == b'{"init_pid": %d, "root_pid": %d}\n' % (os.getpid(), os.getpid())
    assert inside.sent == ["dumping", "resumed", "committed"]
    assert (one._stopped, cleared) == ("", [])


def test_a_dump_that_stops_it(one: supervisor.Supervisor, cleared: list[int]) -> None:
    inside = Inside()
    conversation(one, inside, '{"stop": true}', "committed u", "stopped")
    assert inside.sent == ["dumping"]
    assert (one._stopped, cleared) == ("u", [])


def test_a_dump_that_fails(one: supervisor.Supervisor, cleared: list[int]) -> None:
    inside = Inside()
    one._held = [signal.SIGUSR1]
    conversation(one, inside, '{"stop": true}', "resumed CriuFailed why not")
    assert inside.sent == ["dumping", "resumed CriuFailed why not"]
    assert inside.signals == [signal.SIGUSR1], "what came meanwhile is delivered"
    assert cleared == []


def test_a_dump_that_is_killed(one: supervisor.Supervisor, cleared: list[int]) -> None:
    inside = Inside()
    one._root_pid = os.getpid()
    conversation(one, inside, '{"stop": true}')
    assert inside.sent == ["dumping", "resumed AgentGone chrek dump has ended early"]
    assert cleared == [os.getpid()]


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", "1"])
def test_somebody_else_at_the_socket(one: supervisor.Supervisor, line: str) -> None:
    inside = Inside()
    conversation(one, inside, line)
    assert inside.sent == []


def test_signals_are_passed_on_or_held(one: supervisor.Supervisor) -> None:
    inside: Any = Inside()
    before = signal.getsignal(signal.SIGUSR1)
    with one._signals():
        one._container, one._root_pid = inside, 5
        os.kill(os.getpid(), signal.SIGUSR1)
        assert inside.signals == [signal.SIGUSR1]
        one._dumping = True
        os.kill(os.getpid(), signal.SIGUSR2)
        assert one._held == [signal.SIGUSR2]
        assert inside.signals == [signal.SIGUSR1]
        one._dumping, one._root_pid = False, 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert one._told_to_end == signal.SIGTERM
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_tree_stands_still_while_it_is_cleared() -> None:
    code = "import time\nwhile True:\n    print('x', flush=True)\n    time.sleep(0.001)"
    argv = [
        sys.executable,
        "-c",
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {code!r}])",
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as root:
        assert root.stdout
        root.stdout.readline()
        with supervisor._still(root.pid):
            supervisor._wait_until_untraced(root.pid)
            (child,) = supervisor.procfs.children(root.pid)
            deadline = time.monotonic() + 5
            while supervisor.procfs.status(child).state != "T":
                assert time.monotonic() < deadline
        while supervisor.procfs.status(child).state == "T":
            assert time.monotonic() < deadline
        os.killpg(root.pid, signal.SIGKILL)


def test_without_its_programs_nothing_is_begun(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(process, "LIBEXEC", tmp_path / "libexec")
    with pytest.raises(errors.ToolError, match="chrek-init: not found") as caught:
        supervisor.start(RUN, tmp_path / "state", lambda _: None)
    assert "scripts/build bundle" in (caught.value.hint or "")
    assert not (tmp_path / "state").exists()
