"""One round: a worker is captured with the agent's functions, killed, restored, and compared."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from chrek import checkpoint, log, names, procfs, restore
from chrek import errors as chrek_errors
from chrek import store as stores
from chrek.cuda import client
from chrek.cuda import gpus as devices
from gpucheck import container, kernel, workload
from showcase import errors

Object = dict[str, Any]
LOG = log.get(__name__)
HASH, VARIANT = "0123456789abcdef", "aaaa"
ROOT_PID = names.FIRST_WORKER_PID + 1
GIBIBYTE = 1 << 30
TIMEOUT_SECONDS = 900
STAGING_BYTES = 8 << 30
"""At most, of small files; what is not used of it takes no memory."""
EXPECTED = (
    chrek_errors.ChrekError,
    errors.ShowError,
    OSError,
    AssertionError,
    ValueError,
    subprocess.SubprocessError,
)
"""What goes wrong with a round, and not with this program."""


@dataclasses.dataclass(frozen=True)
class Side:
    """Where a container runs, and who speaks to the driver there."""

    place: container.Place
    helper: client.Helper

    @property
    def gpus(self) -> devices.Gpus:
        return devices.Gpus(self.helper)


class Rig:
    """A folder for artifacts, and both sides of a capture; on one machine they are the same."""

    def __init__(self, folder: Path, source: Side, target: Side) -> None:
        self.folder = folder
        self.store = stores.Store(folder / "checkpoints")
        self.source = source
        self.target = target
        self._count = 0

    @contextlib.contextmanager
    def container(
        self, side: Side, kind: str, minors: Sequence[int], *argv: str
    ) -> Iterator[container.Container]:
        """A container whose folder goes with it."""
        self._count += 1
        name = f"{kind}-{self._count}"
        try:
            with container.running(side.place, name, minors, *argv) as made:
                yield made
        finally:
            shutil.rmtree(side.place.folder / name, ignore_errors=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """One round."""

    work: workload.Workload
    device_bytes: int
    source_gpus: Sequence[int]
    """Minor numbers."""
    target_gpus: Sequence[int]
    goes_on: bool = False
    """The captured worker first serves on, and is checked, before it is killed."""

    @property
    def title(self) -> str:
        text = f"{self.work.name} {self.device_bytes / GIBIBYTE:.3g} GiB"
        moved = list(self.source_gpus) != list(self.target_gpus)
        return f"{text}, other GPU" if moved else text


def run(rig: Rig, wanted: Wanted) -> Object:
    """Do one; what goes wrong is in its result."""
    found: Object = {
        "workload": wanted.work.name,
        "gibibytes": wanted.device_bytes / GIBIBYTE,
        "source_gpus": list(wanted.source_gpus),
        "target_gpus": list(wanted.target_gpus),
        "verified": False,
    }
    began = time.monotonic()
    try:
        artifact = _capture(rig, wanted, found)
        try:
            _restore(rig, wanted, artifact, found)
        finally:
            shutil.rmtree(artifact.path, ignore_errors=True)
        found["verified"] = _verdict(wanted, found)
    except EXPECTED as err:
        found["error"] = describe(err)
    found["round_seconds"] = round(time.monotonic() - began, 3)
    return found


def _verdict(wanted: Wanted, found: Object) -> bool:
    """Whether all bytes are right, and the GPU had to do with it.

    Raises:
        ShowError: no process of the worker was found to use CUDA.
    """
    if wanted.work.device == "cuda" and not found["capture"]["gpu_processes"]:
        raise errors.ShowError("the driver did not say that the worker uses CUDA")
    answers: list[Object] = [found["restored"], found.get("went_on", {"verified": True})]
    return all(answer["verified"] for answer in answers)


def describe(err: BaseException) -> str:
    """The message, and CRIU's log where it is CRIU's."""
    text = str(err) or repr(err)
    if isinstance(err, chrek_errors.ToolError) and err.log:
        text += "\n" + err.log
    return text[-6000:]


def _capture(rig: Rig, wanted: Wanted, found: Object) -> stores.Artifact:
    argv = ("--source", "--", *wanted.work.argv(wanted.device_bytes))
    with rig.container(rig.source, "source", wanted.source_gpus, *argv) as source:
        began = time.monotonic()
        source.start_worker()
        found["worker"] = source.wait_until_ready()
        found["start_seconds"] = round(time.monotonic() - began, 3)
        source.send("dumping")
        (root,) = procfs.children(source.pid)
        asked = checkpoint.Capture(
            init_pid=source.pid, root_pid=root, identity_hash=HASH, variant=VARIANT,
            timeout_seconds=TIMEOUT_SECONDS, leave_running=wanted.goes_on,
        )  # fmt: skip
        began = time.monotonic()
        done = checkpoint.capture(asked, rig.store, LOG, gpus=rig.source.gpus)
        seconds = {**done.manifest.steps, "total": round(time.monotonic() - began, 6)}
        state = done.manifest.gpu
        found["capture"] = {
            "seconds": seconds,
            "artifact_bytes": done.manifest.bytes,
            "gpu_processes": 0 if state is msgspec.UNSET else len(state.processes),
            "gpu_bytes": 0 if state is msgspec.UNSET else sum(p.bytes for p in state.processes),
        }
        artifact = rig.store.open(HASH, VARIANT, done.manifest.uuid, done.digest)
        if wanted.goes_on:
            try:
                found["went_on"] = json.loads(source.ask("check"))
            except BaseException:
                shutil.rmtree(artifact.path, ignore_errors=True)
                raise
    return artifact


def _restore(rig: Rig, wanted: Wanted, artifact: stores.Artifact, found: Object) -> None:
    waiting = ("--wait", str(TIMEOUT_SECONDS), "--", "/bin/false")
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(
            rig.container(rig.target, "target", wanted.target_gpus, *waiting)
        )
        staging = stack.enter_context(kernel.memory(rig.folder / "staging", STAGING_BYTES))
        target.receive()
        target.send(f"restoring {TIMEOUT_SECONDS} {ROOT_PID} exit")
        done = restore.restore(
            artifact, target.pid, staging / "one", LOG,
            volumes={}, timeout_seconds=TIMEOUT_SECONDS, gpus=rig.target.gpus,
        )  # fmt: skip
        target.send("restored")
        seconds = {**done.seconds, "total": done.total_seconds}
        found["restore"] = {"seconds": seconds, "own_seconds": own_seconds(seconds)}
        found["restored"] = json.loads(target.ask("check"))


def own_seconds(seconds: dict[str, float]) -> float:
    """What a restore takes beside CRIU and the CUDA driver."""
    others = ("criu", "gpu_restore", "gpu_unlock")
    return round(seconds["total"] - sum(seconds.get(name, 0.0) for name in others), 6)
