"""Who calls a socket, as the kernel says it: real processes in namespaces and cgroups."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from chrek import cgroups, errors, peer, procfs

pytestmark = pytest.mark.system
UID = "3f1c9c0e-8d0a-4a55-9a39-6f2d1c7f0a11"
ID = "0123456789abcdef" * 4

CALL = """
import os, socket, sys
made = socket.socket(socket.AF_UNIX)
made.connect(sys.argv[1])
while data := made.recv(1000):
    if sys.argv[2] == "answer":
        made.send(data)
    elif sys.argv[2] == "lie":
        made.send(b"nonce 00" + bytes(len(data) - 8))
    elif sys.argv[2] == "child" and os.fork() == 0:
        made.send(data)
        os._exit(0)
"""

Start = Callable[..., socket.socket]


@pytest.fixture
def cgroup() -> Iterator[pathlib.Path]:
    """Where a kubelet with the cgroupfs driver would put a container, in some hierarchy."""
    top = next(
        (
            path
            for path in cgroups.directories(os.getpid())
            if "cpuset" not in str(path) and os.access(path, os.W_OK)
        ),
        None,
    )
    base = top or next(p for p in sorted(cgroups.ROOT.glob("*")) if (p / "cgroup.procs").exists())
    own = base / f"chrek-test-{uuid.uuid4().hex[:8]}"
    path = own / f"pod{UID}" / ID
    path.mkdir(parents=True)
    yield path
    deadline = time.monotonic() + 5
    for directory in (path, path.parent, own):
        while directory.exists():
            try:
                directory.rmdir()
            except OSError:  # Its processes have ended, but the kernel is not done with them.
                assert time.monotonic() < deadline
                time.sleep(0.01)


@pytest.fixture
def start(tmp_path: pathlib.Path, cgroup: pathlib.Path) -> Iterator[Start]:
    """Returns a function that starts a caller and gives our end of the connection."""
    started: list[subprocess.Popen[bytes]] = []
    connections: list[socket.socket] = []
    log = tmp_path / f"pods/{UID}/containers/worker/0a1b2c3d"
    log.parent.mkdir(parents=True)
    log.touch()
    (tmp_path / "termination-log").touch()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    listener.settimeout(10)

    def start(
        mode: str = "answer", *, in_pod: bool = True, mounted: bool = True, pid_1: bool = True
    ) -> socket.socket:
        lines = [f'echo $$ > "{cgroup}/cgroup.procs"'] if in_pod else []
        namespaces = ["--mount", *(["--pid", "--fork"] if pid_1 else [])]
        bind = f'mount --bind "{log}" "{tmp_path}/termination-log" &&' if mounted else ""
        inner = f'{bind} exec python3 -c "$CALL" "{tmp_path}/socket" {mode}'
        unshare = f'exec unshare --propagation private {" ".join(namespaces)} sh -c "$INNER"'
        environment = {**os.environ, "CALL": CALL, "INNER": inner}
        argv = ["sh", "-c", "\n".join([*lines, unshare])]
        started.append(subprocess.Popen(argv, env=environment))
        connection, _ = listener.accept()
        connections.append(connection)
        return connection

    yield start
    for connection in connections:
        connection.close()
    for process in started:
        for pid in reversed(procfs.tree(process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
    listener.close()


@pytest.mark.parametrize("kernel", ["of today", "before 6.5"])
def test_pid_1_of_a_container(start: Start, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    if kernel == "before 6.5":
        monkeypatch.setattr(peer, "_SO_PEERPIDFD", 9999)
    connection = start()
    connection.setblocking(False)
    found = peer.identify(connection)
    try:
        assert (found.pod_uid, found.container_id, found.container) == (UID, ID, "worker")
        assert procfs.status(found.pid).nspids[-1] == 1
        assert not connection.getblocking()
        assert found.alive()
        os.kill(found.pid, signal.SIGKILL)
        while found.alive():
            pass
    finally:
        found.close()


REFUSED = [
    ({"pid_1": False}, "is not PID 1 of a container"),
    ({"in_pod": False}, "is in no container of a pod"),
    ({"mounted": False}, "is in no container of a pod"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_others_are_refused(start: Start, options: dict[str, bool], message: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    connection = start(**options)
    with pytest.raises(errors.PeerError, match=message):
        peer.identify(connection)
    assert len(os.listdir("/proc/self/fd")) == before + 1


@pytest.mark.parametrize("mode", ["silent", "lie", "child"])
def test_before_6_5_a_caller_must_answer_itself(
    start: Start, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A pid that was used again, or one that handed its socket on, cannot answer the nonce."""
    monkeypatch.setattr(peer, "_SO_PEERPIDFD", 9999)
    monkeypatch.setattr(peer, "_NONCE_SECONDS", 1.0)
    connection = start(mode)
    with pytest.raises(errors.PeerError, match=r"did not (answer|prove)"):
        peer.identify(connection)


def test_a_caller_that_has_ended(start: Start) -> None:
    connection = start()
    pid = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")
    os.kill(pid, signal.SIGKILL)
    while pathlib.Path(f"/proc/{pid}").exists():
        pass
    with pytest.raises(errors.PeerError, match=f"process {pid}"):
        peer.identify(connection)


def test_nobody_whom_this_process_cannot_see() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(errors.PeerError, match="not PID 1"):
        peer.identify(ours)
