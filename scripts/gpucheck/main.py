"""What scripts/gpu-check does on the machine with a GPU."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import chrek
from chrek import errors as chrek_errors
from chrek.cuda import client, words
from gpucheck import (
    container,
    direct,
    kernel,
    limits,
    machine,
    plan,
    report,
    rounds,
    workload,
)
from showcase import commands, errors

Object = dict[str, Any]
OK, NOT_VERIFIED, NO_DRIVER, NO_CRIU, NOT_ROOT = 0, 1, 3, 4, 5
INTERRUPTED = 130
UPPER_BYTES = 2 << 30
"""Of changes of root file systems, where they are kept in memory."""


def main(given: argparse.Namespace) -> int:
    """The whole program; returns its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    # What containers must show: this Python and its packages, and the workers.
    seen = [Path(os.environ[name]) for name in ("CHREK_GPU_CHECK_SEEN",) if name in os.environ]
    try:
        return _run(given, [*seen, commands.ROOT])
    except errors.ShowError as err:
        sys.stderr.write(f"error: {err}\n")
        return NOT_VERIFIED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


class UnusableError(errors.ShowError):
    """There is a driver, and no GPU that it could be tried with."""


def _interrupt(number: int, _frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _run(given: argparse.Namespace, seen: Sequence[Path]) -> int:
    began = time.monotonic()
    if os.geteuid() != 0:
        sys.stderr.write(
            "error: not root\n  hint: use sudo: containers, ptrace and mounts need it\n"
        )
        return NOT_ROOT
    base = _folder(given.folder, "--folder")
    if given.output:
        _folder(given.output.absolute().parent, "--output")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=base, prefix="chrek-")))
        helper = _helper(folder / "driver")
        if helper is None:
            sys.stderr.write(
                "error: no NVIDIA driver: libcuda.so.1 and libnvidia-ml.so.1 were not found\n"
                "  hint: name their folder in LD_LIBRARY_PATH, or install the driver\n"
            )
            return NO_DRIVER
        stack.callback(helper.close)
        check = Check(given, folder, helper, began)
        try:
            check.look(stack.enter_context(_place(folder, seen)))
        except UnusableError as err:
            sys.stderr.write(f"error: {err}\n")
            return NO_DRIVER
        try:
            check.work()
        finally:
            # Also of what was interrupted: an hour of measurements is not thrown away.
            check.write()
            print(report.render(check.report))
    return exit_status(check.report)


def exit_status(found: Object) -> int:
    """0 only if everything that ran was verified, and CRIU was part of it."""
    if not found["verified"]:
        return NOT_VERIFIED
    return OK if found["criu"]["runs"] else NO_CRIU


def _folder(folder: Path, option: str) -> Path:
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise errors.ShowError(
            f"{folder}: no folder that can be written", hint=f"name another one with {option}"
        )
    return folder.resolve()


def _helper(scratch: Path) -> client.Helper | None:
    """Who speaks to the driver; None where there is no driver."""
    helper = client.Helper(scratch=scratch)
    if helper.available():
        return helper
    # Programs may find one by the loader's cache, in a folder that nobody else knows.
    found = machine.library_folder(os.environ)
    if not found:
        return None
    before = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = f"{found}:{before}" if before else found
    helper = client.Helper(scratch=scratch)
    return helper if helper.available() else None


@contextlib.contextmanager
def _place(folder: Path, seen: Sequence[Path]) -> Iterator[container.Place]:
    """Where containers keep their changes: on the disk, or in memory if overlayfs wants it so."""
    # Their GPUs are those of their device files, whatever this process was given.
    hidden = ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    chosen = folder / "containers"
    chosen.mkdir()
    place = container.Place(folder=chosen, seen=seen, devices=Path("/dev"), environment=environment)
    if container.stacked():
        lower = folder / "lower"
        lower.mkdir()
        place = dataclasses.replace(place, lower=str(lower), folders=container.skeleton(lower))
    with contextlib.ExitStack() as stack:
        if machine.container_made(place):
            # Where not even this is allowed, the next look says so.
            with contextlib.suppress(OSError):
                memory = stack.enter_context(kernel.memory(folder / "changes", UPPER_BYTES))
                place = dataclasses.replace(place, folder=memory)
        yield place


class Check:
    """One run, and its report."""

    def __init__(
        self, given: argparse.Namespace, folder: Path, helper: client.Helper, began: float
    ) -> None:
        self._options = given
        self._folder = folder
        self._helper = helper
        self._sight = machine.Sight()
        self._clock = plan.Clock(lambda: began + given.budget - time.monotonic())
        self._node: words.Node
        self._rig: rounds.Rig
        self.report: Object = {
            "what": "gpu-check",
            "version": 1,
            "chrek": chrek.__version__,
            "options": {
                "quick": given.quick,
                "sizes": given.sizes,
                "repeat": given.repeat,
            },
            "machine": {},
            "criu": {},
            "packages": {},
            "limits": {},
            "direct": None,
            "rounds": [],
            "skipped": [],
            "figures": {},
            "verified": False,
        }

    def look(self, place: container.Place) -> None:
        """Learn about the machine.

        Raises:
            UnusableError: it has no GPU that can be used.
        """
        commands.say("looking at the machine")
        try:
            self._helper.start()
            self._node = self._helper.node()
            usage = self._helper.usage()
        except chrek_errors.GpuError as err:
            raise UnusableError(f"the driver cannot be used: {err}") from err
        self.report["machine"] = machine.describe(self._sight, self._node, usage)
        if not any(not gpu.partitioned for gpu in self._node.gpus):
            raise UnusableError("no GPU is whole: MIG is on for each")
        side = rounds.Side(place, self._helper)
        self._rig = rounds.Rig(self._folder, side, side)
        self.report["criu"] = found = machine.criu(self._sight, place)
        for gpu in self._node.gpus:
            commands.say(f"GPU {gpu.minor}: {gpu.model}, {gpu.memoryBytes >> 20} MiB")
        commands.say(f"driver {self._node.driver}, kernel {platform.release()}")
        for why in found["why"]:
            commands.say(f"CRIU cannot run: {why}")
        for why in found["restrictions"]:
            commands.say(f"note: {why}")

    def work(self) -> None:
        """Measure and compare; the report grows with each round."""
        works = self._works()
        sizes = [int(size * rounds.GIBIBYTE) // 4096 * 4096 for size in self.sizes]
        gpus = [gpu for gpu in self._node.gpus if not gpu.partitioned]
        wanted = plan.rounds_of(works, sizes, gpus, repeat=self._options.repeat)
        if not self.report["criu"]["runs"]:
            self.skip("captures and restores", "CRIU cannot run here")
            wanted = []
        # The first round of each kind comes before what explains the figures.
        first = len(works) if wanted else 0
        for one in wanted[:first]:
            self._round(one)
        self._direct(min(sizes))
        commands.say("limits of the machine")
        self.report["limits"] |= limits.measure(self._folder, min(sizes))
        self.write()
        for one in wanted[first:]:
            self._round(one)

    @property
    def sizes(self) -> list[float]:
        """In GiB."""
        found: list[float] = self.report["options"]["sizes"]
        return found

    def skip(self, what: str, why: str) -> None:
        """Say that something is not done, and why."""
        commands.say(f"SKIPPED {what}: {why}")
        self.report["skipped"].append({"what": what, "why": why})

    def write(self) -> None:
        """What is known so far goes to --output."""
        report.finish(self.report)
        if self._options.output:
            report.write(self.report, self._options.output)

    def _works(self) -> list[workload.Workload]:
        only = self._options.only
        found = [workload.driver()] if "driver" in only else []
        if not {"torch", "model"} & set(only):
            return found
        python = shutil.which(self._options.python)
        try:
            known = workload.packages(python, "torch", "transformers") if python else {}
        except (OSError, subprocess.SubprocessError) as err:
            commands.say(f"{python}: {err}")
            known = {}
        self.report["packages"] = known
        unusable = ""
        if python and "torch" in known:
            commands.say(f"torch {known['torch']}: is it for this GPU?")
            unusable = workload.torch_sees_no_gpu(python)
        for name, package, make in (
            ("torch", "torch", workload.torch),
            ("model", "transformers", workload.model),
        ):
            if name not in only:
                continue
            missing = [one for one in {"torch", package} if one not in known]
            if unusable and not missing:
                self.skip(name, f"torch cannot use the GPU: {unusable}")
            elif python and not missing:
                found.append(make(python))
            else:
                why = f"{self._options.python} has no {' and no '.join(sorted(missing))}"
                self.skip(name, f"{why}; name another Python with --python")
        return found

    def _round(self, wanted: rounds.Wanted) -> None:
        gpus = self._node.gpus
        usage = self._helper.usage()
        why = plan.no_room(wanted, usage, gpus, self._folder, self._sight)
        if why := why or self._clock.no_time(wanted):
            self.skip(wanted.title, why)
            return
        commands.say(wanted.title)
        found = rounds.run(self._rig, wanted)
        self._clock.note(wanted, found["round_seconds"])
        if not found["verified"]:
            commands.say(f"NOT VERIFIED {wanted.title}: {report.wrong(found).splitlines()[0]}")
        self.report["rounds"].append(found)
        self.write()

    def _direct(self, size: int) -> None:
        commands.say("the driver on a live process, without CRIU")
        found = direct.run(self._helper, workload.driver(), size, self._options.repeat)
        self.report["direct"] = found
        self.report["limits"] |= {
            name: round(rate, 3) for name, rate in found.pop("bandwidth", {}).items()
        }
        self.write()
