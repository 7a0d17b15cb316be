from __future__ import annotations

import pathlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from chrek import checkpoint, errors, log, manifest, names, procfs, restore
from chrek import store as stores
from chrek.criu import images
from chrek.criu import messages_pb2 as pb
from showcase import sandbox

pytestmark = pytest.mark.system
LOG = log.get(__name__)
WORKER = pathlib.Path(__file__).with_name("worker.py").read_text()
HASH = "0123456789abcdef"
HELD_SECONDS = 0.5


@pytest.fixture
def store(tmp_path: pathlib.Path) -> stores.Store:
    return stores.Store(tmp_path / "checkpoints")


@pytest.fixture
def staging(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    with sandbox.tmpfs(tmp_path / "staging") as path:
        yield path / "one"


def start_source(source: sandbox.Container) -> int:
    root = source.start_worker()
    source.wait_for("worker ready")
    return root


def capture(source: sandbox.Container, store: stores.Store) -> checkpoint.Captured:
    root = start_source(source)
    source.request("count")
    source.send("dumping")
    wanted = checkpoint.Capture(
        init_pid=source.pid,
        root_pid=root,
        identity_hash=HASH,
        variant="aaaa",
        volumes=(manifest.Volume(path="/dev/shm", exclusive=True),),
        timeout_seconds=60,
    )
    done = checkpoint.capture(wanted, store, LOG, on_committed=lambda _: source.send("committed"))
    assert source.wait() == 0
    return done


def source(path: pathlib.Path, user: int = 0) -> sandbox.Container:
    argv = ("--source", "--", "python3", "-c", WORKER)
    return sandbox.Container(path / "source", "source", *argv, user=user)


@pytest.fixture
def captured(tmp_path: pathlib.Path, store: stores.Store) -> Iterator[checkpoint.Captured]:
    made = source(tmp_path)
    try:
        yield capture(made, store)
    finally:
        made.stop()


def open_artifact(store: stores.Store, done: checkpoint.Captured) -> stores.Artifact:
    return store.open(HASH, "aaaa", done.manifest.uuid, done.digest)


def restore_into(
    target: sandbox.Container,
    artifact: stores.Artifact,
    staging: pathlib.Path,
    *,
    pages_arrive: Callable[[], None] | None = None,
    steps: list[str] | None = None,
) -> restore.Restored:
    def progress(step: str) -> None:
        if steps is not None:
            steps.append(step)
        target.send(f"progress {step}")

    assert target.receive() == "chrek 1 start"
    target.send(f"restoring 30 {artifact.manifest.rootPid} exit")
    result = restore.restore(
        artifact,
        target.pid,
        staging,
        LOG,
        volumes={"/dev/shm": True},
        timeout_seconds=60,
        progress=progress,
        pages_arrive=pages_arrive,
    )
    target.send("restored")
    return result


def test_memory_files_threads_and_connections_come_back(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
) -> None:
    with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
        result = restore_into(target, open_artifact(store, captured), staging)
        nonce, count = target.request("count").split()
        assert count == "2"
        assert target.request("file") == f"{nonce} 1"
        assert target.request("shm") == nonce
        assert target.request("whiteout") == "False"
        assert target.request("inner") == "through"
        assert target.request("ticks") == "True"
        target.request("print hello")
        target.wait_for("hello")
        root = target.child(captured.manifest.rootPid)
        for kind in procfs.NAMESPACES:
            assert procfs.namespace(root, kind) == procfs.namespace(target.pid, kind), kind
        assert procfs.mounts(root) == procfs.mounts(target.pid)
        assert not list(staging.parent.iterdir())
        assert set(result.seconds) >= {"stage", "privilege", "sockets", "files", "criu"}
        assert target.request("exit 42") == ""
        assert target.wait() == 42


def test_a_worker_that_is_not_root(
    tmp_path: pathlib.Path, store: stores.Store, staging: pathlib.Path
) -> None:
    made = source(tmp_path, user=65532)
    try:
        done = capture(made, store)
    finally:
        made.stop()
    argv = ("--wait", "20", "--", "false")
    with sandbox.container(tmp_path, "target", *argv, user=65532) as target:
        restore_into(target, open_artifact(store, done), staging)
        assert target.request("count").split()[1] == "2"
        root = target.child(done.manifest.rootPid)
        for pid in procfs.tree(root):
            assert procfs.status(pid).uids == (65532,) * 4
    with (
        sandbox.container(tmp_path / "root", "target", *argv) as target,
        pytest.raises(errors.PrivilegeError, match="user ids"),
    ):
        restore_into(target, open_artifact(store, done), staging)


def test_a_failed_commit_lets_the_worker_run_on(
    tmp_path: pathlib.Path, store: stores.Store
) -> None:
    made = source(tmp_path)
    try:
        root = start_source(made)
        first = made.request("count")

        def refuse(_: checkpoint.Captured) -> None:
            raise errors.StoreError("the store went away")

        wanted = checkpoint.Capture(
            init_pid=made.pid, root_pid=root, identity_hash=HASH, variant="aaaa"
        )
        with pytest.raises(errors.StoreError, match="went away"):
            checkpoint.capture(wanted, store, LOG, on_committed=refuse)
        assert made.request("count").split() == [first.split()[0], "2"]
        assert not list((tmp_path / "checkpoints").rglob(manifest.NAME))
    finally:
        made.stop()


def test_a_process_outside_the_tree_is_refused(
    tmp_path: pathlib.Path, store: stores.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "OUTSIDERS_SECONDS", 0.2)
    made = source(tmp_path)
    outsider = None
    try:
        root = start_source(made)
        argv = ["nsenter", "-t", str(made.pid), "-p", "-m", "sleep", "60"]
        outsider = subprocess.Popen(argv)
        while not checkpoint.outsiders(made.pid, root):
            pass
        wanted = checkpoint.Capture(
            init_pid=made.pid, root_pid=root, identity_hash=HASH, variant="aaaa"
        )
        with pytest.raises(errors.UnsupportedError, match="sleep") as caught:
            checkpoint.capture(wanted, store, LOG)
        assert caught.value.reason == names.Reason.PROCESSES_OUTSIDE_TREE
    finally:
        if outsider:
            outsider.kill()
            outsider.wait()
        made.stop()


def damage(artifact: stores.Artifact, name: str) -> None:
    path = artifact.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["criu/pages-1.img", "criu/files.img", "files.data"])
def test_one_flipped_bit_is_found_before_anything_runs(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
    name: str,
) -> None:
    artifact = open_artifact(store, captured)
    damage(artifact, name)
    with (
        sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target,
        pytest.raises(errors.ArtifactError) as caught,
    ):
        restore_into(target, artifact, staging)
    assert caught.value.reason == names.Reason.ARTIFACT_CORRUPT
    assert not list(staging.parent.iterdir())


def take_pages(artifact: stores.Artifact) -> Callable[[], None]:
    """Leave files of the same size with nothing in them; returns what puts the pages back."""
    kept = {path: path.read_bytes() for path in (artifact.path / "criu").glob("pages-*")}
    for path, data in kept.items():
        path.write_bytes(bytes(len(data)))

    def put() -> None:
        for path, data in kept.items():
            path.write_bytes(data)

    assert kept
    return put


def test_criu_has_started_when_the_pages_arrive(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
) -> None:
    artifact = open_artifact(store, captured)
    put, steps, seen = take_pages(artifact), list[str](), list[str]()

    def arrive() -> None:
        seen.extend(steps)
        time.sleep(HELD_SECONDS)
        put()

    with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
        result = restore_into(target, artifact, staging, pages_arrive=arrive, steps=steps)
        assert target.request("count").split()[1] == "2"
    assert seen == ["stage", "privilege", "sockets", "files", "criu", "pre-restore", "pages"]
    assert result.seconds["pages"] > HELD_SECONDS
    assert 0 < result.seconds["criu"] < result.total_seconds - HELD_SECONDS


@pytest.mark.parametrize("how", ["the server is gone", "damaged"])
def test_pages_that_do_not_arrive(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
    how: str,
) -> None:
    artifact = open_artifact(store, captured)
    take_pages(artifact)

    def arrive() -> None:
        if how != "damaged":
            raise errors.StoreError(how)

    with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
        with pytest.raises((errors.StoreError, errors.ArtifactError)) as caught:
            restore_into(target, artifact, staging, pages_arrive=arrive)
        assert procfs.children(target.pid) == []
    damaged = how == "damaged"
    assert (caught.value.reason == names.Reason.ARTIFACT_CORRUPT) == damaged
    assert damaged or caught.value.message == how
    assert not list(staging.parent.iterdir())


def test_a_missing_file_is_named(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
) -> None:
    artifact = open_artifact(store, captured)
    (artifact.path / "criu/pages-1.img").unlink()
    with (
        sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target,
        pytest.raises(errors.ArtifactError, match=r"pages-1\.img") as caught,
    ):
        restore_into(target, artifact, staging)
    assert caught.value.reason == names.Reason.ARTIFACT_MISSING


def test_credentials_edited_to_all_capabilities_are_refused(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
) -> None:
    artifact = open_artifact(store, captured)
    name = f"criu/core-{captured.manifest.rootPid}.img"
    path = artifact.path / name
    (core,) = images.read(path, pb.CoreEntry)
    for held in (core.thread_core.creds.cap_eff, core.thread_core.creds.cap_prm):
        held[:] = [0xFFFFFFFF, 0xFFFFFFFF]
    forged = reseal(artifact, name, images.encode(path.name, [core]))
    with (
        sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target,
        pytest.raises(errors.PrivilegeError, match="capabilities"),
    ):
        restore_into(target, forged, staging)


def reseal(artifact: stores.Artifact, name: str, data: bytes) -> stores.Artifact:
    """What an attacker with the store and the status can do: any content, digests that match."""
    import blake3

    (artifact.path / name).write_bytes(data)
    entry = manifest.File(name=name, size=len(data), chunks=[blake3.blake3(data).hexdigest()])
    files = [entry if f.name == name else f for f in artifact.manifest.files]
    forged = msgspec.structs.replace(artifact.manifest, files=files)
    return stores.Artifact(path=artifact.path, manifest=forged)


def test_a_symlink_in_the_container_leads_nowhere(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
        upper = target.directory / "upper"
        root = pathlib.Path(f"/proc/{target.pid}/root")
        shutil.rmtree(root / "var/tmp")
        (root / "var/tmp").symlink_to(f"/../../../../{outside}")
        assert (upper / "var/tmp").is_symlink()
        restore_into(target, open_artifact(store, captured), staging)
        assert not list(outside.iterdir())
        assert target.request("file").split()[1] == "1"


def test_no_preload_file_or_plugin_of_the_container_is_used(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
) -> None:
    source_path = tmp_path / "evil.c"
    source_path.write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) void f(void)"
        '{open("/dev/shm/owned", O_CREAT | O_WRONLY, 0600);}\n'
    )
    with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
        root = pathlib.Path(f"/proc/{target.pid}/root")
        library = root / "opt/evil.so"
        argv = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source_path)]
        subprocess.run(argv, check=True)
        (root / "etc/ld.so.preload").write_text("/opt/evil.so\n")
        plugins = root / "usr/lib/criu"
        plugins.mkdir(parents=True)
        shutil.copy(library, plugins / "evil.so")
        (root / "etc/criu").mkdir()
        (root / "etc/criu/default.conf").write_text("action-script /bin/false\n")
        # The file is there and works: any ordinary program of the container loads it.
        subprocess.run(["nsenter", "-t", str(target.pid), "-m", "true"], check=True)
        assert (root / "dev/shm/owned").exists()
        (root / "dev/shm/owned").unlink()
        restore_into(target, open_artifact(store, captured), staging)
        assert not (root / "dev/shm/owned").exists()
        assert target.request("count").split()[1] == "2"


def test_the_captured_chrek_init_is_put_back_after_an_upgrade(
    tmp_path: pathlib.Path,
    store: stores.Store,
    captured: checkpoint.Captured,
    staging: pathlib.Path,
) -> None:
    with sandbox.container(tmp_path, "target", "--wait", "20", "--", "false") as target:
        installed = target.directory / "chrek/chrek-init"
        before = installed.read_bytes()
        newer = target.directory / "chrek/newer"
        newer.write_bytes(before + b"another version")
        newer.rename(installed)
        restore_into(target, open_artifact(store, captured), staging)
        assert installed.read_bytes() == before
        assert target.request("count").split()[1] == "2"
