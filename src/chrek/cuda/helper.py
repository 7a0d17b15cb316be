"""The process that loads NVIDIA's libraries: `python -m chrek.cuda.helper FD`.

It lives as long as whoever started it and holds the other end of the socket FD, so the seconds that
the driver takes to initialise are spent once, before anybody waits. Requests are answered by a
thread each: the bindings let other threads run while the driver works. A driver that crashes or
hangs takes this process with it and not the agent.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import sys
import threading
import traceback

import msgspec

from chrek import errors, names
from chrek.cuda import driver, nvml, words

SPENT = frozenset(
    {
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "CUDA_ERROR_SYSTEM_NOT_READY",
        "CUDA_ERROR_DEINITIALIZED",
        "CUDA_ERROR_NOT_INITIALIZED",
        "NVML_ERROR_LIB_RM_VERSION_MISMATCH",
        "NVML_ERROR_LIBRARY_NOT_FOUND",
        "NVML_ERROR_DRIVER_NOT_LOADED",
        "NVML_ERROR_GPU_IS_LOST",
    }
)
"""What the libraries say from then on, in this process."""

_PR_SET_PDEATHSIG = 1


class Server:
    """Answers what comes through a socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._driver = driver.Driver()
        self._nvml = nvml.Nvml()
        self._initialised = threading.Event()
        self._failure: errors.GpuError | None = None

    def serve(self) -> None:
        """Answer requests until the other side closes."""
        threading.Thread(target=self._initialise, name="init", daemon=True).start()
        while data := self._channel.recv(words.MOST_BYTES):
            request = words.decode_request(data)
            thread = threading.Thread(target=self._serve_one, args=(request,), daemon=True)
            try:
                thread.start()
            except RuntimeError as err:
                self._send(words.Failed(id=request.id, message=f"the GPU helper: {err}"))

    def _initialise(self) -> None:
        try:
            self._driver.init()
        except errors.GpuError as err:
            self._failure = err
        except Exception as err:
            traceback.print_exc()
            self._failure = errors.GpuError(f"CUDA initialisation failed: {err!r}")
        finally:
            self._initialised.set()

    def _serve_one(self, request: words.Request) -> None:
        try:
            answer = self._answer(request)
        except errors.GpuError as err:
            answer = words.Failed(
                id=request.id,
                message=err.message,
                code=err.code,
                hint=err.hint,
                reason=str(err.reason),
                spent=err is self._failure or err.code in SPENT,
            )
        except Exception as err:
            traceback.print_exc()
            answer = words.Failed(
                id=request.id,
                message=f"the GPU helper failed: {err!r}",
                reason=names.Reason.INTERNAL_ERROR,
            )
        self._send(answer)

    def _answer(self, request: words.Request) -> words.Answer:
        match request:
            case words.DescribeNode(id=number):
                return words.NodeAnswer(id=number, node=self._nvml.node(self._driver.version()))
            case words.DescribeUsage(id=number):
                return words.UsageAnswer(id=number, usage=self._nvml.usage())
        self._initialised.wait()
        if self._failure is not None:
            raise self._failure
        match request:
            case words.GetRestoreThread(id=number, pid=pid):
                return words.ThreadAnswer(id=number, thread=self._driver.restore_thread(pid))
            case words.GetState(id=number, pid=pid):
                return words.StateAnswer(id=number, state=self._driver.state(pid))
            case words.Lock(pid=pid, timeout_seconds=timeout_seconds):
                self._driver.lock(pid, timeout_seconds)
            case words.Checkpoint(pid=pid):
                self._driver.checkpoint(pid)
            case words.Restore(pid=pid, mapping=mapping):
                self._driver.restore(pid, mapping)
            case words.Unlock(pid=pid):
                self._driver.unlock(pid)
        return words.Done(id=request.id)

    def _send(self, answer: words.Answer) -> None:
        try:
            self._channel.send(words.encode(answer))
        except ConnectionError:
            # Nobody waits any more; `serve` sees it too.
            return
        except OSError as err:
            # Such as an answer that no packet can hold.
            short = f"the GPU helper cannot answer: {err.strerror}"
            self._channel.send(words.encode(words.Failed(id=answer.id, message=short)))


def main(argv: list[str]) -> None:
    """Serve, and end at once when the other side is gone, whatever the driver is at."""
    faulthandler.enable()
    # Whoever started this decides what happens at an interrupt, and asks for a roll-back.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # For an end of the agent that this process would not see, as its main thread is stopped.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    channel = socket.socket(fileno=int(argv[1]))
    # The driver starts programs, such as nvidia-modprobe: none of them may keep this open.
    channel.set_inheritable(False)
    try:
        Server(channel).serve()
    except (ConnectionError, msgspec.DecodeError):
        traceback.print_exc()
        os._exit(1)
    # A thread may be in a call of the driver that never returns.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv)
