"""The workers: which program, by which Python, with what on the GPU."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from showcase import errors

Object = dict[str, Any]
PORT = 8000
"""In a container, which has a network of its own."""
READY = "worker ready "
START_SECONDS = 300
"""Until a worker is ready: torch may be read from a slow disk, and the memory is filled."""
TORCH_SECONDS = 180
"""For the import of torch from a disk that is slow and cold."""
_PROGRAMS = Path(__file__).resolve().parent / "workers"


@dataclasses.dataclass(frozen=True)
class Workload:
    """One kind of worker."""

    name: str
    program: str
    python: str
    device: str = "cuda"
    """What torch puts its data on."""
    interpreter_options: tuple[str, ...] = ()

    def argv(self, device_bytes: int, port: int = PORT) -> list[str]:
        """Its command line; port 0 takes any and tells."""
        options = json.dumps({"bytes": device_bytes, "port": port, "device": self.device})
        return [self.python, *self.interpreter_options, str(_PROGRAMS / self.program), options]


def driver() -> Workload:
    """Needs the driver alone: this Python runs it."""
    return Workload("driver", "driver.py", sys.executable, interpreter_options=("-B",))


def torch(python: str, device: str = "cuda") -> Workload:
    return Workload("torch", "torch_tensors.py", python, device, ("-B", "-u"))


def model(python: str, device: str = "cuda") -> Workload:
    return Workload("model", "model.py", python, device, ("-B", "-u"))


def wait_until_ready(
    output: Callable[[], str], ended: Callable[[], bool], seconds: float = START_SECONDS
) -> Object:
    """What a worker says of itself once its data is on the GPU.

    Args:
        output: all that it has written.
        ended: whether it has ended.

    Raises:
        ShowError: it ended, or is not ready in time; its last words are in the message.
    """
    until = time.monotonic() + seconds
    while True:
        over = ended()
        for line in output().splitlines(keepends=True):
            if line.startswith(READY) and line.endswith("\n"):
                facts: Object = json.loads(line.removeprefix(READY))
                return facts
        if over or time.monotonic() > until:
            why = "the worker ended" if over else f"the worker was not ready in {seconds:g} s"
            raise errors.ShowError(f"{why}: {output().strip()[-2000:]}")
        time.sleep(0.02)


def packages(python: str, *names: str) -> dict[str, str]:
    """Versions of the packages that a Python has, of those named; nothing of them is run.

    Raises:
        OSError: there is no such Python.
        subprocess.SubprocessError: it does not work.
    """
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [python, "-c", code, *names], capture_output=True, text=True, timeout=60, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def torch_sees_no_gpu(python: str) -> str:
    """Why torch cannot use the GPU, in that Python's words; empty if it can."""
    code = (
        "import sys, torch\n"
        "if not torch.version.cuda: sys.exit(f'torch {torch.__version__} is built without CUDA')\n"
        "torch.cuda.init()"
    )
    try:
        done = subprocess.run(
            [python, "-B", "-c", code],
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"import torch was not over after {TORCH_SECONDS} s"
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return said[-1] if done.returncode else ""
