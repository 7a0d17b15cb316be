"""--tree: the seccomp filter, what the worker inherits, and its life without PID 1's help."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pathlib
import signal
import struct
import subprocess

import pytest

from c import container

REPORT = """
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
def call(number):
    ctypes.set_errno(0)
    libc.syscall(number, 1, 0, 0, 0, 0, 0)
    return ctypes.get_errno()
lines = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines()
             if ":\\t" in line)
print(json.dumps({"errors": [call(number) for number in range(425, 428)],
                  "no_new_privs": lines["NoNewPrivs"], "seccomp": lines["Seccomp"],
                  "blocked": lines["SigBlk"], "ignored": lines["SigIgn"]}))
"""


def report(*prefix: str | pathlib.Path) -> dict[str, object]:
    done = subprocess.run(
        [*prefix, *container.PYTHON, REPORT],
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=odd_signals,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def odd_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD, signal.SIGRTMIN})
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def test_io_uring_is_denied(init: pathlib.Path) -> None:
    inside = report(init, "--tree", "--")
    assert inside["errors"] == [errno.EPERM] * 3
    assert inside["no_new_privs"] == "1"
    assert inside["seccomp"] == "2"

    outside = report(init, "--wait", "0", "--socket", "/nowhere", "--")
    assert (
        outside["no_new_privs"]
        == pathlib.Path("/proc/self/status").read_text().split("NoNewPrivs:\t")[1][:1]
    )
    disabled = pathlib.Path("/proc/sys/kernel/io_uring_disabled")
    if not disabled.exists() or disabled.read_text().strip() == "0":
        assert errno.EPERM not in outside["errors"]  # type: ignore[operator]


def test_worker_inherits_mask_and_dispositions(init: pathlib.Path) -> None:
    inside, outside = report(init, "--tree", "--"), report()
    assert inside["blocked"] == outside["blocked"]
    assert inside["ignored"] == outside["ignored"]


def test_mask_option_is_the_workers_mask(init: pathlib.Path) -> None:
    """How PID 1 passes the mask that it inherited, to a tree that starts with all blocked."""
    mask = "0000000300010200"
    assert report(init, "--tree", "--mask", mask, "--")["blocked"] == mask


@pytest.mark.parametrize("code", [0, 1, 42])
def test_exit_code(init: pathlib.Path, code: int) -> None:
    done = subprocess.run([init, "--tree", "--", "sh", "-c", f"exit {code}"], check=False)
    assert done.returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_exit_code_after_a_signal(init: pathlib.Path, number: signal.Signals) -> None:
    done = subprocess.run(
        [init, "--tree", "--", "sh", "-c", f"ulimit -c 0; kill -{int(number)} $$"], check=False
    )
    assert done.returncode == 128 + number


def test_a_child_that_ends_is_not_the_worker(init: pathlib.Path) -> None:
    script = "(setsid sh -c 'sleep 0.05; exit 3' &); sleep 0.2; exit 42"
    done = subprocess.run([init, "--tree", "--", "sh", "-c", script], check=False)
    assert done.returncode == 42


def test_signal_with_a_value(init: pathlib.Path) -> None:
    """sigqueue(3)'s number arrives as well."""
    worker = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {40})\n"
        "print('ready', flush=True)\n"
        "import ctypes; info = (ctypes.c_int * 32)(); mask = ctypes.c_uint64(1 << 39)\n"
        "ctypes.CDLL(None).syscall(128, ctypes.byref(mask), info, None, ctypes.c_size_t(8))\n"
        "print(info[0], info[6])"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("optional: the test knows the number of rt_sigtimedwait on x86_64 only")
    with subprocess.Popen(
        [init, "--tree", "--", *container.PYTHON, worker], stdout=subprocess.PIPE, text=True
    ) as tree:
        assert tree.stdout
        assert tree.stdout.readline() == "ready\n"
        libc = ctypes.CDLL(None)
        assert libc.sigqueue(tree.pid, 40, ctypes.c_void_p(1234)) == 0
        assert tree.stdout.readline() == "40 1234\n"


def test_survives_a_tracers_visit(programs: pathlib.Path) -> None:
    """Its sleep ends with EINTR then, as after CRIU."""
    with subprocess.Popen(
        [programs / "chrek-init", "--tree", "--", "sh", "-c", "sleep 0.3; exit 42"]
    ) as tree:
        for _ in range(5):
            done = subprocess.run(
                [programs / "chrek-enter", "--seccomp", str(tree.pid)],
                stdout=subprocess.DEVNULL,
                check=False,
            )
            assert done.returncode == 0
    assert tree.returncode == 42


Instruction = tuple[int, int, int, int]

X86_64, I386, AARCH64, ARM, RISCV64 = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0xC00000F3
ALLOW, EPERM = 0x7FFF0000, 0x00050001


def interpret(program: list[Instruction], arch: int, number: int) -> int:
    """Runs a classic BPF program on one system call, as the kernel would."""
    data = struct.pack("<II", number, arch)
    accumulator = position = 0
    while True:
        code, yes, no, value = program[position]
        position += 1
        if code == 0x20:  # ld [value]
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:  # and #value
            accumulator &= value
        elif code == 0x06:  # ret #value
            return value
        else:
            jumps = {0x15: accumulator == value, 0x25: accumulator > value}
            jumps[0x35] = accumulator >= value
            position += yes if jumps[code] else no


@pytest.fixture
def tree_filter(release: pathlib.Path, superuser: None) -> list[Instruction]:
    if b"Seccomp:\t0" not in pathlib.Path("/proc/self/status").read_bytes():
        pytest.skip("this machine runs tests under a seccomp filter, so it may not read others")
    with subprocess.Popen(
        [release / "chrek-init", "--tree", "--", "cat"], stdin=subprocess.PIPE
    ) as tree:
        container.eventually(lambda: container.children(tree.pid), "the worker runs")
        done = subprocess.run(
            [release / "chrek-enter", "--seccomp", str(tree.pid)], capture_output=True, check=True
        )
        assert tree.stdin
        tree.stdin.close()
    count, length = struct.unpack_from("<II", done.stdout)
    assert count == 1
    assert len(done.stdout) == 8 + 8 * length
    return list(struct.iter_unpack("<HBBI", done.stdout[8:]))


@pytest.mark.parametrize("arch", [X86_64, I386, AARCH64, ARM])
def test_filter_denies(tree_filter: list[Instruction], arch: int) -> None:
    for number in (425, 426, 427):
        assert interpret(tree_filter, arch, number) == EPERM
        assert interpret(tree_filter, arch, number | 0x40000000) == EPERM, "x32"


@pytest.mark.parametrize("arch", [X86_64, I386, AARCH64, ARM, RISCV64])
def test_filter_allows(tree_filter: list[Instruction], arch: int) -> None:
    for number in (0, 1, 424, 428, 2**30 - 1, 2**30, 2**30 + 424, 2**31 + 425, 2**32 - 1):
        assert interpret(tree_filter, arch, number) == ALLOW
