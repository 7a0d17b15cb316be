"""What `scripts/bench restore` measures: captures and restores of workers of several sizes.

In containers of this machine, each measured beside CRIU by hand in the same run, in turns, and
beside what the machine can do at all. No cluster is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chrek import checkpoint, digest, log, names, procfs, restore
from chrek import store as stores
from showcase import commands, errors, sandbox, stock

Object = dict[str, Any]
LOG = log.get(__name__)
HASH, VARIANT = "0123456789abcdef", "aaaa"
ROOT_PID = names.FIRST_WORKER_PID + 1
GIBIBYTE = 1 << 30
FROZEN_AIM = RESTORE_AIM = (1.05, 0.07)
"""Of CRIU by hand: a factor and seconds on top."""
LIMIT_AIM = 0.85
SETTLE_SECONDS = 3
"""For what the file system does of itself after files were deleted, such as telling the disk."""
WORKER = """
import mmap, os, socket, sys
size, block = int(sys.argv[1]), os.urandom(1 << 20)
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, size, len(block)):
    part = min(len(block), size - at)
    memory[at : at + part] = block[:part]
server = socket.create_server(("127.0.0.1", 8000))
print("worker ready", flush=True)
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rw") as stream:
        at = int(stream.readline())
        stream.write(f"{memory[at] == block[at % len(block)]}\\n")
"""


class Rig:
    """A folder on a disk, with containers in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = stores.Store(folder / "checkpoints")
        self._count = 0

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    @contextlib.contextmanager
    def source(self, size_bytes: int) -> Iterator[sandbox.Container]:
        """A worker that is ready to be captured."""
        argv = ("--source", "--", "python3", "-c", WORKER, str(size_bytes))
        name = self._name("source")
        try:
            with sandbox.container(self.folder, name, *argv) as made:
                made.start_worker()
                made.wait_for("worker ready", seconds=600)
                yield made
        finally:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    @contextlib.contextmanager
    def target(self) -> Iterator[sandbox.Container]:
        """A container that waits for a restore."""
        name = self._name("target")
        try:
            with sandbox.container(self.folder, name, "--wait", "600", "--", "false") as made:
                made.receive()
                made.send(f"restoring 600 {ROOT_PID} exit")
                yield made
        finally:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        with sandbox.tmpfs(self.folder / self._name("staging")) as path:
            yield path / "one"


def measure(sizes: Sequence[float], repeat: int) -> Object:
    """All figures, by size."""
    found = []
    base = commands.cache() / "bench"
    base.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as folder:
        for gibibytes in sizes:
            commands.say(f"{gibibytes:g} GiB")
            found.append(_of_size(Rig(Path(folder)), int(gibibytes * GIBIBYTE), repeat))
    base.rmdir()
    return {"load_average": os.getloadavg(), "sizes": found, "figures": headline(found)}


def _of_size(rig: Rig, size: int, repeat: int) -> Object:
    ours: list[Object] = []
    by_hand: list[Object] = []
    artifacts: list[stores.Artifact] = []
    rounds = min(repeat, 3) if size > 2 * GIBIBYTE else repeat

    def one_of_ours() -> None:
        made, artifact = _capture(rig, size)
        ours.append(made)
        artifacts[:] = [artifact]

    def one_by_hand() -> None:
        by_hand.append(_capture_by_hand(rig, size))

    for number in range(rounds):
        # The second of a pair finds the disk as the first left it: they take turns.
        pair = (one_of_ours, one_by_hand)
        for capture in pair if number % 2 == 0 else reversed(pair):
            if capture is one_of_ours:
                for old in artifacts:
                    shutil.rmtree(old.path)
            os.sync()
            time.sleep(SETTLE_SECONDS)
            capture()
    (artifact,) = artifacts
    warm: list[Object] = []
    cold: list[Object] = []
    for _ in range(repeat):
        warm.append(_pair(rig, artifact, size, cold=False))
        cold.append(_pair(rig, artifact, size, cold=True))
    limits = _limits(artifact, size)
    shutil.rmtree(artifact.path)
    return _summary(size, ours, by_hand, warm, cold, limits)


def _capture(rig: Rig, size: int) -> tuple[Object, stores.Artifact]:
    """As the agent does it, of a worker that serves on; how long it was frozen, and all of it."""
    with rig.source(size) as source:
        source.send("dumping")
        (root,) = procfs.children(source.pid)
        wanted = checkpoint.Capture(
            init_pid=source.pid, root_pid=root, identity_hash=HASH, variant=VARIANT,
            timeout_seconds=1800, leave_running=True,
        )  # fmt: skip
        resumed: list[float] = []
        began = time.monotonic()
        done = checkpoint.capture(
            wanted, rig.store, LOG, on_resumed=lambda: resumed.append(time.monotonic())
        )
        total = time.monotonic() - began
    steps = done.manifest.steps
    made = {
        "frozen": steps["dump"] + steps["files"],
        "until_it_runs": resumed[0] - began,
        "commit": total,
        "steps": steps,
        "bytes": done.manifest.bytes,
    }
    return made, rig.store.open(HASH, VARIANT, done.manifest.uuid, done.digest)


def _capture_by_hand(rig: Rig, size: int) -> Object:
    images = rig.folder / "by-hand"
    images.mkdir()
    try:
        with rig.source(size) as source:
            dumped = stock.dump(source.pid, ROOT_PID, images)
        began = time.monotonic()
        with digest.Pool() as pool:
            for path in images.iterdir():
                with path.open("rb") as file:
                    pool.chunks(file.fileno(), path.stat().st_size)
        os.sync()
        return {"dump": dumped, "commit": dumped + time.monotonic() - began}
    finally:
        shutil.rmtree(images)


def _pair(rig: Rig, artifact: stores.Artifact, size: int, *, cold: bool) -> Object:
    """One restore by hand and one of ours, each after the same preparation."""
    prepare(artifact, cold=cold)
    hand = _restore_by_hand(rig, artifact, size)
    prepare(artifact, cold=cold)
    return {"by_hand": hand, "ours": _restore(rig, artifact, size)}


def _restore(rig: Rig, artifact: stores.Artifact, size: int) -> Object:
    with rig.target() as target, rig.staging() as staging:
        before = resource.getrusage(resource.RUSAGE_SELF)
        done = restore.restore(artifact, target.pid, staging, LOG, volumes={}, timeout_seconds=600)
        used = resource.getrusage(resource.RUSAGE_SELF)
        target.send("restored")
        _assert_answers(target, size)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": done.total_seconds, "steps": done.seconds, "agent_cpu_seconds": cpu}


def _restore_by_hand(rig: Rig, artifact: stores.Artifact, size: int) -> float:
    images = artifact.path / stores.IMAGES
    with rig.target() as target, contextlib.ExitStack() as stack:
        inherit = {}
        for number, name in enumerate(artifact.manifest.stdio):
            if name.startswith("pipe:"):
                fd = os.open(f"/proc/{target.pid}/fd/{number}", os.O_WRONLY)
                stack.callback(os.close, fd)
                inherit[name] = fd
        seconds = stock.restore(target.pid, images, inherit)
        _assert_answers(target, size)
    for left in ("restore.log", "stats-restore"):
        (images / left).unlink(missing_ok=True)
    return seconds


def _assert_answers(target: sandbox.Container, size: int) -> None:
    for at in (0, size // 2, size - 1):
        if target.request(str(at)) != "True":
            raise errors.ShowError(f"byte {at} of the restored memory is not what it was")


def prepare(artifact: stores.Artifact, *, cold: bool) -> None:
    """Have the artifact in the page cache, or on the disk alone."""
    for path in artifact.path.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                if cold:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    while file.read(16 << 20):
                        pass


def _limits(artifact: stores.Artifact, size: int) -> Object:
    """What this machine can do at all: read these files, and touch so much memory first."""
    pages = [p for p in artifact.path.rglob("pages-*.img")]
    found: Object = {}
    for name, cold in (("read_cold", True), ("read_warm", False)):
        prepare(artifact, cold=cold)
        buffer = mmap.mmap(-1, 4 << 20)
        buffer.write(bytes(len(buffer)))
        began = time.monotonic()
        for path in pages:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        found[name] = time.monotonic() - began
    for name, advice in (
        ("first_touch", mmap.MADV_NOHUGEPAGE),
        ("first_touch_huge", mmap.MADV_HUGEPAGE),
    ):
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        began = time.monotonic()
        ctypes.memset(start, 1, size)
        found[name] = time.monotonic() - began
    return found


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4)


def _summary(
    size: int,
    ours: list[Object],
    by_hand: list[Object],
    warm: list[Object],
    cold: list[Object],
    limits: Object,
) -> Object:
    def restored(pairs: list[Object]) -> Object:
        chosen = sorted(pairs, key=lambda pair: pair["ours"]["seconds"])[len(pairs) // 2]
        return {
            "ours_seconds": _median([pair["ours"]["seconds"] for pair in pairs]),
            "by_hand_seconds": _median([pair["by_hand"] for pair in pairs]),
            "all_ours": [round(pair["ours"]["seconds"], 4) for pair in pairs],
            "all_by_hand": [round(pair["by_hand"], 4) for pair in pairs],
            "agent_cpu_seconds": _median([pair["ours"]["agent_cpu_seconds"] for pair in pairs]),
            "steps_of_the_median": chosen["ours"]["steps"],
        }

    return {
        "gibibytes": size / GIBIBYTE,
        "artifact_bytes": ours[-1]["bytes"],
        "capture": {
            "frozen_seconds": _median([one["frozen"] for one in ours]),
            "frozen_by_hand_seconds": _median([one["dump"] for one in by_hand]),
            "commit_seconds": _median([one["commit"] for one in ours]),
            "commit_by_hand_seconds": _median([one["commit"] for one in by_hand]),
            "steps": ours[-1]["steps"],
        },
        "restore_warm": restored(warm),
        "restore_cold": restored(cold),
        "limits_seconds": {name: round(value, 4) for name, value in limits.items()},
    }


def headline(sizes: Sequence[Object]) -> list[Object]:
    """The figures that the aims are about, by size."""
    found = []
    for one in sizes:
        capture, warm, cold = one["capture"], one["restore_warm"], one["restore_cold"]
        limits = one["limits_seconds"]
        limit = max(limits["read_warm"], limits["first_touch"])
        found.append(
            {
                "gibibytes": one["gibibytes"],
                "frozen_of_by_hand": _ratio(
                    capture["frozen_seconds"], capture["frozen_by_hand_seconds"], FROZEN_AIM
                ),
                "commit_of_by_hand": round(
                    capture["commit_seconds"] / capture["commit_by_hand_seconds"], 3
                ),
                "restore_warm_of_by_hand": _ratio(
                    warm["ours_seconds"], warm["by_hand_seconds"], RESTORE_AIM
                ),
                "restore_cold_of_by_hand": round(cold["ours_seconds"] / cold["by_hand_seconds"], 3),
                "limit_of_restore_warm": round(limit / warm["ours_seconds"], 3),
                "limit_aim_met": limit / warm["ours_seconds"] >= LIMIT_AIM,
            }
        )
    return found


def _ratio(ours: float, by_hand: float, aim: tuple[float, float]) -> Object:
    factor, more = aim
    return {
        "ratio": round(ours / by_hand, 3),
        "more_seconds": round(ours - by_hand, 4),
        "aim_met": ours <= factor * by_hand + more,
    }
