"""A workload captured and restored in containers without a cluster, within two seconds."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import shutil
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

from chrek import checkpoint, log, manifest, restore
from chrek import store as stores
from conformance import harness, view
from conformance.workload import Object, Workload
from showcase import sandbox

LOG = log.get(__name__)
HASH = "0123456789abcdef"
VOLUMES = (manifest.Volume(path="/dev/shm", exclusive=True),)
ADDRESSES = {
    "source": ("10.99.0.5/24", "fd00:99::5/64"),
    "target": ("10.99.7.9/24", "fd00:99:7::9/64"),
}
BOOT_SECONDS = {"source": 3 * 86400, "target": 0}
"""The node of the capture has run for longer: its clocks are ahead of the other's."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """The harness answered otherwise than expected."""


def ask(pid: int, method: str, path: str) -> tuple[int, str]:
    """One request to the harness, from inside the network namespace of a process."""

    def inside() -> tuple[int, str]:
        with open(f"/proc/{pid}/ns/net") as file:
            if _libc.setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        # Longer than the longest wait of any workload.
        connection = http.client.HTTPConnection("127.0.0.1", harness.PORT, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    # A thread of its own, which ends with the namespace that it went into.
    with futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(inside).result()


def check(pid: int) -> Object:
    status, text = ask(pid, "GET", "/check")
    answer: Object = json.loads(text or "{}")
    if status != 200 or "failed" in answer or not text:
        raise RefusedError(answer.get("failed", f"{status} {text!r}"))
    return answer


def wait_made(container: sandbox.Container, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, text = ask(container.pid, "GET", "/ready")
            if status == 200:
                if text != "made":
                    raise RefusedError(text)
                return
        if time.monotonic() > deadline:
            raise RefusedError(f"the workload is not ready: {container.output}")
        time.sleep(0.02)


def container(workload: Workload, folder: Path, name: str, *argv: str) -> sandbox.Container:
    return sandbox.Container(
        folder / name,
        name,
        *argv,
        user=workload.options.user,
        groups=workload.options.groups,
        addresses=ADDRESSES[name],
        boot_seconds=BOOT_SECONDS[name],
    )


def capture(
    workload: Workload, folder: Path, store: stores.Store
) -> tuple[Object, Object, stores.Artifact]:
    """Run a workload and capture it: answers, outside view, artifact."""
    argv = ("--source", "--", *workload.command)
    made = container(workload, folder, "source", *argv)
    try:
        root = made.start_worker()
        wait_made(made)
        answers, seen = check(made.pid), view.settled(made.pid)
        made.send("dumping")
        wanted = checkpoint.Capture(
            init_pid=made.pid,
            root_pid=root,
            identity_hash=HASH,
            variant="aaaa",
            volumes=VOLUMES,
            timeout_seconds=60,
        )
        done = checkpoint.capture(wanted, store, LOG, on_committed=lambda _: made.send("committed"))
        assert made.wait() == 0
        return answers, seen, store.open(HASH, "aaaa", done.manifest.uuid, done.digest)
    finally:
        made.stop()
        shutil.rmtree(folder / "source", ignore_errors=True)


@contextlib.contextmanager
def restoring(
    workload: Workload, folder: Path, artifact: stores.Artifact
) -> Iterator[sandbox.Container]:
    """A container with the workload restored in it."""
    argv = ("--wait", "20", "--", "false")
    target = container(workload, folder, "target", *argv)
    try:
        assert target.receive() == "chrek 1 start"
        target.send(f"restoring 30 {artifact.manifest.rootPid} exit")
        with sandbox.tmpfs(folder / "staging") as path:
            restore.restore(
                *(artifact, target.pid, path / "one", LOG),
                volumes={volume.path: True for volume in VOLUMES},
                timeout_seconds=60,
                progress=lambda step: target.send(f"progress {step}"),
            )
        target.send("restored")
        yield target
    finally:
        target.stop()
        shutil.rmtree(folder / "target", ignore_errors=True)
