"""Source mode: PID 1 of a checkpoint job, and its messages with the agent."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shlex
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from c import container
from c.container import Agent, Connection, Container

LISTENER = [*container.PYTHON, container.LISTENER]
HELLO = "chrek 1 source"


def start(
    init: pathlib.Path, directory: pathlib.Path, command: Sequence[str], *, wait: int = 5
) -> Container:
    socket_path = directory / "agent.sock"
    options = ["--source", "--wait", str(wait), "--socket", str(socket_path)]
    return Container([init, *options, "--", *command])


@contextlib.contextmanager
def captured(
    init: pathlib.Path, directory: pathlib.Path, command: Sequence[str] = LISTENER, *, wait: int = 5
) -> Iterator[tuple[Agent, Container, Connection, int]]:
    """A job whose tree runs, and the tree's PID in the container."""
    with Agent(directory) as agent, start(init, directory, command, wait=wait) as running:
        connection = agent.accept(HELLO)
        connection.send("capture")
        verb, _, pid = connection.read().strip().partition(" ")
        assert verb == "started"
        if command is LISTENER:
            assert running.stdout.readline() == "ready\n"
        yield agent, running, connection, int(pid)


def assert_ended(running: Container, code: int, message: str) -> None:
    found, _, err = running.end()
    assert err.startswith(f"chrek: {message}")
    assert err.count("\n") == 1
    assert found == code


def synchronize(connection: Connection) -> None:
    """Everything sent before this has been read."""
    connection.send("nonce 00")
    assert connection.read() == "nonce 00\n"


def test_tree(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path) as (_, running, _, pid):
        tree = running.pids()[pid]
        assert container.children(running.pid) == [tree]
        arguments = pathlib.Path(f"/proc/{tree}/cmdline").read_text().split("\0")
        assert arguments[:3] == [str(init), "--tree", "--mask"]
        assert arguments[4:-1] == ["--", *LISTENER]
        assert os.getsid(tree) == tree
        # The worker leads its own session, as PID 1 of a container does.
        (worker,) = container.children(tree)
        assert os.getsid(worker) == worker


def test_complete_checkpoint(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path) as (_, running, connection, pid):
        connection.send("dumping")
        connection.send("committed")
        # Most likely before chrek-init has read a word.
        os.kill(running.pids()[pid], signal.SIGKILL)
        assert_ended(running, 0, "Checkpoint complete\n")


def test_agent_leaves_after_commit(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path) as (_, running, connection, pid):
        connection.send("dumping")
        connection.send("committed")
        connection.send(b"what" * 1000)
        connection.close()
        time.sleep(0.2)
        assert running.process.poll() is None
        os.kill(running.pids()[pid], signal.SIGKILL)
        assert_ended(running, 0, "Checkpoint complete\n")


def test_worker_that_ends_itself_after_commit(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path) as (_, running, connection, _):
        connection.send("dumping")
        connection.send("committed")
        synchronize(connection)
        running.kill(signal.SIGTERM)
        assert_ended(running, 0, "Checkpoint complete\n")


@pytest.mark.parametrize("dumping", [False, True])
@pytest.mark.parametrize(
    ("script", "code", "end"),
    [("exit 0", 0, 75), ("exit 1", 1, 1), ("exit 42", 42, 42)]
    + [(f"kill -{number} $$", 128 + number, 128 + number) for number in (9, 15)],
)
def test_worker_ends_by_itself(
    init: pathlib.Path, tmp_path: pathlib.Path, script: str, code: int, end: int, dumping: bool
) -> None:
    command = ["sh", "-c", f"read line <{tmp_path}/gate; {script}"]
    os.mkfifo(tmp_path / "gate")
    with captured(init, tmp_path, command) as (_, running, connection, _):
        if dumping:
            connection.send("dumping")
            synchronize(connection)
        (tmp_path / "gate").write_text("\n")
        assert_ended(
            running,
            end,
            f"Checkpoint interrupted: WorkerExited: the worker ended with code {code} before",
        )


def test_tree_that_cannot_run_its_command(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path, ["/no/such"]) as (_, running, _, _):
        code, _, err = running.end()
        assert code == 127
        assert err.splitlines()[0] == 'chrek: Cannot run "/no/such": No such file or directory'


@pytest.mark.parametrize("verb", ["cold", "failed"])
@pytest.mark.parametrize("running_tree", [False, True])
def test_refused(init: pathlib.Path, tmp_path: pathlib.Path, verb: str, running_tree: bool) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path, LISTENER) as running:
        connection = agent.accept(HELLO)
        if running_tree:
            connection.send("capture")
            connection.read()
        connection.send(f"{verb} TtyUsed pods with a tty are not managed")
        assert_ended(running, 75, "Checkpoint refused: TtyUsed: pods with a tty are not managed\n")


def test_resumed(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Signals wait until the dump is over: none becomes part of an artifact."""
    held = (signal.SIGUSR1, signal.SIGWINCH, container.REAL_TIME)
    with captured(init, tmp_path) as (agent, running, connection, pid):
        for _ in range(2):
            connection.send("dumping")
            synchronize(connection)
            for number in held:
                running.kill(number)
            synchronize(connection)
            ready, _, _ = select.select([running.stdout], [], [], 0.1)
            assert not ready, "a signal reached the worker"
            connection.send("resumed CriuFailed it said -22")
            message = "chrek: Checkpoint failed: CriuFailed: it said -22; the worker runs on\n"
            assert running.stderr.readline() == message
            for number in held:
                assert running.stdout.readline() == f"got {int(number)}\n"
        # Back in the state before: the agent may go and come.
        connection.close()
        assert agent.accept(HELLO).read() == f"started {pid}\n"


def test_agent_dies_while_dumping(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path) as (_, running, connection, pid):
        tree = running.pids()[pid]
        connection.send("dumping")
        connection.close()
        assert_ended(running, 75, "Checkpoint interrupted: AgentGone: ")
        assert not pathlib.Path(f"/proc/{tree}").exists()


def test_agent_comes_back_before_the_tree(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with start(init, tmp_path, LISTENER, wait=60) as running:
        with Agent(tmp_path) as agent:
            agent.accept(HELLO).close()
            agent.leave()
        with Agent(tmp_path) as agent:
            connection = agent.accept(HELLO)
            connection.send("capture")
            assert connection.read() == "started 2\n"
            running.kill(signal.SIGKILL)


def test_agent_comes_back_to_the_tree(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path, wait=60) as (agent, running, connection, pid):
        connection.close()
        agent.leave()
        running.kill(signal.SIGUSR1)
        assert running.stdout.readline() == f"got {int(signal.SIGUSR1)}\n"
        with Agent(tmp_path) as again:
            connection = again.accept(HELLO)
            assert connection.read() == f"started {pid}\n"
            connection.send("capture")
            synchronize(connection)
            assert len(container.children(running.pid)) == 1
            connection.send("dumping")
            connection.send("committed")
            synchronize(connection)
            os.kill(running.pids()[pid], signal.SIGKILL)
            assert_ended(running, 0, "Checkpoint complete\n")


def test_worker_ends_while_there_is_no_agent(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path, wait=60) as (agent, running, connection, _):
        connection.close()
        agent.leave()
        running.kill(signal.SIGTERM)
        assert_ended(running, 42, "Checkpoint interrupted: WorkerExited: ")


def test_no_agent_in_time(release: pathlib.Path, superuser: None, tmp_path: pathlib.Path) -> None:
    """Never was one, left before the tree, left the tree."""
    init = release / "chrek-init"
    nowhere = tmp_path / "nowhere"
    early = tmp_path / "early"
    early.mkdir()
    with (
        start(init, nowhere, LISTENER, wait=1) as never,
        Agent(early) as agent,
        start(init, early, LISTENER, wait=1) as before,
        captured(init, tmp_path, wait=1) as (late_agent, after, connection, _),
    ):
        agent.accept(HELLO).close()
        agent.leave()
        connection.close()
        late_agent.leave()
        message = "no agent answers at the socket: No such file or directory\n"
        assert_ended(never, 75, f"Checkpoint refused: AgentUnavailable: {message}")
        assert_ended(before, 75, f"Checkpoint refused: AgentUnavailable: {message}")
        assert_ended(after, 75, f"Checkpoint interrupted: AgentGone: {message}")


@pytest.mark.parametrize(
    "speech",
    [
        b"\n",
        b"\x00\xff\n",
        b"capture now\n",
        b"dumping\n",
        b"committed\n",
        b"resumed R m\n",
        b"restoring 5 10000 exit\n",
        b"restored\n",
        b"x" * 1025,
        b"nonce x\n",
    ],
)
def test_garbage_before_the_tree(init: pathlib.Path, tmp_path: pathlib.Path, speech: bytes) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path, LISTENER) as running:
        agent.accept(HELLO).send(speech)
        assert_ended(running, 75, "Checkpoint refused: AgentProtocol: ")


@pytest.mark.parametrize("dumping", [False, True])
@pytest.mark.parametrize("speech", [b"\n", b"\x00\xff\n", b"started 5\n", b"x" * 1025])
def test_garbage_with_a_tree(
    init: pathlib.Path, tmp_path: pathlib.Path, speech: bytes, dumping: bool
) -> None:
    with captured(init, tmp_path, ["sleep", "60"]) as (_, running, connection, _):
        connection.send((b"dumping\n" if dumping else b"") + speech)
        assert_ended(running, 75, "Checkpoint interrupted: AgentProtocol: ")


@pytest.mark.parametrize("verb", ["committed", "resumed R m"])
def test_commit_without_a_dump(init: pathlib.Path, tmp_path: pathlib.Path, verb: str) -> None:
    with captured(init, tmp_path, ["sleep", "60"]) as (_, running, connection, _):
        connection.send(verb)
        assert_ended(running, 75, "Checkpoint interrupted: AgentProtocol: ")


def test_signals(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with captured(init, tmp_path) as (_, running, _, _):
        for number in container.FORWARDED:
            running.kill(number)
            assert running.stdout.readline() == f"got {int(number)}\n"
        running.kill(signal.SIGTERM)
        assert_ended(running, 42, "Checkpoint interrupted: WorkerExited")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_while_waiting(
    init: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path, LISTENER) as running:
        agent.accept(HELLO)
        running.kill(number)
        assert running.end() == (128 + number, "", "")


def test_orphans_stay_in_the_tree(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    script = "for i in 1 2 3; do (setsid sleep 0.05 &) ; done; (setsid sleep 61 &); exec sleep 60"
    with captured(init, tmp_path, ["sh", "-c", script]) as (_, running, _, pid):
        # PID 1, the tree, the worker, and the daemon that is still alive.
        container.eventually(lambda: len(running.pids()) == 4, "the others are reaped")
        tree = running.pids()[pid]
        assert container.children(running.pid) == [tree]
        container.eventually(lambda: len(container.children(tree)) == 2, "the daemon moved up")


def test_descriptors_of_the_tree(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Nothing but stdio, and no socket to the agent: CRIU has to dump it all."""

    def only_stdio(process: int) -> bool:
        return sorted(os.listdir(f"/proc/{process}/fd")) == ["0", "1", "2"]

    with captured(init, tmp_path, ["sleep", "60"]) as (_, running, _, _):
        container.eventually(lambda: len(running.pids()) == 3, "the worker is started")
        tree, worker = sorted(running.pids().values())[1:]
        container.eventually(lambda: only_stdio(tree) and only_stdio(worker), "only stdio is open")


def odd_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD, signal.SIGRTMIN})
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def test_worker_inherits_mask_and_dispositions(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # Not through a shell, which clears the mask.
    command = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
    with Container(command, before=odd_signals) as plain:
        wanted = [plain.stdout.readline() for _ in range(2)]
    assert wanted[0] != "SigBlk:\t0000000000000000\n"
    flags = ["--source", "--wait", "5", "--socket", str(tmp_path / "agent.sock")]
    with (
        Agent(tmp_path) as agent,
        Container([str(init), *flags, "--", *command], before=odd_signals) as running,
    ):
        agent.accept(HELLO).send("capture")
        assert [running.stdout.readline() for _ in range(2)] == wanted


def test_command_with_odd_arguments(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = ["sh", "-c", 'printf "%s|" "$@"; sleep 60', "--", "--tree", "", "a b", "\n", "--"]
    with captured(init, tmp_path, command) as (_, running, _, _):
        wanted = "--tree||a b|\n|--|"
        assert running.stdout.read(len(wanted)) == wanted, shlex.join(command)
