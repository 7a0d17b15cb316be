"""A restored tree is captured again, on a node with another boot time, and restored once more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chrek import checkpoint, log
from chrek import store as stores
from conformance import sandboxed, view, workload
from showcase import sandbox

pytestmark = pytest.mark.system
LOG = log.get(__name__)
NAMES = [
    *("proc_daemon", "net_inside", "ipc_queues", "fd_timerfd", "time_clocks", "time_timers"),
    *("time_absolute", "time_busy", "time_new_processes", "time_timerfd_clocks"),
]


def again(
    target: sandbox.Container, artifact: stores.Artifact, store: stores.Store
) -> stores.Artifact:
    """Capture a restored tree that runs on."""
    root = target.child(artifact.manifest.rootPid)
    wanted = checkpoint.Capture(
        init_pid=target.pid,
        root_pid=root,
        identity_hash=sandboxed.HASH,
        variant="aaaa",
        volumes=sandboxed.VOLUMES,
        timeout_seconds=60,
        leave_running=True,
    )
    done = checkpoint.capture(wanted, store, LOG)
    return store.open(sandboxed.HASH, "aaaa", done.manifest.uuid, done.digest)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_worker_is_captured_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = workload.load(name)
    store = stores.Store(tmp_path / "checkpoints")
    answers, seen, artifact = sandboxed.capture(one, tmp_path, store)
    with sandboxed.restoring(one, tmp_path, artifact) as target:
        second = again(target, artifact, store)
        # The one that was captured runs on.
        middle = sandboxed.check(target.pid)
        one.compare(answers, middle)
    shutil.rmtree(tmp_path / "target", ignore_errors=True)
    # A third boot time: that of the node, not of the time namespace that the worker had there.
    monkeypatch.setitem(sandboxed.BOOT_SECONDS, "target", 10 * 86400)
    with sandboxed.restoring(one, tmp_path, second) as target:
        found = view.differences(seen, view.settled(target.pid))
        assert not [line for line in found if not one.tolerates(line)]
        assert not view.namespaces(target.pid)
        one.compare(answers, sandboxed.check(target.pid))
