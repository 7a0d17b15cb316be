"""chrek-enter --seccomp: reads filters and leaves the process as it was."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import pathlib
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import IO

import pytest

from c import container

INSTALL = """
import ctypes, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
def install(code):
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code)), 0, 0) == 0
for text in sys.argv[2:]:
    install(bytes.fromhex(text))
print("ready", flush=True)
exec(sys.argv[1])
"""
"""Installs the filters given in hexadecimal, the first one first, then runs some Python."""


def program(length: int, jump: int = 0) -> bytes:
    """A filter of so many instructions that allows everything."""
    load = struct.pack("<HBBI", 0x20, 0, 0, 0)
    test = struct.pack("<HBBI", 0x15, jump, jump, 425)
    allow = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
    return load + test * (length - 2) + allow


@pytest.fixture(autouse=True)
def unfiltered(superuser: None) -> None:
    if container.status(os.getpid(), "Seccomp") != "0":
        pytest.skip("a process under a seccomp filter may not read those of others")


@contextlib.contextmanager
def filtered(script: str, *filters: bytes) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*container.PYTHON, INSTALL, script, *[code.hex() for code in filters]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def read(enter: pathlib.Path, pid: int) -> list[bytes]:
    done = subprocess.run([enter, "--seccomp", str(pid)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    (count,) = struct.unpack_from("<I", done.stdout)
    filters, offset = [], 4
    for _ in range(count):
        (length,) = struct.unpack_from("<I", done.stdout, offset)
        filters.append(done.stdout[offset + 4 : offset + 4 + 8 * length])
        offset += 4 + 8 * length
    assert offset == len(done.stdout)
    return filters


@pytest.mark.parametrize(
    "filters",
    [[], [program(3)], [program(3), program(5), program(4)], [program(4096)] * 7],
    ids=["none", "one", "three", "as many as the kernel allows"],
)
def test_filters_oldest_first(enter: pathlib.Path, filters: list[bytes]) -> None:
    with filtered("sys.stdin.read()", *filters) as process:
        assert read(enter, process.pid) == filters


@pytest.mark.parametrize("what", ["time.sleep(0.3)", "sys.stdin.read(1)", "signal.pause()"])
def test_sleeper_sleeps_on(enter: pathlib.Path, what: str) -> None:
    """A system call that waits is continued, not cut short."""
    script = f"began = time.monotonic(); {what}; print(time.monotonic() - began, flush=True)"
    with filtered(f"signal.signal(10, lambda *_: None); {script}", program(3)) as process:
        began = time.monotonic()
        for _ in range(5):
            assert read(enter, process.pid) == [program(3)]
        assert process.stdin
        assert process.stdout
        rest = max(0.0, began + 0.3 - time.monotonic())
        if "stdin" in what:
            time.sleep(rest)
            process.stdin.write("x")
            process.stdin.flush()
        elif "pause" in what:
            time.sleep(rest)
            process.send_signal(signal.SIGUSR1)
        assert float(process.stdout.readline()) >= 0.25


def test_stopped_process_stays_stopped(enter: pathlib.Path) -> None:
    with filtered("sys.stdin.read(1); print('on', flush=True)", program(3)) as process:
        process.send_signal(signal.SIGSTOP)
        container.eventually(lambda: container.status(process.pid, "State")[0] == "T", "it stops")
        for _ in range(3):
            assert read(enter, process.pid) == [program(3)]
            # Detached, it runs for a moment in the kernel, only to stop again.
            container.eventually(
                lambda: container.status(process.pid, "State")[0] == "T", "it stops again"
            )
            assert container.status(process.pid, "TracerPid") == "0"
        process.send_signal(signal.SIGCONT)
        assert process.stdin
        assert process.stdout
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline() == "on\n"


def test_no_signal_is_lost(enter: pathlib.Path) -> None:
    """A process that is always about to be given a signal stops for that instead."""
    number = signal.SIGRTMIN + 5  # real-time signals are queued: each one counts
    script = (
        "import os\n"
        "reading, writing = os.pipe()\n"
        "os.set_blocking(writing, False)\n"
        "signal.set_wakeup_fd(writing)\n"
        f"signal.signal({number}, lambda *_: None)\n"
        "print('armed', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(len(os.read(reading, 65536)))\n"
    )
    sent = 0
    with filtered(script, program(3)) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "armed\n"
        for _ in range(20):
            with subprocess.Popen(
                [enter, "--seccomp", str(process.pid)], stdout=subprocess.DEVNULL
            ) as reader:
                while reader.poll() is None and sent < 60000:
                    process.send_signal(number)
                    sent += 1
            assert reader.returncode == 0
        process.stdin.write("\n")
        process.stdin.flush()
        assert int(process.stdout.readline()) == sent


def readable(stream: IO[bytes] | None) -> int:
    assert stream
    buffer = array.array("i", [0])
    fcntl.ioctl(stream, termios.FIONREAD, buffer)
    return buffer[0]


def test_slow_reader_does_not_hold_the_process(release: pathlib.Path) -> None:
    with filtered("sys.stdin.read()", *[program(4096)] * 7) as process:
        with subprocess.Popen(
            [release / "chrek-enter", "--seccomp", str(process.pid)], stdout=subprocess.PIPE
        ) as reader:
            assert reader.stdout
            container.eventually(lambda: readable(reader.stdout) >= 65536, "the pipe is full")
            assert container.status(process.pid, "TracerPid") == "0"
            assert container.status(process.pid, "State")[0] == "S"
            assert len(reader.stdout.read()) == 4 + 7 * (4 + 8 * 4096)
        assert reader.returncode == 0


def test_process_that_is_traced_already(release: pathlib.Path) -> None:
    """For example by a debugger."""
    tracer = (
        "libc.ptrace(0x4206, int(sys.stdin.readline()), 0, 0)\n"
        "print('traced', flush=True)\n"
        "sys.stdin.read()"
    )
    with filtered("sys.stdin.read()") as process, filtered(tracer) as debugger:
        assert debugger.stdin
        assert debugger.stdout
        debugger.stdin.write(f"{process.pid}\n")
        debugger.stdin.flush()
        assert debugger.stdout.readline() == "traced\n"
        done = subprocess.run(
            [release / "chrek-enter", "--seccomp", str(process.pid)],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 111
        assert done.stderr == b"chrek-enter: PTRACE_SEIZE: Operation not permitted\n"
