"""A container without a container runtime: chrek-init as PID 1 of a PID namespace, and its agent.

`Agent` is a real Unix socket server that the test drives line by line. `Container` starts
chrek-init under unshare(1), which ends with PID 1's exit code.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

PATIENCE_SECONDS = 10
"""How long anything may take that should take milliseconds: this machine may be busy."""

PYTHON = (sys.executable, "-I", "-S", "-c")

LISTENER = """
import signal, sys
everything = set(signal.valid_signals()) - {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}
signal.pthread_sigmask(signal.SIG_BLOCK, everything)
print("ready", flush=True)
while True:
    info = signal.sigwaitinfo(everything)
    print("got", info.si_signo, flush=True)
    if info.si_signo == signal.SIGTERM:
        sys.exit(42)
"""
"""A worker that prints the number of every signal it gets, and ends with 42 on SIGTERM."""


def eventually(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"did not happen in {PATIENCE_SECONDS} s: {what}"
        time.sleep(0.005)


class Connection:
    """One accepted connection of chrek-init."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._peer.settimeout(PATIENCE_SECONDS)
        self._lines = peer.makefile("rb")

    def read(self) -> str:
        return self._lines.readline().decode()

    def send(self, line: str | bytes) -> None:
        """Sends a line, or bytes just as they are."""
        data = line if isinstance(line, bytes) else f"{line}\n".encode()
        self._peer.sendall(data)

    def is_closed(self) -> bool:
        return self._lines.read(1) == b""

    def close(self) -> None:
        self._lines.close()
        self._peer.close()


class Agent:
    """The agent's end: a listening socket at agent.sock in a directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / "agent.sock"
        self._stack = contextlib.ExitStack()
        self._listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        self._listener.settimeout(PATIENCE_SECONDS)
        self._listener.bind(str(self.path))
        self._listener.listen(8)

    def accept(self, hello: str = "chrek 1 start") -> Connection:
        peer, _ = self._listener.accept()
        connection = Connection(peer)
        self._stack.callback(connection.close)
        assert connection.read() == f"{hello}\n"
        return connection

    def leave(self) -> None:
        """Stops listening and removes the socket, as an agent that is replaced does."""
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Container:
    """chrek-init as PID 1. Use it as a context manager: nothing of it outlives the block."""

    def __init__(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        before: Callable[[], None] | None = None,
        env: dict[str, str] | None = None,
        closed_stderr: bool = False,
    ) -> None:
        unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "--"]
        if closed_stderr:
            unshare = ["sh", "-c", 'exec "$@" 2>&-', "sh", *unshare]
        self.process = subprocess.Popen(
            [*unshare, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
            env=env,
        )
        assert self.process.stdout
        assert self.process.stderr
        self.stdout = self.process.stdout
        self.stderr = self.process.stderr

    @property
    def pid(self) -> int:
        """PID 1 of the container, as this machine counts."""
        eventually(lambda: children(self.process.pid), "unshare starts PID 1")
        return children(self.process.pid)[0]

    def wait_for_init(self) -> int:
        """Waits until PID 1 is chrek-init and no longer unshare."""
        pid = self.pid
        eventually(lambda: comm(pid) != "unshare", "unshare executes chrek-init")
        return pid

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code. An end by a signal is negative."""
        return self.process.wait(PATIENCE_SECONDS)

    def output(self) -> tuple[str, str]:
        return self.process.communicate(timeout=PATIENCE_SECONDS)

    def end(self) -> tuple[int, str, str]:
        out, err = self.output()
        return self.process.returncode, out, err

    def pids(self) -> dict[int, int]:
        """Every process of the container: PID there to PID here."""
        namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/pid") == namespace:
                    found[int(status(int(entry.name), "NSpid").split()[-1])] = int(entry.name)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        self.stdout.close()
        self.stderr.close()


def children(pid: int) -> list[int]:
    try:
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def comm(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()


def status(pid: int, field: str) -> str:
    """One line of /proc/PID/status, for example State or NSpid."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise KeyError(field)


@contextlib.contextmanager
def restored_process(
    enter: pathlib.Path,
    container: Container,
    script: str,
    *,
    pid: int = 10000,
    reap: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """Puts a process into the container as CRIU does: forked there by a helper that then exits.

    The helper stays until its stdin is closed, so a test can have the root end before it does.
    Its stdout is the root's, and says "forked" first. With `reap` it waits for the root.
    """
    pidfd = os.pidfd_open(container.pid)
    shell = os.open("/bin/sh", os.O_RDONLY)
    # A shell gives /dev/null as stdin to what it starts in the background.
    helper = f"{script} & echo forked; {'wait;' if reap else ''} read line"
    program = ["--exec-fd", str(shell), "--", "sh", "-c", helper]
    try:
        process = subprocess.Popen(
            [str(enter), "--pidfd", str(pidfd), "--last-pid", str(pid - 1), *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(pidfd, shell),
        )
    finally:
        os.close(pidfd)
        os.close(shell)
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == "forked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


def helper_exits(process: subprocess.Popen[str]) -> None:
    """CRIU is done: the tree's root becomes a child of PID 1."""
    assert process.stdin
    process.stdin.close()
    assert process.wait(PATIENCE_SECONDS) in (0, 1)


REAL_TIME = signal.SIGRTMIN + 3
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGCONT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGRTMIN,
    REAL_TIME,
    signal.SIGRTMAX,
)
