"""Worker mode before the agent's decision, and the cold start in place."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from c import container
from c.container import Agent, Connection, Container

WORKER = ["sh", "-c", "echo pid $$; exit 42"]


def start(
    init: pathlib.Path, directory: pathlib.Path, *options: str, command: list[str] | None = None
) -> Container:
    socket_path = directory / "agent.sock"
    flags = ["--wait", "1", "--socket", str(socket_path), *options]
    return Container([init, *flags, "--", *(command or WORKER)])


def assert_cold(running: Container, reason: str, message: str = "") -> None:
    """The worker ran as PID 1, gave the exit code, and one line on stderr says why it was cold."""
    code, out, err = running.end()
    assert out == "pid 1\n"
    assert code == 42
    assert err.startswith(f"chrek: Falling back to cold start: {reason}: {message}")
    assert err.count("\n") == 1


def test_no_agent(release: pathlib.Path, superuser: None, tmp_path: pathlib.Path) -> None:
    began = time.monotonic()
    with start(release / "chrek-init", tmp_path) as running:
        assert_cold(running, "AgentUnavailable", "no agent answers at the socket: No such file")
    assert 1.0 <= time.monotonic() - began < 3


@pytest.mark.parametrize("kind", ["file", "directory", "link", "stale", "long"])
def test_no_usable_socket(init: pathlib.Path, tmp_path: pathlib.Path, kind: str) -> None:
    place = tmp_path / "agent.sock"
    with contextlib.ExitStack() as stack:
        if kind == "file":
            place.write_text("cold Fake nonsense\n")
        elif kind == "directory":
            place.mkdir()
        elif kind == "link":
            # A worker that ran here before may leave what it likes.
            (tmp_path / "real").mkdir()
            agent = stack.enter_context(Agent(tmp_path / "real"))
            place.symlink_to(agent.path)
        elif kind == "stale":
            agent = stack.enter_context(Agent(tmp_path))
            agent._listener.close()
        else:
            tmp_path = tmp_path / ("x" * 200)
        with start(init, tmp_path, "--wait", "0") as running:
            assert_cold(running, "AgentUnavailable", "no agent answers at the socket: ")


def test_socket_appears_while_waiting(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with start(init, tmp_path, "--wait", "20") as running:
        running.wait_for_init()
        time.sleep(0.3)
        with Agent(tmp_path) as agent:
            began = time.monotonic()
            connection = agent.accept()
            assert time.monotonic() - began < 1
            connection.send("cold NotReady the checkpoint is not Ready")
            assert_cold(running, "NotReady", "the checkpoint is not Ready\n")


def test_socket_lies_beside_the_program(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    placed = tmp_path / "chrek-init"
    placed.write_bytes(init.read_bytes())
    placed.chmod(0o755)
    with Agent(tmp_path) as agent, Container([placed, "--wait", "9", "--", *WORKER]) as running:
        agent.accept().send("cold NotReady soon")
        assert_cold(running, "NotReady", "soon\n")


def test_answer_is_immediate(release: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The best of several: a slow machine is not a slow program."""
    best = 1.0
    with Agent(tmp_path) as agent:
        for _ in range(5):
            with subprocess.Popen(
                [release / "chrek-init", "--socket", str(agent.path), "--wait", "5", "--", "true"],
                stderr=subprocess.DEVNULL,
            ):
                connection = agent.accept()
                began = time.monotonic()
                connection.send("cold NotReady soon")
                assert connection.is_closed()
                best = min(best, time.monotonic() - began)
    assert best < 0.010


def test_nonce(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path) as running:
        connection = agent.accept()
        for nonce in ("0", "00ffAB", "f" * 128):
            connection.send(f"nonce {nonce}")
            assert connection.read() == f"nonce {nonce}\n"
        connection.send("cold Done enough")
        assert_cold(running, "Done", "enough\n")


Speech = Callable[[Connection], None]


def says(*pieces: bytes, pause: float = 0) -> Speech:
    def speak(connection: Connection) -> None:
        # What chrek-init has rejected it does not read to the end.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                connection.send(piece)
                time.sleep(pause)

    return speak


@pytest.mark.parametrize(
    ("speech", "reason", "message"),
    [
        (says(b"cold NotReady no\n"), "NotReady", "no\n"),
        (says(b"failed DigestMismatch no\n"), "DigestMismatch", "no\n"),
        (says(b"cold NotReady\n"), "NotReady", "no message\n"),
        (says(b"co", b"ld Not", b"Ready a", b"b\n", pause=0.02), "NotReady", "ab\n"),
        (says(b"cold First a\ncold Second b\n"), "First", "a\n"),
        (says(b"cold " + b"R" * 64 + b" m\n"), "R" * 64, "m\n"),
        (says(b"cold R " + b"m" * 1017 + b"\n"), "R", "m" * 1017 + "\n"),
        (says(b"cold R a\tb\x1b[31m\xc3\xa9\x00c\r\n"), "R", "a?b?[31m???c?\n"),
        # Not a Reason: never printed, so that no reader of logs is led astray.
        (says(b"cold " + b"R" * 65 + b" m\n"), "AgentProtocol", "the agent gave no valid"),
        (says(b"cold Bad:Reason m\n"), "AgentProtocol", "the agent gave no valid reason\n"),
        (says(b"cold  m\n"), "AgentProtocol", "the agent gave no valid reason\n"),
        (says(b"cold\n"), "AgentProtocol", "the agent gave no valid reason\n"),
        # Not the protocol.
        (says(b"\n"), "AgentProtocol", ""),
        (says(b"Cold R m\n"), "AgentProtocol", ""),
        (says(b" cold R m\n"), "AgentProtocol", ""),
        (says(b"\x00\x01\x02\xff\xfe\n"), "AgentProtocol", ""),
        (says(bytes(range(11, 256)) * 20), "AgentProtocol", ""),
        (says(b"x" * 1025), "AgentProtocol", ""),
        (says(b"cold R " + b"m" * 1018 + b"\n"), "AgentProtocol", ""),
        (says(b"nonce\n"), "AgentProtocol", ""),
        (says(b"nonce xyz\n"), "AgentProtocol", ""),
        (says(b"nonce " + b"0" * 129 + b"\n"), "AgentProtocol", ""),
        # Not now.
        (says(b"progress step\n"), "AgentProtocol", ""),
        (says(b"restored\n"), "AgentProtocol", ""),
        (says(b"capture\n"), "AgentProtocol", ""),
        # A restore that is not one.
        (says(b"restoring\n"), "AgentProtocol", ""),
        (says(b"restoring 5\n"), "AgentProtocol", ""),
        (says(b"restoring 5 10000\n"), "AgentProtocol", ""),
        (says(b"restoring 5 10000 stay\n"), "AgentProtocol", ""),
        (says(b"restoring 5 10000 exit now\n"), "AgentProtocol", ""),
        (says(b"restoring 0 10000 exit\n"), "AgentProtocol", ""),
        (says(b"restoring -5 10000 exit\n"), "AgentProtocol", ""),
        (says(b"restoring 5 1 exit\n"), "AgentProtocol", ""),
        (says(b"restoring 5 -1 exit\n"), "AgentProtocol", ""),
        (says(b"restoring 99999999999999999999 10000 exit\n"), "AgentProtocol", ""),
        (says(b"restoring 5 0x10 exit\n"), "AgentProtocol", ""),
    ],
)
def test_what_the_agent_says(
    init: pathlib.Path, tmp_path: pathlib.Path, speech: Speech, reason: str, message: str
) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path) as running:
        speech(agent.accept())
        assert_cold(running, reason, message)


def test_agent_closes_after_its_last_word(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path) as running:
        connection = agent.accept()
        connection.send("cold NotReady goodbye")
        connection.close()
        assert_cold(running, "NotReady", "goodbye\n")


def test_agent_answers_before_it_is_asked(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path) as running:
        peer, _ = agent._listener.accept()
        with peer:
            peer.sendall(b"cold Early word\n")
        assert_cold(running, "Early", "word\n")


def test_agent_closes_without_an_answer(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        started = []
        for index, partial in enumerate((b"", b"nonce 0", b"cold NotReady bu")):
            directory = tmp_path / str(index)
            directory.mkdir()
            agent = stack.enter_context(Agent(directory))
            started.append(stack.enter_context(start(init, directory)))
            connection = agent.accept()
            connection.send(partial)
            connection.close()
            agent.leave()
        for running in started:
            assert_cold(running, "AgentGone")


def test_agent_comes_back(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with start(init, tmp_path, "--wait", "20") as running:
        with Agent(tmp_path) as agent:
            agent.accept().close()
            agent.leave()
        with Agent(tmp_path) as agent:
            agent.accept().send("cold NotReady I am new here")
            assert_cold(running, "NotReady", "I am new here\n")


def test_agent_that_always_closes(
    release: pathlib.Path, superuser: None, tmp_path: pathlib.Path
) -> None:
    """It may do so until --wait is over, and the attempts get rarer."""
    attempts = 0
    with Agent(tmp_path) as agent, start(release / "chrek-init", tmp_path) as running:
        while not running.process.poll():
            agent._listener.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                peer, _ = agent._listener.accept()
                peer.close()
                attempts += 1
        assert_cold(running, "AgentGone")
    assert 5 < attempts < 60


def test_silence(release: pathlib.Path, superuser: None, tmp_path: pathlib.Path) -> None:
    """At least five seconds, and nonces do not prolong them."""
    init = release / "chrek-init"
    began = time.monotonic()
    with Agent(tmp_path) as agent, contextlib.ExitStack() as stack:
        mute = stack.enter_context(start(init, tmp_path))
        agent.accept()
        chatty = stack.enter_context(start(init, tmp_path))
        connection = agent.accept()
        source = stack.enter_context(start(init, tmp_path, "--source"))
        agent.accept("chrek 1 source")
        while chatty.process.poll() is None and time.monotonic() - began < 9:
            with contextlib.suppress(BrokenPipeError):
                connection.send("nonce 00")
            time.sleep(0.1)
        assert_cold(mute, "AgentSilent", "the agent gave no answer in time\n")
        assert_cold(chatty, "AgentSilent")
        code, _, err = source.end()
        assert (code, err) == (
            75,
            "chrek: Checkpoint refused: AgentSilent: the agent gave no answer in time\n",
        )
    assert 5 <= time.monotonic() - began < 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("connected", [False, True])
def test_stop_while_waiting(
    init: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals, connected: bool
) -> None:
    with contextlib.ExitStack() as stack:
        if connected:
            agent = stack.enter_context(Agent(tmp_path))
        running = stack.enter_context(start(init, tmp_path, "--wait", "60"))
        running.wait_for_init()
        if connected:
            agent.accept()
        else:
            time.sleep(0.1)
        began = time.monotonic()
        running.kill(number)
        assert running.wait() == 128 + number
        assert time.monotonic() - began < 1


def test_other_signals_do_not_stop_the_wait(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path, "--wait", "60") as running:
        connection = agent.accept()
        for number in set(container.FORWARDED) - {signal.SIGINT, signal.SIGQUIT}:
            running.kill(number)
        connection.send("nonce 00")
        assert connection.read() == "nonce 00\n"
        connection.send("cold NotReady still here")
        assert_cold(running, "NotReady", "still here\n")


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_code_of_a_cold_worker(init: pathlib.Path, tmp_path: pathlib.Path, code: int) -> None:
    with start(init, tmp_path, "--wait", "0", command=["sh", "-c", f"exit {code}"]) as running:
        assert running.wait() == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_end_of_a_cold_worker_by_a_signal(init: pathlib.Path, number: signal.Signals) -> None:
    done = subprocess.run(
        [init, "--wait", "0", "--", "sh", "-c", f"kill -{int(number)} $$"],
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == -number


def test_cold_worker_gets_every_signal_itself(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = [*container.PYTHON, container.LISTENER]
    with start(init, tmp_path, "--wait", "0", command=command) as running:
        assert running.stdout.readline() == "ready\n"
        for number in container.FORWARDED:
            running.kill(number)
            assert running.stdout.readline() == f"got {int(number)}\n"
        running.kill(signal.SIGTERM)
        assert running.wait() == 42


REPORT = """
import json, os, re
lines = open("/proc/self/status").read().splitlines()
print(json.dumps({
    "argv": open("/proc/self/cmdline").read().split("\\0"),
    "env": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0),
    "fds": {fd: os.path.exists(f"/proc/self/fd/{fd}") and os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")},
    "ids": [os.getpid(), os.getpgid(0), os.getsid(0), os.nice(0)],
    "signals": [line for line in lines if re.match("Sig(Blk|Ign|Cgt|Pnd)|ShdPnd", line)],
    "privilege": [line for line in lines if re.match("NoNewPrivs|Seccomp|Cap", line)],
}))
"""


def odd_surroundings() -> None:
    """A mask and dispositions that nobody would choose, and a file that stays open."""
    os.chdir("/usr")
    os.umask(0o027)
    os.dup2(os.open("/dev/zero", os.O_RDONLY), 5)
    libc = ctypes.CDLL(None)
    # Not through Python: signals 32 and 33 cannot be named there.
    mask = ctypes.c_uint64(0)
    for number in (10, 17, 32, 33, 34, 35, 64):
        mask.value |= 1 << (number - 1)
    libc.syscall(14, signal.SIG_SETMASK, ctypes.byref(mask), None, ctypes.c_size_t(8))
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGPIPE, signal.SIGRTMIN + 5):
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("before", [None, odd_surroundings])
def test_cold_start_leaves_no_trace(
    init: pathlib.Path, tmp_path: pathlib.Path, before: Callable[[], None] | None
) -> None:
    command = [*container.PYTHON, REPORT]
    env = {"PATH": os.environ["PATH"], "ODD": "a=b\n\x01", "EMPTY": ""}

    def report(arguments: list[str | os.PathLike[str]], agent: Agent | None) -> object:
        with Container(arguments, before=before, env=env) as running:
            if agent:
                connection = agent.accept()
                running.kill(signal.SIGWINCH)
                connection.send("cold NotReady no")
            out, err = running.output()
            assert running.process.returncode == 0, err
            found = json.loads(out)
            # Each run has pipes of its own.
            for stream in ("1", "2"):
                found["fds"][stream] = found["fds"][stream].partition(":")[0]
            return found

    plain = report(list(command), None)
    with Agent(tmp_path) as agent:
        flags = ["--wait", "5", "--socket", str(agent.path)]
        asked = report([init, *flags, "--", *command], agent)
    unasked = report([init, "--wait", "0", "--socket", "/nowhere", "--", *command], None)
    assert asked == plain
    assert unasked == plain


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("no-such-program", 127, "No such file or directory"),
        ("/no/such/program", 127, "No such file or directory"),
        ("/etc/passwd/program", 127, "Not a directory"),
        ("", 127, "No such file or directory"),
        ("/etc/passwd", 126, "Permission denied"),
        ("/etc", 126, "Permission denied"),
        ("denied", 126, "Permission denied"),
    ],
)
def test_command_that_cannot_run(
    init: pathlib.Path, tmp_path: pathlib.Path, command: str, code: int, message: str
) -> None:
    (tmp_path / "denied").write_text("#!/bin/sh\n")
    done = subprocess.run(
        [init, "--wait", "0", "--", command],
        capture_output=True,
        text=True,
        env={"PATH": f"/nowhere:{tmp_path}:/bin"},
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.splitlines()[1:] == [f'chrek: Cannot run "{command}": {message}']


def test_command_is_looked_up_in_path(init: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine").write_text('#!/bin/sh\necho "$0" "$@"\n')
    (tmp_path / "mine").chmod(0o755)
    done = subprocess.run(
        [init, "--wait", "0", "mine", "--wait", "--", "a b"],
        capture_output=True,
        text=True,
        env={"PATH": f"/nowhere:{tmp_path}:/bin"},
        check=False,
    )
    assert done.stdout == f"{tmp_path}/mine --wait -- a b\n"


def test_orphans_are_reaped_while_waiting(
    init: pathlib.Path, enter: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with Agent(tmp_path) as agent, start(init, tmp_path, "--wait", "60") as running:
        connection = agent.accept()
        with container.restored_process(enter, running, "sleep 0.2") as helper:
            container.helper_exits(helper)
            container.eventually(lambda: 10000 in running.pids(), "the orphan is there")
            container.eventually(lambda: list(running.pids()) == [1], "the orphan is reaped")
        connection.send("cold NotReady no")
        assert_cold(running, "NotReady")


def test_closed_stderr_keeps_nobody_from_starting(
    init: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    arguments = [str(init), "--wait", "0", "--socket", "/nowhere", "--", *WORKER]
    with Container(arguments, closed_stderr=True) as running:
        assert running.end()[:2] == (42, "pid 1\n")
