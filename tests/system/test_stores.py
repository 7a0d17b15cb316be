"""Stores that are full, read-only, slow or gone: the worker runs on, and nothing is half."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

from chrek import checkpoint, errors, log, manifest, names, procfs
from chrek import store as stores
from showcase import sandbox
from system.test_crash_matrix import HASH, Scene, criu, wait, well

pytestmark = pytest.mark.system
LOG = log.get(__name__)
VOLUMES = (manifest.Volume(path="/dev/shm", exclusive=True),)


@contextlib.contextmanager
def mounted(path: pathlib.Path, *options: str) -> Iterator[pathlib.Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", *options, "store", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def attempt(source: sandbox.Container, store: stores.Store, seconds: float = 30) -> None:
    source.send("dumping")
    wanted = checkpoint.Capture(
        init_pid=source.pid,
        root_pid=procfs.children(source.pid)[0],
        identity_hash=HASH,
        variant="aaaa",
        volumes=VOLUMES,
        timeout_seconds=seconds,
    )
    checkpoint.capture(wanted, store, LOG)


def assert_unharmed(source: sandbox.Container, path: pathlib.Path) -> None:
    assert well(procfs.tree(procfs.children(source.pid)[0]))
    assert source.request("count").split()[1] == "1"
    assert not [one for one in path.rglob("*") if one.is_file()], "nothing is left in the store"


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Scene:
    return Scene(tmp_path)


def test_full_is_foreseen(scene: Scene, tmp_path: pathlib.Path) -> None:
    with mounted(tmp_path / "small", "-o", "size=2m") as path, scene.source("source") as source:
        with pytest.raises(errors.StoreError) as caught:
            attempt(source, stores.Store(path))
        assert caught.value.reason == names.Reason.NOT_ENOUGH_SPACE
        assert_unharmed(source, path)


@pytest.mark.parametrize("kibibytes", [4096, 6144, 7168])
def test_full_all_the_same(
    scene: Scene, tmp_path: pathlib.Path, kibibytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota smaller than what the file system says: it ends in the images, or in the files."""
    monkeypatch.setattr("chrek.space.free_bytes", lambda path: None)
    options = ("-o", f"size={kibibytes}k")
    with mounted(tmp_path / "small", *options) as path, scene.source("source") as source:
        (path / "others").write_bytes(bytes(2 << 20))
        with pytest.raises((errors.StoreError, errors.CriuError)):
            attempt(source, stores.Store(path))
        (path / "others").unlink()
        assert_unharmed(source, path)


def test_read_only(scene: Scene, tmp_path: pathlib.Path) -> None:
    with mounted(tmp_path / "fixed", "-o", "ro") as path, scene.source("source") as source:
        with pytest.raises(errors.StoreError, match="Read-only"):
            attempt(source, stores.Store(path))
        assert_unharmed(source, path)


def test_one_that_vanishes(
    scene: Scene, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unmounted in the middle, as a network volume is that is forced off."""
    path = tmp_path / "gone"
    commit = stores.Store.commit

    def late(self: stores.Store, stage: stores.Stage, described: manifest.Manifest) -> str:
        subprocess.run(["umount", "-l", str(path)], check=True)
        return commit(self, stage, described)

    monkeypatch.setattr(stores.Store, "commit", late)
    with mounted(path), scene.source("source") as source:
        with pytest.raises((errors.StoreError, OSError)):
            attempt(source, stores.Store(path))
        assert_unharmed(source, path)


def test_a_slow_one(scene: Scene, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit ends a dump that does not get on: CRIU is stopped in the middle of it."""
    with mounted(tmp_path / "slow") as path, scene.source("source") as source:

        def hold() -> None:
            found: list[int] = []
            wait("CRIU writes", lambda: found.extend(criu(os.getpid())) or found)
            os.kill(found[0], signal.SIGSTOP)

        thread = threading.Thread(target=hold)
        thread.start()
        with pytest.raises(errors.CriuError) as caught:
            attempt(source, stores.Store(path), seconds=3)
        thread.join()
        assert caught.value.reason == names.Reason.DUMP_TIMEOUT
        assert_unharmed(source, path)
