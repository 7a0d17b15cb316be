"""Workers with GPU memory, captured and restored by CRIU and a stand-in of the CUDA driver.

Device memory is a file of the node that only a running process has mapped: what CRIU restores alone
is a worker without it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest

from chrek import checkpoint, errors, gpustate, log, manifest, procfs, restore
from chrek import store as stores
from chrek.cuda import client
from chrek.cuda import gpus as devices
from gpu.standin import build
from showcase import sandbox

pytestmark = pytest.mark.system
LOG = log.get(__name__)
WORKLOAD = pathlib.Path(__file__).parents[1] / "gpu/workload.py"
HASH = "0123456789abcdef"
BYTES = 4 << 20
LIBRARIES = "usr/lib/x86_64-linux-gnu"
IN_CONTAINER = "/run/standin-gpu"


class Site:
    """A node with GPUs: its directory, and the agent's door to its driver."""

    def __init__(self, path: pathlib.Path, name: str, gpus: int = 2) -> None:
        made = [
            build.Gpu(minor=minor, uuid=build.gpu_uuid(f"{name}/{minor}"), bytes=64 << 20)
            for minor in range(gpus)
        ]
        self.node = build.Node(path / name, made)
        libraries = path / f"{name}-host/driver" / LIBRARIES
        libraries.mkdir(parents=True)
        for library in build.LIBRARIES:
            shutil.copy(build.build() / library, libraries / library)
        self.helper = client.Helper(
            scratch=path / f"{name}-scratch", roots=["/driver"], host=path / f"{name}-host"
        )
        self.lock_timeout_seconds = 20.0

    @contextlib.contextmanager
    def serving(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setenv("CHREK_STANDIN_NODE", str(self.node.path))
            self.helper.start()
        try:
            yield
        finally:
            self.helper.close()

    def gpus(self) -> devices.Gpus:
        return devices.Gpus(self.helper, lock_timeout_seconds=self.lock_timeout_seconds)

    def container(
        self, path: pathlib.Path, name: str, *argv: str, minors: tuple[int, ...] = (0, 1)
    ) -> sandbox.Container:
        """A container as a GPU runtime makes it: libraries and device files of its GPUs."""
        node, libraries = shlex.quote(str(self.node.path)), build.build()
        lines = [f"mkdir -p .{IN_CONTAINER}", f"mount --bind {node} .{IN_CONTAINER}"]
        for library in build.LIBRARIES:
            there = f"{LIBRARIES}/{library}"
            source = shlex.quote(str(libraries / library))
            lines += [f"touch {there}", f"mount --bind {source} {there}"]
        for device in ("nvidiactl", "nvidia-uvm", *(f"nvidia{minor}" for minor in minors)):
            lines.append(f"mknod -m 666 dev/{device} c 1 3")
        prepare = "; ".join(lines)
        return sandbox.Container(path / name, name, *argv, user=65532, prepare=prepare)


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path, "here")
    with site.serving(monkeypatch):
        yield site


@pytest.fixture
def there(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path, "there")
    with site.serving(monkeypatch):
        yield site


@pytest.fixture
def store(tmp_path: pathlib.Path) -> stores.Store:
    return stores.Store(tmp_path / "checkpoints")


class Source:
    """A worker that is to be captured."""

    def __init__(
        self,
        site: Site,
        path: pathlib.Path,
        *,
        minors: tuple[int, ...] = (0, 1),
        before: str = "",
        **variables: str,
    ) -> None:
        self.site = site
        given = [f"{name}={value}" for name, value in {"BYTES": str(BYTES), **variables}.items()]
        text = before + WORKLOAD.read_text()
        argv = ("--source", "--", "env", *given, "python3", "-c", text)
        self.container = site.container(path, "source", *argv, minors=minors)
        try:
            self.root = self.container.start_worker()
            self.container.wait_for("workload ready")
        except BaseException:
            self.container.stop()
            raise

    def ask(self, words: str) -> str:
        return self.container.request(words)

    def wanted(self, **more: object) -> checkpoint.Capture:
        return checkpoint.Capture(
            init_pid=self.container.pid,
            root_pid=self.root,
            identity_hash=HASH,
            variant="aaaa",
            volumes=(manifest.Volume(path="/dev/shm", exclusive=True),),
            timeout_seconds=60,
            **more,
        )

    def capture(self, store: stores.Store) -> checkpoint.Captured:
        self.container.send("dumping")
        done = checkpoint.capture(
            self.wanted(),
            store,
            LOG,
            gpus=self.site.gpus(),
            on_committed=lambda _: self.container.send("committed"),
        )
        assert self.container.wait() == 0
        return done


@pytest.fixture
def start(here: Site, tmp_path: pathlib.Path) -> Iterator[object]:
    """A function that starts the worker that is to be captured."""
    made: list[Source] = []

    def begin(**more: object) -> Source:
        made.append(Source(here, tmp_path, **more))
        return made[-1]

    yield begin
    for source in made:
        source.container.stop()


@contextlib.contextmanager
def target(
    site: Site, path: pathlib.Path, *, minors: tuple[int, ...] = (0, 1)
) -> Iterator[sandbox.Container]:
    made = site.container(path, "target", "--wait", "20", "--", "false", minors=minors)
    try:
        yield made
    finally:
        made.stop()


def restored(
    site: Site,
    into: sandbox.Container,
    path: pathlib.Path,
    store: stores.Store,
    done: checkpoint.Captured,
    gpus: devices.Gpus | None = None,
) -> restore.Restored:
    artifact = store.open(HASH, "aaaa", done.manifest.uuid, done.digest)
    assert into.receive() == "chrek 1 start"
    into.send(f"restoring 30 {done.manifest.rootPid} exit")
    with sandbox.tmpfs(path / "staging") as staging:
        result = restore.restore(
            artifact,
            into.pid,
            staging / "one",
            LOG,
            volumes={"/dev/shm": True},
            gpus=gpus or site.gpus(),
            timeout_seconds=60,
            progress=lambda step: into.send(f"progress {step}"),
        )
    into.send("restored")
    return result


ONE_OF_MANY = {"GPUS": "0", "minors": (1,)}
BOTH = {"GPUS": "0,1"}
RANKS = {"GPUS": "0,1", "PROCESSES": "1"}


@pytest.mark.parametrize(
    ("options", "onto"),
    [(ONE_OF_MANY, (0,)), (BOTH, (0, 1)), (RANKS, (0, 1))],
    ids=["one GPU", "two GPUs", "a process for each GPU"],
)
def test_device_memory_comes_back_on_other_gpus(
    here, there, start, store, tmp_path, options, onto
) -> None:
    source = start(**options)
    digest, pinned, nonce = (source.ask(words) for words in ("add 7", "pinned", "nonce"))
    minors = options.get("minors", (0, 1))
    assert source.ask("uuids").split() == [here.node.uuids[minor] for minor in minors]
    done = source.capture(store)
    count = len(minors)
    processes = count if options is RANKS else 1
    assert len(done.manifest.gpu.processes) == processes
    assert done.manifest.gpu.used == {here.node.uuids[minor]: BYTES for minor in minors}
    assert [gpu.uuid for gpu in done.manifest.source.gpuDevices] == [
        here.node.uuids[minor] for minor in minors
    ]
    assert done.manifest.source.gpuNode == here.node.uuids
    assert done.manifest.source.gpuDriver == "580.65.06"
    assert done.manifest.bytes >= count * BYTES
    assert {"gpu_lock", "gpu_checkpoint"} <= done.manifest.steps.keys()
    assert not any(here.node.used(minor) for minor in (0, 1)), "the worker's memory is freed"

    with target(there, tmp_path, minors=onto) as into:
        result = restored(there, into, tmp_path, store, done)
        assert {"gpu_restore", "gpu_unlock"} <= result.seconds.keys()
        assert into.request("nonce") == nonce
        assert into.request("digest") == digest
        assert into.request("pinned") == pinned
        assert into.request("uuids").split() == [there.node.uuids[minor] for minor in onto]
        assert [there.node.used(minor) for minor in onto] == [BYTES] * count
        before = int(into.request("calls").split()[0])
        assert into.request("add 1") != digest
        assert int(into.request("calls").split()[0]) >= before


def test_a_restore_without_the_driver_is_refused_before_anything_runs(
    here, start, store, tmp_path
) -> None:
    done = start(GPUS="0").capture(store)
    described = msgspec.json.decode(msgspec.json.encode(done.manifest), type=manifest.Manifest)
    with target(here, tmp_path) as into:
        with pytest.raises(errors.CompatibilityError) as caught:
            gpustate.plan(described, into.pid, None)
        assert caught.value.reason == "GpuUnavailable"


def test_a_worker_that_serves_on_has_its_gpus_back(here, start, store, tmp_path) -> None:
    source = start(GPUS="0,1")
    digest = source.ask("digest")
    told = []

    def resumed() -> None:
        told.append(source.ask("digest"))

    source.container.send("dumping")
    done = checkpoint.capture(
        source.wanted(leave_running=True), store, LOG, gpus=here.gpus(), on_resumed=resumed
    )
    assert told == [digest], "before its artifact is complete"
    assert {"gpu_restore", "gpu_unlock"} - done.manifest.steps.keys() == set()
    before = int(source.ask("calls"))
    time.sleep(0.1)
    assert int(source.ask("calls")) > before
    source.container.stop()
    with target(here, tmp_path) as into:
        restored(here, into, tmp_path, store, done)
        assert into.request("digest") == digest


def test_a_dump_that_fails_gives_the_gpus_back(here, start, store) -> None:
    source = start(GPUS="0,1")
    digest = source.ask("digest")
    source.container.send("dumping")

    def refuse(_: object) -> None:
        raise errors.StoreError("no")

    with pytest.raises(errors.StoreError, match="no"):
        checkpoint.capture(
            source.wanted(), store, LOG, gpus=here.gpus(), on_committed=refuse
        )  # fmt: skip
    assert source.ask("digest") == digest
    assert not list(store.base.rglob("manifest.json"))
    assert source.capture(store), "another attempt"


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("checkpoint 2", "InsufficientHostMemory"),
        ("checkpoint 801", "GpuStateUnsupported"),
        ("checkpoint 999", "GpuCheckpointFailed"),
        ("lock 801", "GpuStateUnsupported"),
    ],
)
def test_a_driver_that_refuses_a_capture_costs_nothing(here, start, store, fail, reason) -> None:
    source = start(GPUS="0")
    digest = source.ask("digest")
    here.node.fail(fail)
    with pytest.raises(errors.GpuError) as caught:
        checkpoint.capture(source.wanted(), store, LOG, gpus=here.gpus())
    assert caught.value.reason == reason
    here.node.fail()
    assert source.ask("digest") == digest


def test_work_on_a_gpu_that_does_not_end_is_waited_for_a_while(here, start, store) -> None:
    source = start(GPUS="0,1")
    digest = source.ask("digest")
    here.node.fail("hang synchronize 60")
    here.lock_timeout_seconds = 0.5
    waiting = subprocess.Popen(
        ["nsenter", "-t", str(source.container.pid), "-n", "bash", "-c",
         "exec 3<>/dev/tcp/127.0.0.1/8000; echo synchronize >&3; read line <&3"],
    )  # fmt: skip
    time.sleep(0.3)
    with pytest.raises(errors.GpuError, match=r"did not end within 0\.5 seconds") as caught:
        checkpoint.capture(source.wanted(), store, LOG, gpus=here.gpus())
    assert caught.value.reason == "GpuLockTimeout"
    here.node.fail()
    waiting.wait(10)
    assert source.ask("digest") == digest


def test_memory_that_others_have_is_missed_before_anything_runs(
    here, there, start, store, tmp_path
) -> None:
    done = start(GPUS="0", BYTES=str(48 << 20)).capture(store)
    with target(there, tmp_path) as into:
        other = there.container(
            tmp_path, "other", "--source", "--", "env", f"BYTES={40 << 20}", "GPUS=0,1",
            "python3", "-c", WORKLOAD.read_text(),
        )  # fmt: skip
        try:
            other.start_worker()
            other.wait_for("workload ready")
            with pytest.raises(errors.GpuError) as caught:
                gpustate.plan(done.manifest, into.pid, there.gpus())
            assert caught.value.reason == "GpuMemoryTooSmall"
        finally:
            other.stop()


def test_a_driver_that_cannot_restore(here, there, start, store, tmp_path) -> None:
    done = start(GPUS="0,1").capture(store)
    there.node.fail("restore 999")
    with target(there, tmp_path) as into:
        with pytest.raises(errors.GpuError) as caught:
            restored(there, into, tmp_path, store, done)
        assert caught.value.reason == "GpuRestoreFailed"


def test_another_number_of_gpus(here, start, store, tmp_path, monkeypatch) -> None:
    done = start(GPUS="0").capture(store)
    site = Site(tmp_path, "smaller", 1)
    with site.serving(monkeypatch), target(site, tmp_path, minors=(0,)) as into:
        with pytest.raises(errors.CompatibilityError) as caught:
            gpustate.plan(done.manifest, into.pid, site.gpus())
        assert caught.value.reason == "GpuCountDiffers"


def test_a_device_file_that_something_else_holds_is_named(here, start, store) -> None:
    source = start(GPUS="0", before="held = open('/dev/nvidiactl')\n")
    digest = source.ask("digest")
    with pytest.raises(errors.UnsupportedError, match="/dev/nvidiactl") as caught:
        checkpoint.capture(source.wanted(), store, LOG, gpus=here.gpus())
    assert caught.value.reason == "GpuFileOpen"
    assert source.ask("digest") == digest


KILLED = """
import os, pathlib, sys
from chrek import checkpoint, log, manifest, store
from chrek.cuda import client, gpus
scratch, host, init_pid, root_pid, base = sys.argv[1:]
helper = client.Helper(scratch=pathlib.Path(scratch), roots=["/driver"], host=pathlib.Path(host))
wanted = checkpoint.Capture(init_pid=int(init_pid), root_pid=int(root_pid),
                            identity_hash="0123456789abcdef", variant="aaaa", timeout_seconds=60)
checkpoint.capture(wanted, store.Store(pathlib.Path(base)), log.get("killed"),
                   gpus=gpus.Gpus(helper))
"""


def test_an_agent_that_is_killed_with_the_gpus_suspended(here, start, store, tmp_path) -> None:
    source = start(GPUS="0,1", PROCESSES="1")
    digest = source.ask("digest")
    here.node.fail("hang checkpoint 60 1")
    argv = [str(tmp_path / "scratch"), str(tmp_path / "here-host")]
    argv += [str(source.container.pid), str(source.root), str(tmp_path / "checkpoints")]
    agent = subprocess.Popen(
        [sys.executable, "-c", KILLED, *argv],
        env={**os.environ, "CHREK_STANDIN_NODE": str(here.node.path)},
    )
    try:
        deadline = time.monotonic() + 20
        ranks = [pid for pid in procfs.tree(source.root) if pid != source.root]
        while not any(here.helper.state(pid) == "checkpointed" for pid in ranks):
            assert agent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    here.node.fail()
    gpustate.release(source.root, here.gpus(), LOG)
    assert source.ask("digest") == digest
    assert source.capture(store)
