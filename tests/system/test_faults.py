"""What only the real thing tells: faults during a dump, other privileges, other addresses."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from chrek import checkpoint, errors, log, manifest, procfs, restore
from chrek import store as stores
from chrek.criu import service
from showcase import sandbox

pytestmark = pytest.mark.system
LOG = log.get(__name__)
HASH = "0123456789abcdef"
WORKER = pathlib.Path(__file__).with_name("worker.py").read_text()
TALKER = pathlib.Path(__file__).with_name("talker.py").read_text()


@pytest.fixture
def store(tmp_path: pathlib.Path) -> stores.Store:
    return stores.Store(tmp_path / "checkpoints")


@pytest.fixture
def tmpfs(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    with sandbox.tmpfs(tmp_path / "tmpfs", size="4m") as path:
        yield path


def start_source(source: sandbox.Container) -> int:
    root = source.start_worker()
    source.wait_for("worker ready")
    return root


def wanted(source: sandbox.Container, root: int) -> checkpoint.Capture:
    return checkpoint.Capture(
        init_pid=source.pid, root_pid=root, identity_hash=HASH, variant="aaaa", timeout_seconds=60
    )


def capture(source: sandbox.Container, root: int, store: stores.Store) -> stores.Artifact:
    source.send("dumping")
    done = checkpoint.capture(
        wanted(source, root), store, LOG, on_committed=lambda _: source.send("committed")
    )
    assert source.wait() == 0
    return store.open(HASH, "aaaa", done.manifest.uuid, done.digest)


def restore_into(
    target: sandbox.Container, artifact: stores.Artifact, staging: pathlib.Path
) -> None:
    assert target.receive() == "chrek 1 start"
    target.send(f"restoring 30 {artifact.manifest.rootPid} exit")
    restore.restore(artifact, target.pid, staging, LOG, volumes={}, timeout_seconds=60)
    target.send("restored")


INSTALL = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
for number in map(int, sys.argv[1].split(",")):
    lines = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x00050026), (6, 0, 0, 0x7fff0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
    if libc.prctl(22, 2, program, 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def filters(*numbers: int) -> tuple[str, ...]:
    """A program that installs one seccomp filter for each system call, in this order."""
    return ("python3", "-c", INSTALL, ",".join(map(str, numbers)))


SWAPOFF, ACCT, REBOOT = 168, 163, 169


def test_seccomp_filters_must_be_the_same_in_the_same_order(
    tmp_path: pathlib.Path, store: stores.Store
) -> None:
    argv = ("--source", "--", "python3", "-c", WORKER)
    own = filters(SWAPOFF, ACCT)
    with sandbox.container(tmp_path, "source", *argv, before=own) as source:
        root = start_source(source)
        assert len(service.seccomp_filters(source.pid)) == 2
        assert len(service.seccomp_filters(root)) == 3
        artifact = capture(source, root, store)
    cold = ("--wait", "20", "--", "false")
    with sandbox.container(tmp_path, "same", *cold, before=own) as target:
        restore_into(target, artifact, tmp_path / "staging")
        assert target.request("count").endswith(" 1")
        again = service.seccomp_filters(target.child(artifact.manifest.rootPid))
        assert again[:2] == service.seccomp_filters(target.pid)
        assert len(again) == 3
    refused: dict[str, tuple[int, ...]] = {
        "swapped": (ACCT, SWAPOFF),
        "other": (SWAPOFF, REBOOT),
        "more": (SWAPOFF, ACCT, REBOOT),
        "second": (ACCT,),
    }
    for name, others in refused.items():
        with (
            sandbox.container(tmp_path, name, *cold, before=filters(*others)) as target,
            pytest.raises(errors.PrivilegeError, match="seccomp filters"),
        ):
            restore_into(target, artifact, tmp_path / "staging")
    with sandbox.container(tmp_path, "fewer", *cold, before=filters(SWAPOFF)) as target:
        restore_into(target, artifact, tmp_path / "staging")


def address(container: sandbox.Container, text: str) -> None:
    argv = ["nsenter", "-t", str(container.pid), "-n", "ip", "address", "add", text, "dev", "lo"]
    subprocess.run(argv, check=True)


CLIENT = """
import socket
held = socket.create_connection(("10.9.0.1", 7000), 5)
held.sendall(b"hello")
print(held.recv(100).decode(), flush=True)
held.settimeout(60)
try:
    print("got", held.recv(100))
except OSError as err:
    print("error", err)
"""


def test_connections_and_addresses_of_another_pod(
    tmp_path: pathlib.Path, store: stores.Store
) -> None:
    """Both families: what is bound to the pod's address moves, connections from outside end."""
    argv = ("--source", "--", "python3", "-c", TALKER, "10.9.0.1", "fd00:9::1")
    with sandbox.container(tmp_path, "source", *argv) as source:
        address(source, "10.9.0.1/32")
        address(source, "fd00:9::1/128")
        root = start_source(source)
        enter = ["nsenter", "-t", str(source.pid), "-n", "python3", "-c", CLIENT]
        with subprocess.Popen(enter, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "hello\n"
            assert source.request("held") == "open"
            artifact = capture(source, root, store)
            client.kill()
    assert set(artifact.manifest.source.addresses) == {"10.9.0.1", "fd00:9::1"}
    with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
        address(target, "10.9.0.2/32")
        address(target, "fd00:9::2/128")
        restore_into(target, artifact, tmp_path / "staging")
        assert target.request("waited") == "ended"
        assert target.request("held") in ("error", "closed")
        for where in ("10.9.0.2", "fd00:9::2"):
            code = (
                "import socket\n"
                f"s = socket.create_connection(('{where}', 7000), 5)\n"
                "s.sendall(b'new')\nprint(s.recv(100).decode())"
            )
            enter = ["nsenter", "-t", str(target.pid), "-n", "python3", "-c", code]
            done = subprocess.run(enter, capture_output=True, text=True, timeout=10, check=False)
            assert done.stdout == "new\n", f"{where}: {done.stderr}"


def criu_below(pid: int) -> int | None:
    for found in procfs.tree(pid):
        try:
            line = pathlib.Path(f"/proc/{found}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if line.startswith(b"criu-loader\0"):
            return found
    return None


def within(init: int, tree: list[int]) -> bool:
    """Whether nothing of CRIU is left in the container."""
    return set(procfs.in_pid_namespace(init)) <= {init, *tree}


def frozen(pids: list[int]) -> list[str]:
    states = []
    for pid in pids:
        try:
            states.append(procfs.status(pid).state)
        except ProcessLookupError:
            continue
    return [state for state in states if state in "TtD"]


@pytest.mark.parametrize("after", [0.0, 0.01, 0.02, 0.03, 0.1])
def test_a_criu_that_is_killed_freezes_nothing(
    tmp_path: pathlib.Path, store: stores.Store, after: float
) -> None:
    argv = ("--source", "--", "python3", "-c", WORKER, str(256 << 20))
    with (
        sandbox.container(tmp_path, "source", *argv) as source,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        root = start_source(source)
        tree = procfs.tree(root)
        dump = pool.submit(checkpoint.capture, wanted(source, root), store, LOG)
        deadline = time.monotonic() + 10
        while (criu := criu_below(os.getpid())) is None:
            assert time.monotonic() < deadline
        threading.Event().wait(after)
        os.kill(criu, signal.SIGKILL)
        with pytest.raises(errors.CriuError, match=r"SIGKILL|status 137"):
            dump.result(timeout=10)
        deadline = time.monotonic() + 5
        while frozen([source.pid, *tree]) or not within(source.pid, tree):
            assert time.monotonic() < deadline, procfs.in_pid_namespace(source.pid)
            time.sleep(0.01)
        if pathlib.Path(f"/proc/{root}").exists() and procfs.status(root).state != "Z":
            assert source.request("count").endswith(" 1")
    assert not list((tmp_path / "checkpoints").rglob("*.img"))
    assert not list((tmp_path / "checkpoints").rglob(manifest.NAME))


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_full_store_leaves_the_worker_running(
    tmp_path: pathlib.Path, tmpfs: pathlib.Path, kind: str
) -> None:
    size = 64 << 20 if kind == "memory" else 1 << 16
    store = stores.Store(tmpfs / "checkpoints")
    # The interpreter itself is larger than the store for `memory`; for `files` there is room.
    if kind == "files":
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmpfs)], check=True)
    argv = ("--source", "--", "python3", "-c", WORKER, str(size))
    with sandbox.container(tmp_path, "source", *argv) as source:
        root = start_source(source)
        if kind == "files":
            big = pathlib.Path(f"/proc/{source.pid}/root/var/tmp/big")
            big.write_bytes(os.urandom(80 << 20))
        first = source.request("count").split()
        with pytest.raises((errors.CriuError, errors.StoreError)) as caught:
            checkpoint.capture(wanted(source, root), store, LOG)
        if kind == "files":
            assert isinstance(caught.value, errors.StoreError)
            assert "No space left on device" in str(caught.value)
        assert source.request("count").split() == [first[0], "2"]
        assert not frozen(procfs.tree(root))
    assert not [path for path in tmpfs.rglob("*") if path.is_file()]
