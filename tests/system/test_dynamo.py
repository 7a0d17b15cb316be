"""Workers that wait as published Dynamo workers do, captured and restored; both generations."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterator

import pytest

from chrek import checkpoint, context, dynamo, log, procfs, restore
from chrek import store as stores
from showcase import sandbox

pytestmark = pytest.mark.system
LOG = log.get(__name__)
HASH = "0123456789abcdef"
WORKER = pathlib.Path(__file__).with_name("dynamo_worker.py").read_text()
READY = {"signals": "ready-for-checkpoint", "files": "ready-for-snapshot"}


@pytest.fixture
def staging(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    with sandbox.tmpfs(tmp_path / "staging") as path:
        yield path / "one"


def started(folder: pathlib.Path, way: str) -> tuple[sandbox.Container, int]:
    """A checkpoint job whose worker waits; with the host pid of its tree's root."""
    argv = ("--source", "--", "python3", "-c", WORKER, way)
    before = ("env", "POD_NAME=source")
    made = sandbox.Container(folder / "source", "source", *argv, user=1000, before=before)
    with contextlib.ExitStack() as undo:
        undo.callback(made.stop)
        (made.directory / "chrek").chmod(0o777)
        root = made.start_worker()
        ready = made.directory / "chrek" / READY[way]
        deadline = time.monotonic() + 20
        while not ready.exists():
            assert time.monotonic() < deadline, made.output
            time.sleep(0.02)
        undo.pop_all()
    return made, root


@pytest.mark.parametrize("way", ["signals", "files"])
def test_a_restored_worker_is_told_and_serves(
    tmp_path: pathlib.Path, staging: pathlib.Path, way: str
) -> None:
    store = stores.Store(tmp_path / "checkpoints")
    source, root = started(tmp_path, way)
    try:
        source.send("dumping")
        wanted = checkpoint.Capture(
            init_pid=source.pid,
            root_pid=root,
            identity_hash=HASH,
            variant="aaaa",
            volumes=(),
            timeout_seconds=60,
        )
        done = checkpoint.capture(
            wanted, store, LOG, on_committed=lambda _: source.send("committed")
        )
        assert source.wait() == 0
        assert "told" not in source.output, "nobody is told in the capture: the tree ends in it"
    finally:
        source.stop()
    artifact = store.open(HASH, "aaaa", done.manifest.uuid, done.digest)
    before = ("env", "POD_NAME=target")
    with sandbox.container(
        tmp_path, "target", "--wait", "20", "--", "false", user=1000, before=before
    ) as target:
        assert target.receive() == "chrek 1 start"
        target.send(f"restoring 30 {artifact.manifest.rootPid} exit")
        pod = context.Pod(namespace="ns", name="target", uid="u")
        restore.restore(
            artifact,
            target.pid,
            staging,
            LOG,
            volumes={},
            pod=pod,
            timeout_seconds=60,
            progress=lambda step: target.send(f"progress {step}"),
        )
        target.send("restored")
        target.wait_for("told restored")
        target.wait_for("serves as target")
        told = target.directory / "chrek" / context.NAME
        assert (told.stat().st_uid, told.stat().st_mode & 0o777) == (1000, 0o400)


def test_a_worker_whose_capture_failed_is_told(tmp_path: pathlib.Path) -> None:
    source, _ = started(tmp_path, "signals")
    try:
        assert dynamo.failed(source.pid) == 1
        source.wait_for("told failed")
    finally:
        source.stop()


def test_a_worker_of_another_kind_notices_nothing(tmp_path: pathlib.Path) -> None:
    argv = ("--source", "--", "python3", "-c", "print('up', flush=True);input()")
    with sandbox.container(tmp_path, "source", *argv, before=("env", "A=1")) as made:
        assert made.receive() == "chrek 1 source"
        made.send("capture")
        root = made.child(int(made.receive().split()[1]))
        assert dynamo.failed(made.pid) == 0
        assert procfs.status(root).state != "Z"
