"""Facts of the machine, and why CRIU can or cannot run on it."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chrek import facts, procfs
from chrek.criu import check
from chrek.cuda import words
from chrek.standalone import starter
from gpucheck import container, kernel
from showcase import machine

Object = dict[str, Any]
CHECK_SECONDS = 60
PROBE_SECONDS = 60
_GVISOR_BUILD = "#1 SMP Sun Jan 10 15:06:54 PST 2016"
"""What gVisor says of its kernel. Source: google/gvisor, pkg/sentry/syscalls/linux/linux64.go."""
_WITHOUT_GVISOR = (
    "CRIU needs what gVisor does not have (/proc/PID/map_files, ptrace of the kernel's own kind,"
    " TCP_REPAIR): use a machine whose containers run on Linux itself"
)


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a probe reads; tests hand in others."""

    proc: Path = procfs.PROC
    kernel_log: str | None = None
    """None: the kernel's own."""


def gvisor(sight: Sight) -> str:
    """What shows that this is gVisor; empty on Linux itself."""
    version = (sight.proc / "version").read_text(errors="replace").strip()
    if "gvisor" in version.lower() or _GVISOR_BUILD in version:
        return f"/proc/version is {version!r}"
    kernel_log = kernel.log() if sight.kernel_log is None else sight.kernel_log
    line = next((line for line in kernel_log.splitlines() if "gvisor" in line.lower()), "")
    return f"the kernel log says {line.strip()!r}" if line else ""


def kind(sight: Sight) -> str:
    """`gVisor`, `container` or `machine`."""
    if gvisor(sight):
        return "gVisor"
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    if any(mark.exists() for mark in marks):
        return "container"
    return "machine"


def missing_capabilities(effective: int) -> list[str]:
    """Of those that captures and restores need."""
    return [name for name, bit in kernel.CAPABILITIES.items() if not effective >> bit & 1]


def restrictions(sight: Sight) -> list[str]:
    """What keeps this process from what root of a machine can do."""
    found = []
    own = procfs.status(os.getpid())
    if missing := missing_capabilities(own.capabilities["CapEff"]):
        found.append(f"root lacks {', '.join(missing)}: run the container privileged")
    if refused := kernel.ptrace_works():
        found.append(f"ptrace is refused: {refused}")
    if own.seccomp_filters or own.seccomp_mode:
        found.append("a seccomp filter is in force: run the container without one")
    mapped = (sight.proc / "self/uid_map").read_text().split()
    if mapped != ["0", "0", "4294967295"]:
        found.append("root is another user outside: this is a user namespace")
    return found


def container_made(place: container.Place) -> str:
    """Empty if a container can be made; otherwise what the kernel refused."""
    with tempfile.TemporaryDirectory(dir=place.folder, prefix="probe-") as directory:
        for part in ("upper", "work", "root", "chrek"):
            Path(directory, part).mkdir()
        program = (sys.executable, "-c", "print('made')")
        wanted = place.wanted(Path(directory), (), *program)
        try:
            with starter.command(wanted) as (argv, memory):
                done = subprocess.run(
                    argv, env=container.environment(), pass_fds=[memory], stdin=subprocess.DEVNULL,
                    capture_output=True, text=True, timeout=PROBE_SECONDS,
                )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"it was not there after {PROBE_SECONDS} s"
    if done.returncode == 0 and done.stdout.strip() == "made":
        return ""
    return (done.stderr.strip() or f"exit status {done.returncode}")[-1000:]


def criu(sight: Sight, place: container.Place) -> Object:
    """Whether CRIU can run here, and exactly why not.

    Returns:
        `runs`, `version`, `why` (decisive) and `restrictions` (what may explain it).
    """
    why = []
    if mark := gvisor(sight):
        why.append(f"this is gVisor ({mark}). {_WITHOUT_GVISOR}")
    try:
        check.check(place.folder, seconds=CHECK_SECONDS)
    except Exception as err:
        # Whatever a kernel that is not Linux answers: it is why CRIU cannot run.
        why.append(f"criu check: {str(err) or repr(err)}")
    if refused := container_made(place):
        why.append(f"no container can be made: {refused}")
    try:
        noted = restrictions(sight)
    except Exception as err:
        noted = [f"what this process may do is not known: {err!r}"]
    return {"runs": not why, "version": facts.criu_version(), "why": why, "restrictions": noted}


def describe(sight: Sight, node: words.Node, usage: list[words.Usage]) -> Object:
    """The machine that figures were measured on; no GPU is named by its own number."""
    persistence = {used.uuid: used.persistence for used in usage}
    return {
        **machine.facts(None),
        "kind": kind(sight),
        "driver": node.driver,
        "cuda_api": node.api,
        "gpus": [
            {
                "minor": gpu.minor,
                "model": gpu.model,
                "memory_bytes": gpu.memoryBytes,
                "compute_capability": gpu.computeCapability,
                "partitioned": gpu.partitioned,
                "persistence": persistence.get(gpu.uuid, False),
            }
            for gpu in node.gpus
        ],
    }


def available_bytes(sight: Sight) -> int:
    """Of host memory, without swapping."""
    text = (sight.proc / "meminfo").read_text()
    found = re.search(r"^MemAvailable: +(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def library_folder(environment: Mapping[str, str]) -> str:
    """Where the loader of programs finds libcuda.so.1; empty where it does not.

    Another process looks: it would stay loaded in this one.
    """
    code = (
        "import ctypes\n"
        "ctypes.CDLL('libcuda.so.1')\n"
        "print(next(l.split(maxsplit=5)[5] for l in open('/proc/self/maps') if 'libcuda.so' in l))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    return str(Path(done.stdout.strip()).parent) if done.returncode == 0 else ""
