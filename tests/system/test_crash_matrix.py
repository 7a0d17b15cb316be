"""SIGKILL to the agent, PID 1, CRIU and the worker at every named step of a capture and a restore.

Afterwards nothing is frozen and nothing orphaned, the store holds the old artifact or the new one,
never half of one, and there is a worker that answers: the source, or the next restore.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from chrek import digest, manifest, names, procfs
from chrek import store as stores
from showcase import sandbox

pytestmark = pytest.mark.system
FOLDER = pathlib.Path(__file__).parent
WORKER = (FOLDER / "worker.py").read_text()
HASH = "0123456789abcdef"
LOADER = b"criu-loader\0"

CAPTURE = (
    *("outsiders", "preflight", "criu pre-dump", "criu query-ext-files", "criu post-dump"),
    *("files", "digest", "sync", "commit", "committed"),
)
"""Steps of a capture. CRIU is there from the third on; where the source runs on, to `files`."""
RESTORE = (
    *("stage", "privilege", "sockets", "files", "criu", "criu pre-restore", "criu post-restore"),
    *("criu pre-resume", "criu post-resume", "tell"),
)
ABSENT = {
    ("capture", "criu"): CAPTURE[:2],
    ("serving", "criu"): (*CAPTURE[:2], *CAPTURE[6:]),
    ("restore", "criu"): (*RESTORE[:5], "tell"),
    ("restore", "worker"): RESTORE[:6],
}
"""At which steps there is no such process."""
WORKER_PID = names.FIRST_WORKER_PID + 2
VICTIMS = ("agent", "init", "criu", "worker")
SAMPLE = {
    *(("capture", "criu post-dump", "agent"), ("capture", "digest", "criu")),
    *(("capture", "committed", "agent"), ("capture", "files", "worker")),
    *(("serving", "criu post-dump", "criu"), ("serving", "commit", "agent")),
    *(("restore", "criu post-restore", "agent"), ("restore", "files", "init")),
    *(("restore", "criu post-restore", "criu"), ("restore", "stage", "agent")),
}
"""What runs each time; the rest is heavy."""


class Agent:
    """The process that works, step by step."""

    def __init__(self, what: str, wanted: dict[str, Any]) -> None:
        argv = [sys.executable, str(FOLDER / "stepping.py"), what, json.dumps(wanted)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.pid = self._process.pid

    def line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def go(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("on\n")
            self._process.stdin.flush()

    def until(self, step: str) -> None:
        """Stop at a step."""
        while (line := self.line()) != f"at {step}":
            assert line.startswith("at "), f"before {step}: {line or 'it ended'}"
            self.go()

    def end(self) -> str:
        """Go on to the end; what came of it. Empty: the agent was killed."""
        self.go()
        while (line := self.line()).startswith("at "):
            self.go()
        self._process.wait(timeout=30)
        return line

    def steps(self) -> list[str]:
        found = []
        while (line := self.line()).startswith("at "):
            found.append(line.removeprefix("at "))
            self.go()
        assert line.startswith("done"), line
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@contextlib.contextmanager
def agent(what: str, **wanted: Any) -> Iterator[Agent]:
    made = Agent(what, wanted)
    try:
        yield made
    finally:
        made.close()


class Scene:
    """A store with an artifact of before in it, and a place for containers."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.store = stores.Store(folder / "checkpoints")
        self.before = self.make()

    def make(self) -> dict[str, str]:
        """A complete artifact."""
        with self.source("first") as source, self.capturing(source) as at_work:
            found: dict[str, str] = json.loads(at_work.end().removeprefix("done "))
        return found

    @contextlib.contextmanager
    def source(self, name: str) -> Iterator[sandbox.Container]:
        argv = ("--source", "--", "python3", "-c", WORKER)
        with sandbox.container(self.folder, name, *argv) as made:
            made.start_worker()
            made.wait_for("worker ready")
            yield made

    @contextlib.contextmanager
    def capturing(
        self, source: sandbox.Container, *, leave_running: bool = False
    ) -> Iterator[Agent]:
        (root,) = procfs.children(source.pid)
        source.send("dumping")
        store = str(self.folder / "checkpoints")
        wanted = {"init": source.pid, "root": root, "hash": HASH, "store": store}
        with agent("capture", **wanted, leave_running=leave_running) as made:
            yield made

    @contextlib.contextmanager
    def restoring(self, target: sandbox.Container, generation: dict[str, str]) -> Iterator[Agent]:
        assert target.receive() == "chrek 1 start"
        target.send("restoring 30 10001 exit")
        staging = self.folder / "staging" / target.directory.name
        staging.parent.mkdir(exist_ok=True)
        wanted = {"init": target.pid, "hash": HASH, "store": str(self.folder / "checkpoints")}
        try:
            with agent("restore", **wanted, staging=str(staging), **generation) as made:
                yield made
        finally:
            # What an agent that was killed had mounted goes with its mount namespace.
            for mount in procfs.mounts(os.getpid()):
                if mount.mount_point.startswith(f"{staging}/"):
                    subprocess.run(["umount", mount.mount_point], check=True)

    def generations(self) -> list[pathlib.Path]:
        """What is in the store once abandoned stages are swept."""
        self.store.sweep(older_than_seconds=0)
        return sorted((self.folder / "checkpoints" / HASH / "aaaa").iterdir())

    def whole(self) -> list[str]:
        """UUIDs of the artifacts in the store, each of which is complete and right."""
        found = []
        for path in self.generations():
            described = manifest.decode((path / manifest.NAME).read_bytes())
            with digest.Pool() as pool:
                for file in described.files:
                    with (path / file.name).open("rb") as opened:
                        for future in pool.verify(opened.fileno(), file):
                            future.result()
            found.append(described.uuid)
        return found

    def restores(self, generation: dict[str, str], name: str) -> None:
        """A worker is restored from an artifact, and answers."""
        with (
            sandbox.container(self.folder, name, "--wait", "20", "--", "false") as target,
            self.restoring(target, generation) as at_work,
        ):
            assert at_work.end().startswith("done")
            target.send("restored")
            assert target.request("count").split()[1] == "1"


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Scene:
    return Scene(tmp_path)


def criu(of: int) -> list[int]:
    found = []
    for pid in procfs.tree(of):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(LOADER):
                found.append(pid)
    return found


def worker(of: int) -> list[int]:
    """The captured or restored program itself, known by its pid in the container."""
    return [p for p in procfs.in_pid_namespace(of) if procfs.status(p).nspids[-1] == WORKER_PID]


def kill(victim: str, at_work: Agent, container: sandbox.Container) -> None:
    found = {
        "agent": lambda: [at_work.pid],
        "init": lambda: [container.pid],
        "criu": lambda: criu(at_work.pid),
        "worker": lambda: worker(container.pid),
    }[victim]()
    assert found, f"there is no {victim} at this step"
    os.kill(found[0], signal.SIGKILL)


def wait(what: str, so: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def state(pid: int) -> str:
    try:
        return procfs.status(pid).state
    except ProcessLookupError:
        return ""


def well(pids: list[int]) -> bool:
    """Whether none of these processes is stopped, traced or stuck."""
    return all(state(pid) not in ("T", "t", "D") for pid in pids)


def points() -> Iterator[Any]:
    for what, steps in (("capture", CAPTURE), ("serving", CAPTURE), ("restore", RESTORE)):
        for step in steps:
            for victim in VICTIMS:
                if step in ABSENT.get((what, victim), ()):
                    continue
                marks = () if (what, step, victim) in SAMPLE else (pytest.mark.heavy,)
                yield pytest.param(what, step, victim, marks=marks, id=f"{what}-{step}-{victim}")


def test_these_are_the_steps(scene: Scene) -> None:
    with scene.source("one") as source, scene.capturing(source) as at_work:
        assert tuple(at_work.steps()) == CAPTURE
    with scene.source("two") as source, scene.capturing(source, leave_running=True) as at_work:
        assert tuple(at_work.steps()) == CAPTURE
    with (
        sandbox.container(scene.folder, "target", "--wait", "20", "--", "false") as target,
        scene.restoring(target, scene.before) as at_work,
    ):
        assert tuple(at_work.steps()) == RESTORE


@pytest.mark.parametrize(("what", "step", "victim"), list(points()))
def test_killed(scene: Scene, what: str, step: str, victim: str) -> None:
    if what == "restore":
        restore_killed(scene, step, victim)
    else:
        capture_killed(scene, step, victim, serving=what == "serving")
    assert not checkpoint_leftovers(scene)


def capture_killed(scene: Scene, step: str, victim: str, *, serving: bool) -> None:
    with scene.source("source") as source:
        tree = procfs.tree(procfs.children(source.pid)[0])
        with scene.capturing(source, leave_running=serving) as at_work:
            at_work.until(step)
            kill(victim, at_work, source)
            outcome = at_work.end()
            assert bool(outcome) == (victim != "agent"), outcome
        wait("CRIU is gone", lambda: not criu(source.pid))
        wait("nothing is frozen", lambda: well(tree))
        new = [uuid for uuid in scene.whole() if uuid != scene.before["uuid"]]
        if outcome.startswith("done"):
            assert new == [json.loads(outcome.removeprefix("done "))["uuid"]]
        elif outcome:
            assert not new, "an error means that there is no artifact"
        if victim in ("agent", "criu") and not (outcome.startswith("done") and not serving):
            # Nobody has told chrek-init that it is over: the source goes on.
            assert source.request("count").split()[1] == "1"
        elif victim == "init":
            wait(
                "the container is gone",
                lambda: not any(state(pid) in "RSTtD" and state(pid) for pid in tree),
            )
    scene.restores(scene.before, "afterwards")


def restore_killed(scene: Scene, step: str, victim: str) -> None:
    with sandbox.container(scene.folder, "target", "--wait", "20", "--", "false") as target:
        with scene.restoring(target, scene.before) as at_work:
            at_work.until(step)
            kill(victim, at_work, target)
            outcome = at_work.end()
            assert bool(outcome) == (victim != "agent"), outcome
        wait("CRIU is gone", lambda: not criu(target.pid))
        if outcome.startswith("done"):
            target.send("restored")
        elif victim == "agent":
            target.agent.close()
            target._lines.close()
        elif victim != "init":
            target.send(f"failed {outcome.split()[1]} it failed")
        if outcome.startswith("done") and victim == "criu":
            assert target.request("count").split()[1] == "1"
        else:
            # 75: start again. A worker that was killed after its restore ends as it would anywhere.
            expected = {"init": (1, -9, 137), "worker": (75, 137, 255)}.get(victim, (75,))
            assert target.wait(20) in expected
    assert scene.whole() == [scene.before["uuid"]]
    scene.restores(scene.before, "afterwards")


def checkpoint_leftovers(scene: Scene) -> list[str]:
    """Of CRIU or of a stage."""
    below = [path for path in scene.folder.rglob("link_remap.*")]
    return [
        *map(str, below),
        *(p.name for p in scene.generations() if not (p / manifest.NAME).exists()),
    ]
