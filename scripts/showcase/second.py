"""What a second checkpoint of a worker costs: how much of it a store has not got already.

Workers of the example's image, one after the other, each in a container of its own and with
addresses of its own, are captured to this machine's disk. One goes up to an empty prefix of an S3
server, then another one: the store has the first one's chunks. No cluster is needed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chrek import checkpoint, log
from chrek import store as stores
from showcase import commands, errors, restores, rootfs, sandbox, transfers

Object = dict[str, Any]
LOG = log.get(__name__)
AIM = 0.13
"""Of what the first sent."""
READY_SECONDS = 600
STATE_PORT = 8001


def measure(repeat: int) -> Object:
    """One first checkpoint, and so many second ones.

    Raises:
        ShowError: a worker or a transfer failed.
    """
    image = rootfs.example()
    runs = []
    with tempfile.TemporaryDirectory(dir=commands.cache(), prefix="bench-") as temporary:
        folder = Path(temporary)
        with transfers.server(folder) as host:
            first = capture(image, folder, "first")
            for number in range(1, repeat + 1):
                second = capture(image, folder, f"second-{number}")
                runs.append(_pair(folder, host, first, second))
                shutil.rmtree(second.path)
    return {"load_average": os.getloadavg(), "runs": runs, "figures": headline(runs)}


def capture(image: rootfs.Image, folder: Path, name: str) -> stores.Artifact:
    """Start a worker, wait until it is ready and capture it as a checkpoint job's is.

    Raises:
        ShowError: its probe does not say that it is ready.
    """
    commands.say(f"{name}: starting a worker")
    store = stores.Store(folder / "checkpoints")
    try:
        with sandbox.container(
            folder,
            name,
            "--source",
            "--",
            *image.command,
            user=image.user,
            before=("env", *image.environment),
            lower=image.root,
        ) as made:
            root = made.start_worker()
            made.wait_for("ready after", seconds=READY_SECONDS)
            answer = made.request("GET /health HTTP/1.0\r\n\r", port=STATE_PORT)
            if " 200 " not in answer:
                raise errors.ShowError(f"{name}: the worker's probe says {answer!r}")
            made.send("dumping")
            wanted = checkpoint.Capture(
                init_pid=made.pid, root_pid=root,
                identity_hash=restores.HASH, variant=restores.VARIANT,
            )  # fmt: skip
            done = checkpoint.capture(
                wanted, store, LOG, on_committed=lambda _: made.send("committed")
            )
            made.wait()
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)
    return store.open(restores.HASH, restores.VARIANT, done.manifest.uuid, done.digest)


def _pair(folder: Path, host: str, first: stores.Artifact, second: stores.Artifact) -> Object:
    """Both to a prefix in which there is nothing.

    `sent_bytes` are chunks, `stored_bytes` also the tables that say where they lie.
    """
    settings = transfers.storage_at(folder, host, "second")
    found: Object = {}
    before = 0
    try:
        for name, artifact in (("first", first), ("second", second)):
            sent = transfers.child("up", folder, artifact, settings, name=f"-{name}")
            after = _bytes_in(folder)
            found[name] = {
                "artifact_bytes": artifact.manifest.bytes,
                "sent_bytes": sent["moved_bytes"],
                "stored_bytes": after - before,
                "seconds": sent["seconds"],
            }
            before = after
            # Else the next upload of this name would begin with a deletion.
            (folder / f"second-{name}.handle").unlink()
    finally:
        transfers.empty_bucket(folder)
    return found


def _bytes_in(folder: Path) -> int:
    bucket = folder / "s3" / transfers.BUCKET
    return sum(path.stat().st_size for path in bucket.rglob("*") if path.is_file())


def headline(runs: Sequence[Object]) -> Object:
    """The figures that the aim is about: medians, and each ratio."""

    def median(which: str, what: str) -> float:
        return statistics.median(float(run[which][what]) for run in runs)

    ratios = [round(run["second"]["sent_bytes"] / run["first"]["sent_bytes"], 4) for run in runs]
    ratio = statistics.median(ratios)
    return {
        "artifact_bytes": round(median("second", "artifact_bytes")),
        "first_sent_bytes": round(median("first", "sent_bytes")),
        "second_sent_bytes": round(median("second", "sent_bytes")),
        "second_of_first": ratio,
        "all": ratios,
        "aim": AIM,
        "aim_met": ratio <= AIM,
        "first_seconds": round(median("first", "seconds"), 3),
        "second_seconds": round(median("second", "seconds"), 3),
    }
