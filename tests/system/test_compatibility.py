"""Facts of real containers: captured, broken one by one in a new one, and seen."""

from __future__ import annotations

import contextlib
import io
import logging
import pathlib
import subprocess
import time
from collections.abc import Iterator

import pytest

from chrek import checkpoint, compatibility, errors, facts, log, manifest, restore
from chrek import store as stores
from showcase import sandbox

pytestmark = pytest.mark.system
LOG = log.get(__name__)
HASH = "0123456789abcdef"
CANARY = "canary-7f3d9c51e8"
DECLARED = compatibility.Facts(image="llm:1", command=["serve"], environment={"A": "1"})
VOLUMES = {"/models": "shared", "/host": "node", "/etc/tls": "secret"}
ORIGIN = compatibility.Origin(variables={"TOKEN": "secret", "LEVEL": "configMap"}, volumes=VOLUMES)
BEFORE = ("env", f"TOKEN={CANARY}", "LEVEL=high")
WORKER = """
import mmap, os
model = open("/models/weights")
mapped = mmap.mmap(os.open("/host/table", os.O_RDONLY), 0, prot=mmap.PROT_READ)
print("worker ready", flush=True)
while True:
    os.read(os.pipe()[0], 1)
"""


def inside(made: sandbox.Container, script: str) -> None:
    argv = ["nsenter", "-t", str(made.pid), "-m", "sh", "-ec", script]
    subprocess.run(argv, check=True, timeout=10)


def volumes(made: sandbox.Container, shared: pathlib.Path) -> None:
    """Mounts that a kubelet would have made before the container began."""
    inside(made, "mount -o remount,size=8m /dev/shm")
    for point in VOLUMES:
        inside(made, f"mkdir -p {point}; mount -t tmpfs -o size=1m volume {point}")
    for name in ("models/weights", "host/table"):
        source, target = shared / pathlib.Path(name).name, f"/{name}"
        inside(made, f"printf %s {source.read_text()} > {target}; touch -d @1700000000 {target}")
    inside(made, "printf %s key-of-tls > /etc/tls/tls.key")


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """All that the agent would write to its log, at its most talkative."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(log.JsonFormatter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


@contextlib.contextmanager
def target(
    path: pathlib.Path, shared: pathlib.Path, *, user: int = 0, before: tuple[str, ...] = BEFORE
) -> Iterator[sandbox.Container]:
    argv = ("--wait", "20", "--", "false")
    with sandbox.container(path, "target", *argv, user=user, before=before) as made:
        volumes(made, shared)
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("shared")
    (path / "weights").write_text("w" * 1000)
    (path / "table").write_text("t" * 1000)
    return path


@pytest.fixture(scope="module")
def captured(
    tmp_path_factory: pytest.TempPathFactory, shared: pathlib.Path
) -> Iterator[tuple[checkpoint.Captured, stores.Artifact, str]]:
    """An artifact, and CRIU's log of the dump that made it."""
    path = tmp_path_factory.mktemp("source")
    argv = ("--source", "--", "python3", "-c", WORKER)
    made = sandbox.Container(path / "source", "source", *argv, before=BEFORE)
    store = stores.Store(path / "checkpoints")
    try:
        volumes(made, shared)
        root = made.start_worker()
        made.wait_for("worker ready")
        made.send("dumping")
        wanted = checkpoint.Capture(
            init_pid=made.pid,
            root_pid=root,
            identity_hash=HASH,
            variant="aaaa",
            image="llm:1",
            command=("serve",),
            environment={"A": "1"},
            origin=ORIGIN,
            volumes=(manifest.Volume(path="/dev/shm", exclusive=True),),
            timeout_seconds=60,
        )
        with logged() as said:
            done = checkpoint.capture(
                wanted, store, LOG, on_committed=lambda _: made.send("committed")
            )
        artifact = store.open(HASH, "aaaa", done.manifest.uuid, done.digest)
        dump_log = artifact.path / "criu" / checkpoint.DUMP_LOG
        yield done, artifact, said.getvalue() + dump_log.read_text(errors="replace")
    finally:
        made.stop()


def compared(made, captured, declared=DECLARED):
    before = captured[0].manifest.source
    compatibility.compare(before, facts.present(made.pid, ORIGIN, declared, before))


def test_a_container_like_the_captured_one_fits(tmp_path, shared, captured):
    source = captured[0].manifest.source
    assert {f.path for f in source.volumeFiles} == {"/models/weights", "/host/table"}
    assert any("python3" in f.path for f in source.imageFiles)
    assert set(source.secrets) == {"TOKEN", "/etc/tls/tls.key"}
    assert set(source.configMaps) == {"LEVEL"}
    assert (source.tasks, source.user.uids) == (2, [0] * 4)
    assert source.criu.startswith("4.")
    with target(tmp_path, shared) as made:
        compared(made, captured)
        begin = time.perf_counter()
        compared(made, captured)
        print(f"compared in {1000 * (time.perf_counter() - begin):.1f} ms")


BROKEN = {
    "UserDiffers": ("", 65532, BEFORE),
    "SecretDiffers": ("", 0, ("env", "TOKEN=another", "LEVEL=high")),
    "ConfigMapDiffers": ("", 0, ("env", f"TOKEN={CANARY}", "LEVEL=low")),
    "SecretDiffers in a file": ("echo more >> /etc/tls/tls.key", 0, BEFORE),
    "MountsDiffer": ("umount /models", 0, BEFORE),
    "MountsDiffer by writing": ("mount -o remount,ro /models", 0, BEFORE),
    "SharedMemoryTooSmall": ("mount -o remount,size=64k /dev/shm", 0, BEFORE),
    "ImageDiffers": ("touch -d @1 $(readlink -f /usr/bin/python3)", 0, BEFORE),
    "ImageDiffers by removal": ("rm $(readlink -f /usr/bin/python3)", 0, BEFORE),
    "FileChanged by time": ("touch -d @1 /models/weights", 0, BEFORE),
    "FileChanged by size": ("echo >> /models/weights", 0, BEFORE),
    "FileChanged by content": ("printf %s x | dd of=/host/table conv=notrunc", 0, BEFORE),
    "FileChanged by a link": ("ln -sf /proc/self/environ /host/table", 0, BEFORE),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_thing_that_differs(tmp_path, shared, captured, name):
    script, user, before = BROKEN[name]
    with target(tmp_path, shared, user=user, before=before) as made:
        inside(made, script)
        with pytest.raises(errors.CompatibilityError) as caught:
            compared(made, captured)
    assert caught.value.reason == name.split()[0]
    assert CANARY not in str(caught.value)


def test_a_restore_that_fails_tells_no_value_of_the_environment(tmp_path, shared, captured):
    _, artifact, _ = captured
    with (
        sandbox.tmpfs(tmp_path / "staging") as staging,
        target(tmp_path, shared) as made,
        logged() as said,
    ):
        inside(made, "rm /models/weights")
        made.receive()
        made.send(f"restoring 30 {artifact.manifest.rootPid} exit")
        with pytest.raises(errors.CriuError, match="weights") as caught:
            restore.restore(
                *(artifact, made.pid, staging / "one", LOG),
                volumes={"/dev/shm": True},
                timeout_seconds=60,
            )
        LOG.warning("restore failed", error=str(caught.value), log=caught.value.log)
    assert "weights" in caught.value.log
    assert "restore failed" in said.getvalue()
    for text in (str(caught.value), caught.value.log, said.getvalue(), made.output):
        assert CANARY not in text


def test_neither_log_nor_manifest_has_a_value_of_the_environment(captured):
    """Memory has it; the manifest and CRIU's log of the dump, at the level that is kept, do not."""
    done, artifact, dump_log = captured
    assert CANARY not in manifest.encode(done.manifest).decode()
    # Its last line may be missing: CRIU ends with the container that it captured.
    assert "Writing image inventory" in dump_log
    assert "step ended" in dump_log
    assert CANARY not in dump_log
    pages = b"".join(p.read_bytes() for p in artifact.path.glob("criu/pages-*.img"))
    assert CANARY.encode() in pages, "the canary was never in the worker: this test shows nothing"
