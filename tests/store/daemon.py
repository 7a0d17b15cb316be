"""A server's process, which can be away, silent or slow, and is always found at one address."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

START_SECONDS = 20
END_SECONDS = 10
STOPPED_SECONDS, RUNNING_SECONDS = 0.2, 0.05
"""In turns, when it is slow."""


class Daemon:
    """A program that listens on a port of 127.0.0.1."""

    def __init__(self, log: pathlib.Path, environment: Mapping[str, str]) -> None:
        """Choose the port.

        Args:
            log: where its output is kept.
            environment: variables of its own, beside those of the tests.
        """
        self._log = log
        self._environment = {**os.environ, **environment}
        self._argv: Sequence[str] = ()
        # Nobody listens here: it keeps the port from others while the program is away. Who listens
        # may share it, if he sets the same option, as programs in Go do.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._port.getsockname()[1]}"

    @property
    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text()

    @contextlib.contextmanager
    def running(self, argv: Sequence[str]) -> Iterator[None]:
        """While inside, it runs."""
        self._start(argv)
        try:
            yield
        finally:
            self._process.terminate()
            self._process.wait(END_SECONDS)
            self._port.close()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """While inside, it has died: connections are refused."""
        argv = self._argv
        self._kill()
        try:
            yield
        finally:
            self._start(argv)

    @contextlib.contextmanager
    def replaced(self, argv: Sequence[str]) -> Iterator[None]:
        """While inside, it runs with another command line."""
        with self.away():
            self._start(argv)
            try:
                yield
            finally:
                self._kill()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """While inside, connections are made and nothing is said."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """While inside, it hangs for a while again and again."""
        ended = threading.Event()

        def hang() -> None:
            while not ended.is_set():
                with self.silent():
                    ended.wait(STOPPED_SECONDS)
                ended.wait(RUNNING_SECONDS)

        thread = threading.Thread(target=hang)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _start(self, argv: Sequence[str]) -> None:
        self._argv = argv
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        try:
            self._wait()
        except BaseException:
            self._kill()
            raise

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait(END_SECONDS)

    def _wait(self) -> None:
        """Until it listens."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(self._port.getsockname(), 1).close()
            except OSError:
                assert self._process.poll() is None, f"{self._argv[0]} has ended:\n{self.log}"
                assert time.monotonic() < deadline, f"{self._argv[0]} does not answer:\n{self.log}"
                time.sleep(0.02)
            else:
                return
