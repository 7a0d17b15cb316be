"""Processes that use CUDA by the stand-in for libcuda: a context, device memory with a pattern."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from gpu.standin import build

GPU_BYTES = 64 << 20
PROGRAM = """
import ctypes, hashlib, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *args):
    code = getattr(cuda, name)(*args)
    if code:
        sys.exit(f"{name}: {code}")
device, size, seed = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
context, address, count = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_int()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
pattern = hashlib.shake_256(seed).digest(size)
call("cuMemcpyHtoD_v2", address, pattern, ctypes.c_size_t(size))
print("ready", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "digest":
        data = ctypes.create_string_buffer(size)
        call("cuMemcpyDtoH_v2", data, address, ctypes.c_size_t(size))
        print(hashlib.sha256(data.raw).hexdigest(), flush=True)
    elif word == "uuid":
        raw = ctypes.create_string_buffer(16)
        call("cuDeviceGetUuid_v2", raw, device)
        print(raw.raw.hex(), flush=True)
    elif word == "synchronize":
        print("synchronizing", flush=True)
        call("cuCtxSynchronize")
        print("synchronized", flush=True)
    elif word == "managed":
        more = ctypes.c_uint64()
        call("cuMemAllocManaged", ctypes.byref(more), ctypes.c_size_t(4096), 1)
        print("has managed memory", flush=True)
"""


class Worker:
    """One such process. Use as a context manager."""

    def __init__(
        self, node: build.Node, libraries: pathlib.Path, *, device: int = 0, size: int = 1 << 20
    ) -> None:
        self.size = size
        self._seed = f"{node.path}/{device}/{size}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(device), str(size), self._seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **node.environment(libraries)},
        )
        self.pid = self._process.pid

    def __enter__(self) -> Worker:
        if (said := self._read()) != "ready":
            self.kill()
            raise AssertionError(f"the worker is not ready: {said!r}")
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, word: str) -> str:
        self.tell(word)
        return self._read()

    def tell(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def intact(self) -> bool:
        """Whether its device memory holds what it wrote there."""
        pattern = hashlib.shake_256(self._seed.encode()).digest(self.size)
        return self.ask("digest") == hashlib.sha256(pattern).hexdigest()


class Machine:
    """A node of stand-ins: what a helper of `chrek.cuda` and workers are started on."""

    def __init__(
        self, path: pathlib.Path, gpus: int | Sequence[build.Gpu] = 2, **options: object
    ) -> None:
        self.libraries = build.build()
        if isinstance(gpus, int):
            gpus = [
                build.Gpu(minor=n, uuid=build.gpu_uuid(f"{path.name}/{n}"), bytes=GPU_BYTES)
                for n in range(gpus)
            ]
        self.node = build.Node(path, gpus, **options)

    def worker(self, **options: int) -> Worker:
        return Worker(self.node, self.libraries, **options)


def reap() -> None:
    """Wait for the dead children that other tests of this process have left: nothing tells them
    from a helper that has just died."""
    for task in pathlib.Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for pid in map(int, (task / "children").read_text().split()):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def helpers(parent: int) -> list[int]:
    """PIDs of the helper processes that a process has started, also of the dying and the dead."""
    found = []
    for task in pathlib.Path(f"/proc/{parent}/task").iterdir():
        # Threads and children end while they are looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = (task / "children").read_text().split()
            found += [int(pid) for pid in children if _is_helper(pid)]
    return found


def _is_helper(pid: str) -> bool:
    try:
        line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Who dies has none any more.
    return not line or b"chrek.cuda.helper" in line
