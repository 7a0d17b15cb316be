"""System V and POSIX IPC objects: captured, cleared, made again; of whom they are."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from chrek import checkpoint, errors, ipc, ipcns, log, manifest, mqueue, names, procfs, restore
from chrek import store as stores
from showcase import sandbox

pytestmark = pytest.mark.system
LOG = log.get(__name__)
WORKER = pathlib.Path(__file__).with_name("ipc_worker.py").read_text()
HASH = "0123456789abcdef"
READ_ONLY = """
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec "$@"
"""
"""What a container runtime does."""


@contextlib.contextmanager
def source(
    folder: pathlib.Path, what: str, user: int = 0
) -> Iterator[tuple[sandbox.Container, int]]:
    """A container with a worker that has made its objects, and the worker's pid."""
    argv = ("--source", "--", "python3", "-c", WORKER, what)
    with sandbox.container(folder, "source", *argv, user=user) as made:
        root = made.start_worker()
        made.wait_for("worker ready")
        yield made, root


def capture(
    made: sandbox.Container, root: int, folder: pathlib.Path, *, leave_running: bool = False
) -> stores.Artifact:
    store = stores.Store(folder / "checkpoints")
    wanted = checkpoint.Capture(
        init_pid=made.pid,
        root_pid=root,
        identity_hash=HASH,
        variant="aaaa",
        volumes=(manifest.Volume(path="/dev/shm", exclusive=True),),
        timeout_seconds=60,
        leave_running=leave_running,
    )
    if not leave_running:
        made.send("dumping")
    done = checkpoint.capture(
        wanted, store, LOG, on_committed=lambda _: leave_running or made.send("committed")
    )
    if not leave_running:
        assert made.wait() == 0
    return store.open(HASH, "aaaa", done.manifest.uuid, done.digest)


def artifact(folder: pathlib.Path, what: str, user: int = 0) -> stores.Artifact:
    with source(folder, what, user) as (made, root):
        return capture(made, root, folder)


@contextlib.contextmanager
def target(folder: pathlib.Path, user: int = 0) -> Iterator[sandbox.Container]:
    before = () if user else ("sh", "-c", READ_ONLY, "sh")
    argv = ("--wait", "20", "--", "false")
    with sandbox.container(folder, "target", *argv, user=user, before=before) as made:
        assert made.receive() == "chrek 1 start"
        mounted = [m for m in procfs.mounts(made.pid) if m.mount_point == "/proc/sys"]
        assert user or mounted[-1].read_only
        yield made


def put(
    what: stores.Artifact,
    made: sandbox.Container,
    folder: pathlib.Path,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    with sandbox.tmpfs(folder / "staging") as staging:
        made.send(f"restoring 30 {what.manifest.rootPid} exit")
        restore.restore(
            *(what, made.pid, staging / "one", LOG),
            volumes={"/dev/shm": True},
            timeout_seconds=60,
            progress=progress,
        )
        made.send("restored")


def in_namespace(made: sandbox.Container, code: str) -> None:
    """Run Python in a container's IPC namespace, beside the container."""
    text = "import ctypes, os\nlibc = ctypes.CDLL(None)\n" + textwrap.dedent(code)
    argv = ["nsenter", "-t", str(made.pid), "-i", "python3", "-c", text]
    subprocess.run(argv, check=True, timeout=20)


@contextlib.contextmanager
def another_container(made: sandbox.Container, code: str = "") -> Iterator[None]:
    """A process of another PID namespace in a container's IPC namespace."""
    text = "import ctypes, os\nlibc = ctypes.CDLL(None)\n" + textwrap.dedent(code)
    text += "\nprint('there', flush=True)\ninput()"
    argv = [
        "nsenter",
        "-t",
        str(made.pid),
        "-i",
        "unshare",
        "--pid",
        "--fork",
        "python3",
        "-c",
        text,
    ]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "there\n"
        yield
        other.communicate("\n", timeout=20)


@pytest.mark.parametrize("user", [0, 65532])
def test_shared_memory(tmp_path: pathlib.Path, user: int) -> None:
    what = artifact(tmp_path, "shared", user)
    with target(tmp_path, user) as made:
        put(what, made, tmp_path)
        assert made.request("read(kept), read(removed)") == "('keyed', 'gone')"
        assert made.request("read(attach(private))") == "'private'"
        assert made.request("read(attach(far))") == "'unattached'"
        assert (
            made.request("[keyed, far] == [LIBC.shmget(key, 0, 0) for key in (4711, 4712)]")
            == "True"
        )
        made.request("os.kill(child, signal.SIGUSR1)")
        until = time.monotonic() + 10
        while made.request("read(kept)") != "'child'":
            assert time.monotonic() < until, "the child has other memory"
        found = {item.number: item for item in ipc.objects(made.pid)}
        assert len(found) == 4
        assert {item.uid for item in found.values()} == {user}
        # A segment that was removed goes with the last process that has it.
        gone = int(made.request("gone"))
        assert made.request("os.kill(child, signal.SIGKILL), os.waitpid(child, 0)[0] == child")
        assert made.request("LIBC.shmdt(removed)") == "0"
        assert gone in found
        assert gone not in {item.number for item in ipc.objects(made.pid)}


@pytest.mark.parametrize("user", [0, 65532])
def test_semaphores_and_queues(tmp_path: pathlib.Path, user: int) -> None:
    what = artifact(tmp_path, "queues", user)
    with target(tmp_path, user) as made:
        settings = ipcns.inside(made.pid, lambda: pathlib.Path("/proc/sys/kernel/sem").read_text())
        put(what, made, tmp_path)
        assert made.request("limit(queue)") == "4096"
        said = made.request("[receive(queue, 2), receive(queue, 0), receive(queue, 0)]")
        assert said == "['two', 'one', 'three']"
        assert made.request("receive(queue, 0)") == "None"
        assert made.request("[LIBC.semctl(semaphores, n, GETVAL) for n in (0, 1)]") == "[3, 0]"
        assert made.request("semaphores == LIBC.semget(78, 2, 0)") == "True"
        after = ipcns.inside(made.pid, lambda: pathlib.Path("/proc/sys/kernel/sem").read_text())
        assert after == settings


def test_a_restored_worker_is_captured_again(tmp_path: pathlib.Path) -> None:
    what = artifact(tmp_path, "everything")
    with target(tmp_path) as made:
        put(what, made, tmp_path)
        root = made.child(what.manifest.rootPid)
        again = capture(made, root, tmp_path, leave_running=True)
        (tmp_path / "target").rename(tmp_path / "first")
    with target(tmp_path) as made:
        put(again, made, tmp_path)
        assert made.request("read(kept), read(removed)") == "('keyed', 'gone')"
        assert made.request("limit(queue), receive(queue, 2)") == "(4096, 'two')"
        assert made.request("take(reader)") == "('high', 9)"


@pytest.mark.parametrize("user", [0, 65532])
def test_posix_queues(tmp_path: pathlib.Path, user: int) -> None:
    with source(tmp_path, "posix", user) as (made, root):
        what = capture(made, root, tmp_path, leave_running=True)
        # The worker that runs on has lost nothing.
        assert made.request("[take(fd) for _ in range(3)]") == (
            "[('high', 9), ('low', 1), ('lower', 1)]"
        )
    with target(tmp_path, user) as made:
        in_namespace(made, "libc.mq_open(b'/left', os.O_RDWR | os.O_CREAT, 0o600, None)")
        put(what, made, tmp_path)
        assert made.request("attributes(fd)") == "[0, 5, 64, 3]"
        assert made.request("attributes(reader)") == f"[{os.O_NONBLOCK}, 5, 64, 3]"
        assert made.request("take(reader), take(by_path), take(fd)") == (
            "(('high', 9), ('low', 1), ('lower', 1))"
        )
        assert made.request("LIBC.mq_send(reader, b'x', 1, 0)") == "-1", "it was opened to read"
        assert made.request("attributes(posix(b'/second', 9, 99))") == "[0, 3, 32, 0]"
        present = mqueue.read(made.pid)
        assert [(queue.name, queue.uid, queue.mode) for queue in present] == [
            ("first", user, 0o640),
            ("second", user, 0o640),
        ]


def test_leftovers_are_cleared(tmp_path: pathlib.Path) -> None:
    what = artifact(tmp_path, "queues")
    with target(tmp_path) as made:
        in_namespace(
            made,
            """
            for key in (1, 2):
                libc.shmget(key, 4096, 0o1600)
            libc.semget(78, 1, 0o1600)
            libc.msgget(77, 0o1600)
            """,
        )
        assert len(ipc.objects(made.pid)) == 4
        put(what, made, tmp_path)
        assert made.request("receive(queue, 2)") == "'two'"
        assert len(ipc.objects(made.pid)) == 2


def test_a_restore_that_fails_leaves_nothing(tmp_path: pathlib.Path) -> None:
    what = artifact(tmp_path, "everything")
    with target(tmp_path) as made:
        refused = errors.CriuError("no")

        def refuse(step: str) -> None:
            if step == "post-restore":
                assert len(ipc.objects(made.pid)) == 6
                raise refused

        with pytest.raises(errors.CriuError) as caught:
            put(what, made, tmp_path, refuse)
        assert caught.value is refused
        assert ipc.objects(made.pid) == []
        assert mqueue.read(made.pid) == []


def test_an_object_of_another_container_is_not_touched(tmp_path: pathlib.Path) -> None:
    what = artifact(tmp_path, "queues")
    with (
        target(tmp_path) as made,
        another_container(made, "libc.shmget(1, 4096, 0o1600)\nlibc.semget(78, 1, 0o1600)"),
    ):
        before = ipc.objects(made.pid)
        with pytest.raises(errors.UnsupportedError, match="another container") as caught:
            put(what, made, tmp_path)
        assert caught.value.reason == names.Reason.IPC_CONFLICT
        assert ipc.objects(made.pid) == before


def test_beside_another_container_only_what_is_in_the_way_is_cleared(
    tmp_path: pathlib.Path,
) -> None:
    what = artifact(tmp_path, "queues")
    with target(tmp_path) as made:
        in_namespace(
            made,
            "libc.shmget(1, 4096, 0o1600)\nlibc.msgsnd(libc.msgget(77, 0o1600), b'1' * 16, 1, 0)",
        )
        with another_container(made):
            put(what, made, tmp_path)
            assert made.request("receive(queue, 2)") == "'two'"
            assert sorted(item.kind for item in ipc.objects(made.pid)) == ["msg", "sem", "shm"]


def test_a_queue_that_another_container_may_own_is_not_touched(tmp_path: pathlib.Path) -> None:
    what = artifact(tmp_path, "posix")
    code = "libc.mq_open(b'/first', os.O_RDWR | os.O_CREAT, 0o600, None)"
    with target(tmp_path) as made, another_container(made, code):
        with pytest.raises(errors.UnsupportedError, match="first") as caught:
            put(what, made, tmp_path)
        assert caught.value.reason == names.Reason.IPC_CONFLICT
        assert [queue.name for queue in mqueue.read(made.pid)] == ["first"]


def test_objects_of_two_containers_are_not_captured(tmp_path: pathlib.Path) -> None:
    with (
        source(tmp_path, "queues") as (made, root),
        another_container(made, "libc.shmget(1, 4096, 0o1600)"),
    ):
        with pytest.raises(errors.UnsupportedError, match="another container") as caught:
            capture(made, root, tmp_path, leave_running=True)
        assert caught.value.reason == names.Reason.IPC_SHARED
        assert made.request("receive(queue, 2)") == "'two'"


def test_objects_of_another_container_alone_are_no_obstacle(tmp_path: pathlib.Path) -> None:
    with (
        source(tmp_path, "none") as (made, root),
        another_container(made, "libc.shmget(1, 4096, 0o1600)"),
    ):
        what = capture(made, root, tmp_path, leave_running=True)
        assert not any("ipcns" in file.name for file in what.manifest.files)


@pytest.mark.parametrize(
    ("what", "reason", "words"),
    [
        ("hugetlb", names.Reason.HUGETLB, "hugetlb"),
        ("mapped", names.Reason.HUGETLB, "hugetlb"),
        ("memfd", names.Reason.HUGETLB, "hugetlb"),
        ("notified", names.Reason.UNSUPPORTED, "notified"),
    ],
)
def test_what_is_refused_before_anything_is_dumped(
    tmp_path: pathlib.Path, what: str, reason: names.Reason, words: str
) -> None:
    with source(tmp_path, what) as (made, root):
        with pytest.raises(errors.UnsupportedError, match=words) as caught:
            capture(made, root, tmp_path, leave_running=True)
        assert caught.value.reason == reason
        assert not list((tmp_path / "checkpoints").rglob("*.img"))
        assert made.request("1 + 1") == "2"
