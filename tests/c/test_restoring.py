"""Worker mode after the agent said "restoring": a restored worker, or a failed restore."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from c import container
from c.container import Agent, Connection, Container

ROOT = 10000
"""The PID that the restored tree's root has in the container."""

LISTENER = shlex.join([*container.PYTHON, container.LISTENER])


@contextlib.contextmanager
def restoring(
    init: pathlib.Path, directory: pathlib.Path, *, mode: str = "exit", deadline: int = 20
) -> Iterator[tuple[Container, Connection]]:
    """A container whose agent has just said that it restores."""
    command = ["sh", "-c", "echo cold pid $$ /proc/[1-9]*; exit 42"]
    with (
        Agent(directory) as agent,
        Container([init, "--wait", "5", "--socket", str(agent.path), "--", *command]) as running,
    ):
        connection = agent.accept()
        connection.send(f"restoring {deadline} {ROOT} {mode}")
        yield running, connection


def assert_failed(running: Container, reason: str, message: str = "") -> None:
    code, out, err = running.end()
    assert (code, out) == (75, "")
    assert err.startswith(f"chrek: Falling back to cold start: {reason}: {message}")
    assert err.count("\n") == 1


def test_restored_worker_gets_signals_and_keeps_its_code(
    init: pathlib.Path, enter: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with (
        restoring(init, tmp_path) as (running, connection),
        container.restored_process(enter, running, LISTENER) as helper,
    ):
        assert helper.stdout
        assert helper.stdout.readline() == "ready\n"
        container.helper_exits(helper)
        connection.send("progress criu")
        connection.send("restored")
        assert connection.is_closed()
        root = running.pids()[ROOT]
        assert container.status(root, "PPid") == str(running.pid)
        for number in container.FORWARDED:
            running.kill(number)
            assert helper.stdout.readline() == f"got {int(number)}\n"
        running.kill(signal.SIGTERM)
        assert running.end() == (42, "", "")


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 1", 1), ("exit 255", 255)]
    + [(f"kill -{number} $$", 128 + number) for number in (9, 11, 15)],
)
@pytest.mark.parametrize("early", [False, True])
def test_end_of_a_restored_worker(
    init: pathlib.Path,
    enter: pathlib.Path,
    tmp_path: pathlib.Path,
    script: str,
    code: int,
    early: bool,
) -> None:
    """Also when the worker ends before the agent has said that it is restored."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = shlex.join(["sh", "-c", f"read line <{gate}; {script}"])
    with (
        restoring(init, tmp_path) as (running, connection),
        container.restored_process(enter, running, command) as helper,
    ):
        container.helper_exits(helper)
        if early:
            gate.write_text("\n")
            container.eventually(lambda: ROOT not in running.pids(), "the root is reaped")
            assert running.process.poll() is None
        connection.send("restored")
        if not early:
            assert connection.is_closed()
            gate.write_text("\n")
        assert running.end() == (code, "", "")


def test_restored_before_criu_exits(
    init: pathlib.Path, enter: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with (
        restoring(init, tmp_path) as (running, connection),
        container.restored_process(enter, running, LISTENER) as helper,
    ):
        assert helper.stdout
        assert helper.stdout.readline() == "ready\n"
        connection.send("restored")
        assert connection.is_closed()
        running.kill(signal.SIGUSR1)
        assert helper.stdout.readline() == f"got {int(signal.SIGUSR1)}\n"
        container.helper_exits(helper)
        running.kill(signal.SIGTERM)
        assert running.end() == (42, "", "")


def test_root_that_criu_has_reaped(
    init: pathlib.Path, enter: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Its parent took the exit code along: the restore is a failure, not an endless wait."""
    with (
        restoring(init, tmp_path) as (running, connection),
        container.restored_process(enter, running, "sleep 60", reap=True),
    ):
        connection.send("restored")
        assert connection.is_closed()
        os.kill(running.pids()[ROOT], signal.SIGKILL)
        assert_failed(running, "AgentProtocol")


def test_restored_without_a_root(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with restoring(init, tmp_path) as (running, connection):
        connection.send("restored")
        assert_failed(running, "AgentProtocol")


def test_daemons_of_a_restored_worker_are_reaped(
    init: pathlib.Path, enter: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemons = "for i in 1 2 3 4 5; do (setsid sleep 0.05 &) ; done; exec sleep 60"
    with (
        restoring(init, tmp_path) as (running, connection),
        container.restored_process(enter, running, shlex.join(["sh", "-c", daemons])) as helper,
    ):
        container.helper_exits(helper)
        connection.send("restored")
        container.eventually(lambda: set(running.pids()) == {1, ROOT}, "no zombie is left")
        running.kill(signal.SIGKILL)


@pytest.mark.parametrize(
    ("speech", "reason", "message"),
    [
        (b"failed CriuFailed it said -22\n", "CriuFailed", "it said -22\n"),
        (b"cold CriuFailed it said -22\n", "CriuFailed", "it said -22\n"),
        (b"progress a\nprogress b\nfailed X y\n", "X", "y\n"),
        (b"failed X \x1b[2Jforged\n", "X", "?[2Jforged\n"),
        (b"failed no/reason y\n", "AgentProtocol", "the agent gave no valid reason"),
        (b"\n", "AgentProtocol", ""),
        (b"\xff\x00\n", "AgentProtocol", ""),
        (b"restoring 20 10000 exit\n", "AgentProtocol", ""),
        (b"restored now\n", "AgentProtocol", ""),
        (b"committed\n", "AgentProtocol", ""),
        (b"p" * 1025, "AgentProtocol", ""),
        (None, "AgentGone", ""),
        (b"progr", "AgentGone", ""),
        (b"restored", "AgentGone", ""),
    ],
)
def test_failure_ends_in_exit_75(
    init: pathlib.Path, tmp_path: pathlib.Path, speech: bytes | None, reason: str, message: str
) -> None:
    with restoring(init, tmp_path) as (running, connection):
        if speech:
            with contextlib.suppress(BrokenPipeError):
                connection.send(speech)
        if reason == "AgentGone":
            connection.close()
        assert_failed(running, reason, message)


def test_silence_while_restoring(release: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Every line buys the whole deadline again."""
    with restoring(release / "chrek-init", tmp_path, deadline=1) as (running, connection):
        began = time.monotonic()
        for _ in range(4):
            time.sleep(0.4)
            connection.send("progress pages")
        assert running.process.poll() is None
        assert_failed(running, "AgentSilent")
        assert 2.6 <= time.monotonic() - began < 5


def test_nonce_while_restoring(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with restoring(init, tmp_path) as (_, connection):
        connection.send("nonce abc")
        assert connection.read() == "nonce abc\n"


def test_stop_while_restoring(
    init: pathlib.Path, enter: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with (
        restoring(init, tmp_path) as (running, _),
        container.restored_process(enter, running, "sleep 60"),
    ):
        running.kill(signal.SIGTERM)
        assert running.end() == (143, "", "")


@pytest.mark.parametrize("speech", ["failed CriuFailed it said no", None, "garbage"])
def test_failure_in_place(
    init: pathlib.Path, enter: pathlib.Path, tmp_path: pathlib.Path, speech: str | None
) -> None:
    """restartPolicy Never: nothing half restored survives, then the worker starts as PID 1."""
    stubborn = shlex.join(["sh", "-c", "trap '' TERM HUP; while :; do (sleep 60 &); wait; done"])
    with (
        restoring(init, tmp_path, mode="exec") as (running, connection),
        container.restored_process(enter, running, f"(sleep 60 & {stubborn} & wait)") as helper,
    ):
        container.eventually(lambda: len(running.pids()) >= 5, "some processes are restored")
        here = set(running.pids().values()) - {running.pid}
        if speech:
            connection.send(speech)
        else:
            connection.close()
        code, out, err = running.end()
        assert (code, out) == (42, "cold pid 1 /proc/1\n")
        assert err.startswith("chrek: Falling back to cold start: ")
        assert helper.wait(container.PATIENCE_SECONDS) == 128 + signal.SIGKILL
        assert not [pid for pid in here if pathlib.Path(f"/proc/{pid}").exists()]


def test_restore_is_for_pid_1_only(release: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Elsewhere it could kill the wrong processes, so it starts cold before anything changes."""
    with (
        Agent(tmp_path) as agent,
        subprocess.Popen(
            [release / "chrek-init", "--socket", str(agent.path), "--", "sh", "-c", "exit 42"],
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        agent.accept().send("restoring 5 10000 exec")
        _, err = process.communicate(timeout=container.PATIENCE_SECONDS)
    assert process.returncode == 42
    assert err == (
        "chrek: Falling back to cold start: AgentProtocol: "
        "a restore was offered but chrek-init is not PID 1\n"
    )
