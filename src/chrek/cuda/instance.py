"""One helper process, from its start to its end, and the calls that are under way in it.

A thread stays with the process: it starts it, hands on its answers and its log lines, and sees it
end. Nobody therefore waits for a process that is gone, and none is left as a zombie.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

import msgspec

from chrek import errors, log, names, process
from chrek.cuda import words

END_SECONDS = 5.0
"""For the process to end by itself, and for it to take a request."""

PERMANENT = frozenset({names.Reason.GPU_DRIVER_TOO_OLD, names.Reason.GPU_STATE_UNSUPPORTED})
"""Reasons of failures that come again."""

_KEPT_LINES = 5
_A = TypeVar("_A", bound=msgspec.Struct)
_logger = log.get("chrek.cuda")


class Instance:
    """One helper process. Every method may be called by several threads at once."""

    def __init__(self, libraries: pathlib.Path) -> None:
        """Start it; that it cannot be started is told to the first who asks.

        Args:
            libraries: directory of the driver's libraries.

        Raises:
            GpuError: there is not even a thread for it.
        """
        self._libraries = libraries
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Of `send`: what is received has been polled for.
        self._ours.settimeout(END_SECONDS)
        self._lock = threading.Lock()
        self._waiting: dict[int, futures.Future[words.Answer]] = {}
        self._numbers = itertools.count(1)
        self._initialised = False
        self._spent = False
        self._ended: str | None = None
        self._said: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._rest = b""
        # PDEATHSIG comes when the thread ends that started the process, not when this program does.
        self._thread = threading.Thread(target=self._live, name="gpu-helper", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as err:
            self._ours.close()
            self._theirs.close()
            raise errors.GpuError(f"the GPU helper could not be started: {err}") from err

    @property
    def usable(self) -> bool:
        """Whether another request may go to it."""
        with self._lock:
            return not self._spent and self._ended is None

    def ready(self, timeout_seconds: float) -> None:
        """Wait until the driver is initialised.

        Raises:
            GpuError: it cannot be.
        """
        if not self._initialised:
            self.ask(
                "initialise the driver",
                lambda number: words.Start(id=number),
                words.Done,
                timeout_seconds,
            )
            self._initialised = True

    def ask(
        self,
        what: str,
        request: Callable[[int], words.Request],
        expected: type[_A],
        timeout_seconds: float,
    ) -> _A:
        """Send a request and wait for its answer.

        Args:
            what: is asked, for a message: `the GPU helper did not …`.
            request: makes it of its number.

        Raises:
            GpuError: the answer, or that there is none; `unasked` where it was not sent, or was a
                question that another process may answer.
        """
        future: futures.Future[words.Answer] = futures.Future()
        with self._lock:
            if self._spent or self._ended is not None:
                raise errors.GpuError(self._gone(), unasked=True)
            number = next(self._numbers)
            made = request(number)
            # It is not closed in between, for that takes the lock as well.
            sent = self._send(words.encode(made))
            self._waiting[number] = future
            ended = self._spent
        if ended:
            # The thread that stays with it is about to tell how.
            self._thread.join(END_SECONDS)
            raise errors.GpuError(self._gone(), unasked=True)
        try:
            answer = future.result(timeout_seconds if sent else 0)
            if isinstance(answer, words.Failed) and answer.spent:
                self._spent = True
        except TimeoutError:
            self._spent = True
            raise errors.GpuError(
                f"the GPU helper did not {what} within {timeout_seconds:g} seconds",
                hint="the driver hangs: see the kernel log of the node for lines of NVRM",
            ) from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
                last = self._spent and not self._waiting
            if last:
                self._hang_up()
        if isinstance(answer, words.Failed):
            raise _error(answer, again=answer.spent and isinstance(made, words.Question))
        if not isinstance(answer, expected):
            raise errors.GpuError(
                f"the GPU helper answered {type(answer).__name__} when asked to {what}",
                reason=names.Reason.INTERNAL_ERROR,
            )
        return answer

    def close(self) -> None:
        """End the process; back when it has, or when it takes too long.

        Whoever waits for an answer is told.
        """
        with self._lock:
            self._spent = True
        self._hang_up()
        self._thread.join(2 * END_SECONDS)

    def _send(self, data: bytes) -> bool:
        """False when the process does not even take it."""
        try:
            self._ours.send(data)
        except TimeoutError:
            return False
        except ConnectionError:
            self._spent = True
        except OSError as err:
            raise errors.GpuError(f"the GPU helper cannot be asked: {err.strerror}") from err
        return True

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    def _gone(self) -> str:
        return f"the GPU helper {self._ended or 'is being replaced'}"

    def _live(self) -> None:
        why = "was lost"
        try:
            with self._theirs:
                child = process.start(
                    [sys.executable, "-P", "-m", "chrek.cuda.helper", str(self._theirs.fileno())],
                    pass_fds=[self._theirs.fileno()],
                    env=environment(self._libraries),
                )
            with child:
                try:
                    self._listen(child)
                finally:
                    why = self._end(child)
        except errors.ToolError as err:
            why = f"could not be started: {err}"
        except Exception as err:
            _logger.exception("gpu helper lost")
            why = f"was lost: {err!r}"
        finally:
            self._tell(why)

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        """Hand on answers and log lines until one side hangs up."""
        poller = select.poll()
        poller.register(self._ours, select.POLLIN)
        if child.stderr is not None:
            os.set_blocking(child.stderr.fileno(), False)
            poller.register(child.stderr, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if self._ours.fileno() not in ready:
                if child.stderr is not None and not self._log(child.stderr.read()):
                    poller.unregister(child.stderr)
                continue
            try:
                data = self._ours.recv(words.MOST_BYTES, socket.MSG_DONTWAIT)
            except ConnectionError:
                return
            if not data:
                return
            answer = words.decode_answer(data)
            with self._lock:
                future = self._waiting.pop(answer.id, None)
            if future is not None:
                future.set_result(answer)

    def _end(self, child: subprocess.Popen[bytes]) -> str:
        """See the process end, by force if need be; how it did."""
        self._hang_up()
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            # In the driver even this can take for ever.
            self._tell("does not end")
            child.wait()
        if child.stderr is not None:
            self._log((child.stderr.read() or b"") + b"\n")
        why = process.describe(child.returncode)
        if child.returncode:
            _logger.error("gpu helper ended", how=why)
            return f"{why}: {self._said[-1]}" if self._said else why
        return "has been ended"

    def _log(self, text: bytes | None) -> bool:
        """Log whole lines; False when there was nothing to read."""
        *lines, self._rest = (self._rest + (text or b"")).split(b"\n")
        for line in lines:
            if said := line.decode(errors="replace").rstrip()[:512]:
                self._said.append(said)
                _logger.warning("gpu helper says", text=said)
        return bool(text)

    def _tell(self, why: str) -> None:
        with self._lock:
            self._ended = why
            left = list(self._waiting.values())
            self._waiting.clear()
        self._ours.close()
        for future in left:
            future.set_exception(errors.GpuError(self._gone(), hint="see the agent's log"))


def _error(answer: words.Failed, *, again: bool) -> errors.GpuError:
    error = errors.GpuError(
        answer.message, code=answer.code, unasked=again, hint=answer.hint, reason=answer.reason
    )
    error.retryable = answer.reason not in PERMANENT
    return error


def environment(libraries: pathlib.Path) -> dict[str, str]:
    """This process's own, but for what would lead to other libraries, or hide GPUs."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LD_", "CUDA_"))
    }
    return {**kept, "LD_LIBRARY_PATH": str(libraries)}
