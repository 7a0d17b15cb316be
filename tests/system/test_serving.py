"""A worker that is captured while it serves, and restored beside itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from chrek import (
    checkpoint,
    config,
    errors,
    inside,
    leftovers,
    log,
    manifest,
    peer,
    procfs,
    restore,
    rootfd,
    storage,
)
from chrek import store as stores
from chrek.agent import calls, captures, capturing, connection, decision, journal, objects, slots
from fakes import projected
from showcase import sandbox

pytestmark = pytest.mark.system
LOG = log.get(__name__)
HASH = "0123456789abcdef"
WORKER = pathlib.Path(__file__).with_name("worker.py").read_text()

CLIENT = """
import socket, sys
held = socket.create_connection(("127.0.0.1", 8001), 5)
for line in sys.stdin:
    held.sendall(line.encode())
    print(held.recv(100).decode(), end="", flush=True)
"""
"""Keeps one connection from outside of the tree, and sends through it what it reads."""

ECHO = """
import selectors, socket, threading
def serve():
    loop, server = selectors.DefaultSelector(), socket.create_server(("127.0.0.1", 8001))
    loop.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in loop.select():
            if key.fileobj is server:
                loop.register(server.accept()[0], selectors.EVENT_READ)
            elif data := key.fileobj.recv(100):
                key.fileobj.sendall(data)
            else:
                loop.unregister(key.fileobj)
threading.Thread(target=serve, daemon=True).start()
"""
"""An event loop, as servers are: a read that waits when CRIU is killed fails once (EPERM)."""


@pytest.fixture
def store(tmp_path: pathlib.Path) -> stores.Store:
    return stores.Store(tmp_path / "checkpoints")


@contextlib.contextmanager
def serving(
    path: pathlib.Path, *, user: int = 0, size: int = 1 << 20
) -> Iterator[tuple[sandbox.Container, int]]:
    argv = ("--wait", "20", "--", "python3", "-c", ECHO + WORKER, str(size))
    with sandbox.container(path, "source", *argv, user=user) as made:
        root = made.start_worker("serve CheckpointNotReady it is being made")
        made.wait_for("worker ready")
        assert "Falling back to cold start: CheckpointNotReady: it is being made" in made.output
        yield made, root


@contextlib.contextmanager
def client(made: sandbox.Container) -> Iterator[subprocess.Popen[str]]:
    argv = ["nsenter", "-t", str(made.pid), "-n", "python3", "-u", "-c", CLIENT]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def wanted(made: sandbox.Container, root: int) -> checkpoint.Capture:
    return checkpoint.Capture(
        init_pid=made.pid,
        root_pid=root,
        identity_hash=HASH,
        variant="aaaa",
        volumes=(manifest.Volume(path="/dev/shm", exclusive=True),),
        timeout_seconds=60,
        leave_running=True,
    )


def capture(
    made: sandbox.Container, root: int, store: stores.Store
) -> tuple[stores.Artifact, list[str]]:
    """What the agent does, and the order in which it says so."""
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        made.send(line)

    tell("dumping")
    done = checkpoint.capture(
        *(wanted(made, root), store, LOG),
        on_committed=lambda _: tell("committed"),
        on_resumed=lambda: tell("resumed"),
    )
    return store.open(HASH, "aaaa", done.manifest.uuid, done.digest), said


def test_it_serves_on_and_is_restored_beside_itself(
    tmp_path: pathlib.Path, store: stores.Store
) -> None:
    with serving(tmp_path) as (made, root), client(made) as held:
        nonce = made.request("count").split()[0]
        say(held, "before")
        assert hear(held) == "before"
        tree = procfs.tree(root)
        artifact, said = capture(made, root, store)
        assert said == ["dumping", "resumed", "committed"]
        # The same processes; connections from outside and within go on.
        assert procfs.tree(root) == tree
        say(held, "after")
        assert hear(held) == "after"
        assert made.request("inner") == "through"
        assert made.request("count").split() == [nonce, "2"]
        made.wait_for("Checkpoint complete; the worker serves on")
        # Once more, and then beside it, with what it was at the first capture.
        second, _ = capture(made, root, store)
        assert second.manifest.uuid != artifact.manifest.uuid
        with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
            assert target.receive() == "chrek 1 start"
            target.send(f"restoring 30 {artifact.manifest.rootPid} exit")
            restore.restore(
                *(artifact, target.pid, tmp_path / "staging", LOG),
                volumes={"/dev/shm": True},
                timeout_seconds=60,
            )
            target.send("restored")
            for count in ("2", "3"):
                assert target.request("count").split() == [nonce, count]
            assert target.request("inner") == "through"
            assert target.request("shm") == nonce
            assert made.request("count").split() == [nonce, "3"]
        say(held, "still")
        assert hear(held) == "still"
        # Its end is its own.
        made.request("exit 42")
        assert made.wait() == 42


def test_what_arrives_while_it_is_frozen_is_not_lost(
    tmp_path: pathlib.Path, store: stores.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as (made, root), client(made) as held:
        say(held, "before")
        assert hear(held) == "before"
        archive = checkpoint._archive
        states: list[str] = []

        def frozen(*arguments: object) -> None:
            say(held, "meanwhile")
            # Only what is queued reaches the kernel's receive queue before the thaw.
            time.sleep(0.2)
            states.append(procfs.status(root).state)
            archive(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(checkpoint, "_archive", frozen)
        begin = time.monotonic()
        capture(made, root, store)
        assert time.monotonic() - begin < 10
        assert states in (["t"], ["T"])
        assert hear(held) == "meanwhile"


CRASHED = [128 + number for number in (signal.SIGTRAP, signal.SIGSEGV, signal.SIGILL)]


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_a_criu_that_is_killed_does_no_harm(
    tmp_path: pathlib.Path, store: stores.Store, after: float
) -> None:
    """No process stays frozen and no connection in TCP_REPAIR.

    In the instants in which a worker runs CRIU's own code, CRIU takes it along: the container ends.
    """
    with serving(tmp_path, size=256 << 20) as (made, root), client(made) as held:
        say(held, "before")
        assert hear(held) == "before"
        failed: list[Exception] = []

        def dump() -> None:
            try:
                capture(made, root, store)
            except errors.ChrekError as err:
                failed.append(err)

        thread = threading.Thread(target=dump)
        thread.start()
        criu = below(os.getpid())
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(criu, signal.SIGKILL)
        thread.join(timeout=30)
        if failed:
            assert not list((tmp_path / "checkpoints").rglob(manifest.NAME))
            assert not list((tmp_path / "checkpoints").rglob("*.img"))
        try:
            made.send("resumed")
        except BrokenPipeError:
            assert failed
            assert 0 < after < 0.2
            assert made.wait() in CRASHED
            return
        say(held, "after")
        assert hear(held) == "after"
        assert made.request("inner") == "through"
        assert made.request("count").endswith(" 1")


def test_names_that_a_killed_criu_has_made(
    tmp_path: pathlib.Path, store: stores.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is open, was removed, and has another name."""
    with serving(tmp_path) as (made, root):
        made.request("link")
        folder = f"/proc/{root}/root/var/tmp"
        before = set(os.listdir(folder))
        seen: list[set[str]] = []

        def kill(*_: object) -> None:
            seen.append(set(os.listdir(folder)) - before)
            os.kill(below(os.getpid()), signal.SIGKILL)

        monkeypatch.setattr(checkpoint, "_archive", kill)
        with pytest.raises(errors.CriuError):
            capture(made, root, store)
        assert len(seen[0]) == 1, "CRIU has made a name"
        assert next(iter(seen[0])).startswith("link_remap.")
        made.send("resumed")
        assert set(os.listdir(folder)) == before
        # One that only looks like that is somebody else's.
        other = pathlib.Path(folder, "link_remap.7")
        other.touch()
        assert leftovers.remove_links(root) == 0
        assert other.exists()
        assert made.request("count").endswith(" 1")


def below(pid: int) -> int:
    deadline = time.monotonic() + 10
    while True:
        for found in procfs.tree(pid):
            with contextlib.suppress(OSError):
                line = pathlib.Path(f"/proc/{found}/cmdline").read_bytes()
                if line.startswith(b"criu-loader\0"):
                    return found
        assert time.monotonic() < deadline


def test_sockets_that_are_left_in_repair(tmp_path: pathlib.Path) -> None:
    with serving(tmp_path) as (made, root), client(made) as held:
        say(held, "before")
        assert hear(held) == "before"
        assert leftovers.release_sockets(root) == 0
        assert repair(root) >= 1
        assert leftovers.release_sockets(root) >= 1
        assert leftovers.release_sockets(root) == 0
        say(held, "after")
        assert hear(held) == "after"


def repair(root: int) -> int:
    """What a CRIU does before it is killed; returns on how many connections."""
    count = 0
    for pid in procfs.tree(root):
        pidfd = os.pidfd_open(pid)
        for entry in list(os.scandir(f"/proc/{pid}/fd")):
            if os.readlink(entry.path).startswith("socket:"):
                with (
                    socket.socket(fileno=rootfd.descriptor(pidfd, int(entry.name))) as one,
                    contextlib.suppress(OSError),
                ):
                    one.getpeername()
                    one.setsockopt(socket.IPPROTO_TCP, 19, 1)
                    count += 1
        os.close(pidfd)
    return count


def test_a_failed_commit_leaves_it_serving(tmp_path: pathlib.Path, store: stores.Store) -> None:
    def refuse(_: checkpoint.Captured) -> None:
        raise errors.StoreError("the store went away")

    with serving(tmp_path) as (made, root):
        assert made.request("count").endswith(" 1")
        with pytest.raises(errors.StoreError, match="went away"):
            checkpoint.capture(wanted(made, root), store, LOG, on_committed=refuse)
        assert made.request("count").endswith(" 2")
        assert not list((tmp_path / "checkpoints").rglob(manifest.NAME))


@pytest.mark.parametrize("user", [0, 65532])
def test_a_program_in_the_container(tmp_path: pathlib.Path, user: int) -> None:
    """Quiesce and wake by exec: the container's files, users, name and environment."""
    with serving(tmp_path, user=user) as (made, _):
        pidfd = os.pidfd_open(made.pid)
        caller = peer.Peer(
            pid=made.pid, pidfd=pidfd, pod_uid="u", container_id="c" * 64, container="main"
        )
        script = (
            "import os,sys\n"
            "fds = sorted(os.listdir('/proc/self/fd'))\n"
            "open('/dev/shm/said','w').write(' '.join(map(str,"
            "[os.getuid(),os.uname().nodename,os.getppid(),os.environ['HOSTNAME'],"
            "fds[:-1],sys.argv[1]])))\n"
            "print('this is why'); sys.exit(int(sys.argv[1]))"
        )

        def call(code: str) -> None:
            action = {"exec": {"command": ["python3", "-c", script, code]}, "timeoutSeconds": 20}
            asyncio.run(calls.call(action, pod_ip="", caller=caller, reason="QuiesceFailed"))

        call("0")
        said = pathlib.Path(f"/proc/{made.pid}/root/dev/shm/said").read_text()
        assert said == f"{user} source 0 source ['0', '1', '2'] 0"
        with pytest.raises(errors.ToolError, match="exited with status 3: this is why") as caught:
            call("3")
        assert caught.value.reason == "QuiesceFailed"
        begin = time.monotonic()
        with pytest.raises(errors.ToolError, match=r"no end after 0\.5 seconds"):
            inside.run(made.pid, pidfd, ["sh", "-c", "yes & sleep 60"], timeout_seconds=0.5)
        assert time.monotonic() - begin < 5
        with pytest.raises(errors.ToolError, match="No such file or directory"):
            inside.run(made.pid, pidfd, ["no-such-program"], timeout_seconds=5)
        # Its output is kept open by a process that it leaves behind.
        inside.run(made.pid, pidfd, ["sh", "-c", "sleep 60 & exit 0"], timeout_seconds=5)
        os.close(pidfd)


class Reporter:
    """Keeps what the operator would read."""

    def __init__(self) -> None:
        self.results: list[dict[str, object]] = []
        self.events: list[tuple[str, str]] = []

    def event(self, _pod: objects.Pod, _kind: str, reason: str, message: str) -> None:
        self.events.append((reason, message))

    async def result(self, _pod: objects.Pod, result: dict[str, object]) -> None:
        self.results.append(result)


def test_the_agent_captures_a_pod_that_the_operator_names(tmp_path: pathlib.Path) -> None:
    """Quiesced and woken by programs in the container; after a failed quiesce it is named again."""
    settings = config.AgentConfig(
        apiVersion="chrek.nvidia.com/v1alpha1",
        release="chrek",
        watchNamespaces=["ns"],
        storage=config.Storage(pvc=config.Pvc(basePath=str(tmp_path / "checkpoints"))),
    )
    reporter = Reporter()
    pod = msgspec.structs.replace(
        projected.POD, ready=True, volumes=(manifest.Volume(path="/dev/shm", exclusive=True),)
    )

    def note(word: str, code: int = 0) -> dict[str, object]:
        script = f"echo {word} >>/dev/shm/notes; exit {code}"
        return {"exec": {"command": ["sh", "-c", script]}, "timeoutSeconds": 20}

    def named(code: int) -> objects.Checkpoint:
        capture = objects.Capture("aaaa", "Creating", "", frozenset({pod.uid}))
        return projected.checkpoint(
            captures=(capture,), quiesce=note("sleep", code), wake=note("wake")
        )

    async def serve(made: sandbox.Container) -> None:
        conn = connection.Connection(made.agent.dup())
        caller = peer.Peer(
            pid=made.pid,
            pidfd=os.pidfd_open(made.pid),
            pod_uid=pod.uid,
            container_id="c" * 64,
            container="main",
        )
        there: list[objects.Checkpoint] = []
        kept = storage.Storage(settings.storage, "ns", transfer_seconds=60)
        made_by = capturing.Capturing(
            *(settings, "node", kept, reporter, slots.Slots(1)),  # type: ignore[arg-type]
            results=journal.Results(tmp_path / "signals"),
        )
        agent = captures.Captures(settings, made_by)
        cold = decision.Cold("CheckpointNotReady", "it is being made")
        task = asyncio.ensure_future(agent.serve(conn, caller, lambda: pod, lambda: there, cold))
        await asyncio.to_thread(made.wait_for, "worker ready")
        await asyncio.to_thread(made.request, "count")
        for count, code in enumerate((7, 0), 1):
            there[:] = [named(code)]
            async with asyncio.timeout(30):
                while len(reporter.results) < count:
                    await asyncio.sleep(0.02)
            there.clear()
            await asyncio.sleep(0.6)
        assert not task.done()
        await asyncio.to_thread(made.request, "exit 3")
        assert await asyncio.to_thread(made.wait) == 3
        async with asyncio.timeout(10):
            await task
        caller.close()
        conn.close()

    with sandbox.container(
        tmp_path, "source", "--wait", "20", "--", "python3", "-c", ECHO + WORKER
    ) as made:
        assert made.receive() == "chrek 1 start"
        kept = os.open(f"/proc/{made.pid}/root/dev/shm", os.O_RDONLY)
        asyncio.run(serve(made))
        with open(os.open("notes", os.O_RDONLY, dir_fd=kept)) as file:
            assert file.read().split() == ["sleep", "wake", "sleep", "wake"]
        os.close(kept)
        assert "Checkpoint failed: QuiesceFailed: sh: exited with status 7" in made.output
        assert "Checkpoint complete; the worker serves on" in made.output
    refused, captured = reporter.results
    assert refused["reason"] == "QuiesceFailed"
    artifact = stores.Store(tmp_path / "checkpoints").open(
        *(HASH, "aaaa", str(captured["uuid"]), str(captured["digest"]))
    )
    with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
        assert target.receive() == "chrek 1 start"
        target.send(f"restoring 30 {artifact.manifest.rootPid} exit")
        restore.restore(
            *(artifact, target.pid, tmp_path / "staging", LOG),
            volumes={"/dev/shm": True},
            timeout_seconds=60,
        )
        target.send("restored")
        assert target.request("count").endswith(" 2")
