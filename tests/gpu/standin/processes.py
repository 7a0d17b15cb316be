"""Processes of the tests: workloads with GPU memory, and who checkpoints them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

HERE = pathlib.Path(__file__).resolve().parent
WORKLOAD = HERE.parent / "workload.py"
PYTHON = [sys.executable, "-S", "-E", "-B"]

RUNNING, LOCKED, CHECKPOINTED, FAILED = range(4)
"""States, as the driver numbers them."""


class Caller:
    """A process that calls the checkpoint API, as chrek's helper does."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [*PYTHON, HERE / "caller.py"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.unanswered = 0

    def send(self, *words: object) -> None:
        self.unanswered += 1
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def receive(self) -> list[int]:
        words = self.process.stdout.readline().split()
        self.unanswered -= 1
        return [int(word) for word in words]

    def __call__(self, *words: object) -> int:
        """The call's code."""
        self.send(*words)
        return self.receive()[0]

    def state(self, pid: int) -> int:
        self.send("state", pid)
        code, state = self.receive()
        assert code == 0
        return state

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Workload:
    """A process of workload.py, with PORT=0 in its environment.

    What comes before the program in the command may start it as another process: `pid` is the one
    that was started here.
    """

    def __init__(
        self,
        command: Sequence[str | pathlib.Path],
        environment: Mapping[str, str],
        output: pathlib.Path,
    ) -> None:
        """Starts it and waits until it serves; what it prints goes into a file.

        A pipe to the test would be something that CRIU cannot restore.
        """
        with output.open("w") as file:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.pid = self.process.pid

        def begun() -> bool:
            assert self.process.poll() is None, output.read_text()
            return "workload ready" in output.read_text()

        wait_until(begun, 30)
        self.port = int(output.read_text().split()[2])

    def connect(self, *words: object) -> socket.socket:
        """Asks, and leaves the answer for `read`."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall((" ".join(map(str, words)) + "\n").encode())
        return connection

    def ask(self, *words: object) -> str:
        return read(self.connect(*words))

    def maps(self) -> str:
        return pathlib.Path(f"/proc/{self.pid}/maps").read_text()

    def files(self) -> list[str]:
        """Where its descriptors lead."""
        found = []
        for path in pathlib.Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(path))
        return found

    def stop(self) -> None:
        """Returns when every thread of it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def read(connection: socket.socket) -> str:
    with connection, connection.makefile() as stream:
        return stream.readline().strip()


def wait_until(true: Callable[[], object], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)
