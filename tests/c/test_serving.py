"""Worker mode, state serving: a worker that is captured while it serves, and outlives its agent."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from c import container
from c.container import Agent, Connection, Container

LISTENER = [*container.PYTHON, container.LISTENER]
HELLO = "chrek 1 serving"
WHY = "chrek: Falling back to cold start: CheckpointNotReady: it is being made\n"


def start(init: pathlib.Path, directory: pathlib.Path, command: Sequence[str]) -> Container:
    options = ["--wait", "5", "--socket", str(directory / "agent.sock")]
    return Container([init, *options, "--", *command])


@contextlib.contextmanager
def serving(
    init: pathlib.Path, directory: pathlib.Path, command: Sequence[str] = LISTENER
) -> Iterator[tuple[Agent, Container, Connection, int]]:
    """A worker that serves, and the tree's PID in the container."""
    with Agent(directory) as agent, start(init, directory, command) as running:
        connection = agent.accept()
        connection.send("serve CheckpointNotReady it is being made")
        verb, _, pid = connection.read().strip().partition(" ")
        assert verb == "started"
        assert running.stderr.readline() == WHY
        if command is LISTENER:
            assert running.stdout.readline() == "ready\n"
        yield agent, running, connection, int(pid)


def synchronize(connection: Connection) -> None:
    """Everything sent before this has been read."""
    connection.send("nonce 00")
    assert connection.read() == "nonce 00\n"


def assert_serves(running: Container) -> None:
    running.kill(signal.SIGUSR2)
    assert running.stdout.readline() == f"got {int(signal.SIGUSR2)}\n"


def test_tree(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The same one as a checkpoint job's: a session leader, a subreaper, without io_uring."""
    with serving(init, tmp_path) as (_, running, _, pid):
        tree = running.pids()[pid]
        assert container.children(running.pid) == [tree]
        assert os.getsid(tree) == tree
        (worker,) = container.children(tree)
        assert os.getsid(worker) == worker
        assert container.status(worker, "Seccomp") == "2"
        assert container.status(running.pid, "Seccomp") == container.status(os.getpid(), "Seccomp")


@pytest.mark.parametrize("dumping", [False, True])
@pytest.mark.parametrize("code", [0, 1, 42, 75])
def test_exit_code(init: pathlib.Path, tmp_path: pathlib.Path, code: int, dumping: bool) -> None:
    os.mkfifo(tmp_path / "gate")
    command = ["sh", "-c", f"read line <{tmp_path}/gate; exit {code}"]
    with serving(init, tmp_path, command) as (_, running, connection, _):
        if dumping:
            connection.send("dumping")
            synchronize(connection)
        (tmp_path / "gate").write_text("\n")
        assert running.end() == (code, "", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_worker_ended_by_a_signal(
    init: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    command = ["sh", "-c", f"ulimit -c 0; kill -{int(number)} $$"]
    with serving(init, tmp_path, command) as (_, running, _, _):
        assert running.end() == (128 + number, "", "")


def test_command_that_is_not_there(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with serving(init, tmp_path, ["/no/such"]) as (_, running, _, _):
        code, _, err = running.end()
        assert (code, err) == (127, 'chrek: Cannot run "/no/such": No such file or directory\n')


def test_signals(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with serving(init, tmp_path) as (_, running, _, _):
        for number in container.FORWARDED:
            running.kill(number)
            assert running.stdout.readline() == f"got {int(number)}\n"
        running.kill(signal.SIGTERM)
        assert running.end()[0] == 42


def test_signal_that_comes_with_the_answer(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """It ends the container, before there is a worker or with it."""
    with Agent(tmp_path) as agent, start(init, tmp_path, LISTENER) as running:
        connection = agent.accept()
        connection.send("serve NotReady soon")
        running.kill(signal.SIGTERM)
        assert running.end()[0] in (42, 128 + signal.SIGTERM)


@pytest.mark.parametrize("complete", [True, False])
def test_capture(init: pathlib.Path, tmp_path: pathlib.Path, complete: bool) -> None:
    """Signals wait while the tree is frozen; the worker serves on, and is captured again."""
    held = (signal.SIGUSR1, signal.SIGWINCH, container.REAL_TIME)
    with serving(init, tmp_path) as (_, running, connection, _):
        for _ in range(2):
            connection.send("dumping")
            synchronize(connection)
            for number in held:
                running.kill(number)
            synchronize(connection)
            ready, _, _ = select.select([running.stdout], [], [], 0.1)
            assert not ready, "a signal reached the worker"
            connection.send("resumed" if complete else "resumed CriuFailed it said -22")
            for number in held:
                assert running.stdout.readline() == f"got {int(number)}\n"
            if complete:
                connection.send("committed")
                message = "chrek: Checkpoint complete; the worker serves on\n"
            else:
                message = "chrek: Checkpoint failed: CriuFailed: it said -22; the worker runs on\n"
            assert running.stderr.readline() == message
            assert_serves(running)


def test_commit_before_the_tree_runs_again(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with serving(init, tmp_path) as (_, running, connection, _):
        connection.send("dumping")
        connection.send("committed")
        synchronize(connection)
        running.kill(signal.SIGUSR1)
        connection.send("resumed")
        assert running.stdout.readline() == f"got {int(signal.SIGUSR1)}\n"
        running.kill(signal.SIGTERM)
        code, _, err = running.end()
        assert (code, err) == (42, "chrek: Checkpoint complete; the worker serves on\n")


@pytest.mark.parametrize("before", [b"", b"dumping\n", b"dumping\ncommitted\n"])
def test_agent_is_replaced(init: pathlib.Path, tmp_path: pathlib.Path, before: bytes) -> None:
    """Also while dumping: its CRIU is gone with it. Signals that were held are delivered."""
    with serving(init, tmp_path) as (agent, running, connection, pid):
        connection.send(before or b"\n")
        synchronize(connection)
        agent.leave()
        running.kill(signal.SIGUSR1)
        connection.close()
        assert running.stdout.readline() == f"got {int(signal.SIGUSR1)}\n"
        with Agent(tmp_path) as again:
            other = again.accept(HELLO)
            assert other.read() == f"started {pid}\n"
            other.send("dumping")
            other.send("resumed")
            synchronize(other)
            assert_serves(running)
            # And once more, with the socket still there.
            other.close()
            assert again.accept(HELLO).read() == f"started {pid}\n"
        running.kill(signal.SIGTERM)
        assert running.end()[0] == 42


def test_agent_that_stays_away(
    release: pathlib.Path, superuser: None, tmp_path: pathlib.Path
) -> None:
    """The worker serves on, longer than --wait, and PID 1 sleeps most of the time."""
    with serving(release / "chrek-init", tmp_path) as (agent, running, connection, pid):
        connection.close()
        agent.leave()
        time.sleep(6)
        assert_serves(running)
        stat = pathlib.Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
        assert int(stat[11]) + int(stat[12]) <= 5, "hundredths of a second"
        began = time.monotonic()
        with Agent(tmp_path) as again:
            assert again.accept(HELLO).read() == f"started {pid}\n"
            assert time.monotonic() - began < 1
        running.kill(signal.SIGTERM)
        assert running.end()[0] == 42


def test_worker_ends_while_there_is_no_agent(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with serving(init, tmp_path) as (agent, running, connection, _):
        agent.leave()
        connection.close()
        running.kill(signal.SIGTERM)
        assert running.end()[0] == 42


@pytest.mark.parametrize("dumping", [False, True])
@pytest.mark.parametrize(
    "speech",
    [
        b"\n",
        b"\x00\xff\n",
        b"capture\n",
        b"cold NotReady soon\n",
        b"failed CriuFailed it said -22\n",
        b"serve NotReady soon\n",
        b"restoring 5 10000 exit\n",
        b"restored\n",
        b"committed now\n",
        b"dumping now\n",
    ],
)
def test_nothing_that_is_said_ends_it(
    init: pathlib.Path, tmp_path: pathlib.Path, speech: bytes, dumping: bool
) -> None:
    with serving(init, tmp_path) as (_, running, connection, pid):
        connection.send((b"dumping\n" if dumping else b"") + speech + b"resumed\n")
        synchronize(connection)
        assert_serves(running)
        assert container.children(running.pid) == [running.pids()[pid]]
        running.kill(signal.SIGTERM)
        assert running.end() == (42, f"got {int(signal.SIGTERM)}\n", "")


def test_line_without_an_end(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """That agent is left, and the next one is called."""
    with serving(init, tmp_path) as (agent, running, connection, pid):
        connection.send(b"x" * 1025)
        assert agent.accept(HELLO).read() == f"started {pid}\n"
        assert_serves(running)


def test_serve_without_a_reason(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path, ["true"]) as running:
        connection = agent.accept()
        connection.send("serve")
        assert connection.read().startswith("started ")
        code, _, err = running.end()
        assert code == 0
        assert err.startswith("chrek: Falling back to cold start: AgentProtocol: ")


def test_serve_while_restoring(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Too late: the container is no longer as it was."""
    with Agent(tmp_path) as agent, start(init, tmp_path, LISTENER) as running:
        connection = agent.accept()
        connection.send("restoring 5 10000 exit")
        connection.send("serve NotReady soon")
        code, _, err = running.end()
        assert code == 75
        assert err.startswith("chrek: Falling back to cold start: AgentProtocol: ")


def test_no_process_to_be_had(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Without a tree the command runs in place, as any cold one."""
    command = ["sh", "-c", "echo pid $$; exit 42"]
    # A seccomp filter of the container may do that; here fork alone fails.
    forbid = [*container.PYTHON, FORBID_FORK, str(init)]
    options = ["--wait", "5", "--socket", str(tmp_path / "agent.sock")]
    with Agent(tmp_path) as agent, Container([*forbid, *options, "--", *command]) as running:
        connection = agent.accept()
        connection.send("serve NotReady soon")
        assert connection.is_closed()
        code, out, err = running.end()
        assert (code, out) == (42, "pid 1\n")
        assert err == "chrek: Falling back to cold start: NotReady: soon\n"


FORBID_FORK = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
forks = {"x86_64": (56, 57, 58, 435), "aarch64": (220, 435)}[os.uname().machine]
lines = [(0x20, 0, 0, 0)]
lines += [(0x15, len(forks) - 1 - i, int(i == len(forks) - 1), n) for i, n in enumerate(forks)]
lines[-1] = (0x15, 0, 1, forks[-1])
lines += [(6, 0, 0, 0x0005000B), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
assert libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Executes its arguments with a seccomp filter under which fork and clone give EAGAIN."""
