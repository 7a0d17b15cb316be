"""What is deleted is gone, a crash on the way harms nothing, and nothing else is touched."""

import os
import threading

import msgspec
import pytest

from chrek import errors, manifest, removal
from chrek import store as stores

HASH, OTHER = "0123456789abcdef", "fedcba9876543210"
YOUNG = 3600
STEPS = ("rename", "unlink", "rmdir", "fsync")


class Crash(BaseException):
    pass


@pytest.fixture
def store(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return stores.Store(tmp_path / "checkpoints")


def artifact(store, variant="aaaa", *, identity_hash=HASH):
    """Commits one of 300 bytes and a manifest; returns its stage and digest."""
    stage = store.stage(identity_hash, variant)
    (stage.images / "pages-1.img").write_bytes(b"p" * 200)
    (stage.path / "files.data").write_bytes(b"f" * 100)
    fields = {
        "version": 1,
        "uuid": stage.uuid,
        "identityHash": identity_hash,
        "variant": variant,
        "createdAt": "2026-01-01T00:00:00Z",
        "chrekVersion": "0.1.0",
        "rootPid": 10001,
        "stdio": ["/dev/null"] * 3,
        "volumes": [],
        "source": {"architecture": "x", "kernel": "6", "hostname": "h", "addresses": []},
        "files": [],
        "steps": {},
    }
    return stage, store.commit(stage, msgspec.convert(fields, manifest.Manifest))


def delete(store, *path, **options):
    gone = []
    store.delete(*(path or (HASH,)), stage_seconds=YOUNG, on_deleted=gone.append, **options)
    return gone


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def test_an_identity_goes_with_everything(store, tmp_path):
    stages = [artifact(store, variant)[0] for variant in ("aaaa", "aaaa", "bbbb")]
    kept, digest = artifact(store, identity_hash=OTHER)
    manifests = [(stage.path / manifest.NAME).stat().st_size for stage in stages]
    gone = delete(store)
    assert {g.path for g in gone} == {f"{HASH}/{s.path.parent.name}/{s.uuid}" for s in stages}
    assert sum(g.bytes for g in gone) == 900 + sum(manifests)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [OTHER]
    assert store.open(OTHER, "aaaa", kept.uuid, digest)


@pytest.mark.parametrize("with_uuid", [True, False])
def test_a_variant_or_a_generation_goes_alone(store, with_uuid):
    first, _ = artifact(store)
    second, digest = artifact(store)
    third, other = artifact(store, "bbbb")
    gone = delete(store, HASH, "aaaa", *([first.uuid] if with_uuid else []))
    assert len(gone) == (1 if with_uuid else 2)
    assert not first.path.exists()
    assert second.path.exists() == with_uuid
    assert second.path.parent.exists() == with_uuid
    assert not with_uuid or store.open(HASH, "aaaa", second.uuid, digest)
    assert store.open(HASH, "bbbb", third.uuid, other)


def test_what_is_not_there_is_no_error(store, tmp_path):
    assert delete(store) == delete(store, HASH, "aaaa") == delete(store, HASH, "aaaa", "1") == []
    assert delete(stores.Store(tmp_path / "checkpoints", "team")) == []
    artifact(store)
    assert delete(store, HASH, "bbbb") == delete(store, HASH, "aaaa", "1") == []


def test_a_volume_that_is_not_there_is_one(tmp_path):
    with pytest.raises(errors.StoreError, match=r"absent/.*: No such file"):
        delete(stores.Store(tmp_path / "absent"))


def test_namespaces_do_not_meet(tmp_path):
    own, team = stores.Store(tmp_path), stores.Store(tmp_path, "team")
    artifact(own)
    stage, of_team = artifact(team)
    assert len(delete(own)) == 1
    assert team.open(HASH, "aaaa", stage.uuid, of_team)
    artifact(own)
    assert len(delete(team)) == 1
    assert len(delete(own)) == 1


@pytest.mark.parametrize("bad", ["..", "../x", "a/b", "/etc", ".", "a\0", "A", "f" * 65, "*"])
def test_names_that_lead_elsewhere_are_refused(store, tmp_path, bad):
    artifact(store)
    before = files(tmp_path)
    for path in ((bad,), (HASH, bad), (HASH, "aaaa", bad)):
        with pytest.raises(errors.InputError, match="is not a name in the store"):
            delete(store, *path)
    with pytest.raises(errors.InputError, match="is not a name in the store"):
        stores.Store(tmp_path / "checkpoints", bad)
    with pytest.raises(errors.InputError, match="is not a name in the store"):
        delete(store, "")
    assert files(tmp_path) == before


def test_links_are_removed_and_never_followed(store, tmp_path):
    outside = tmp_path / "outside"
    (outside / "aaaa").mkdir(parents=True)
    (outside / "aaaa" / manifest.NAME).write_text("precious")
    stage, _ = artifact(store)
    (stage.path / "link").symlink_to(outside)
    (stage.path / "criu" / "link").symlink_to(outside / "aaaa" / manifest.NAME)
    (stage.path.parent / "bbbb").symlink_to(outside / "aaaa")
    (stage.path.parents[1] / "cccc").symlink_to(outside)
    before = files(outside)
    assert [g.path for g in delete(store)] == [f"{HASH}/aaaa/{stage.uuid}"]
    assert not stage.path.exists()
    (tmp_path / "checkpoints" / OTHER).symlink_to(outside)
    with pytest.raises(errors.StoreError, match="symbolic links"):
        delete(store, OTHER)
    assert files(outside) == before


def test_what_the_store_did_not_make_stays(store, tmp_path):
    stage, _ = artifact(store)
    (stage.path.parent / "notes.txt").touch()
    (tmp_path / "checkpoints" / "lost+found").mkdir()
    assert len(delete(store)) == 1
    assert files(tmp_path / "checkpoints") == [
        HASH,
        f"{HASH}/aaaa",
        f"{HASH}/aaaa/notes.txt",
        "lost+found",
    ]


@pytest.mark.parametrize("age", [0, 2 * YOUNG])
def test_a_stage_stays_while_it_may_be_filled(store, age):
    stage = store.stage(HASH, "aaaa")
    (stage.images / "pages-1.img").write_bytes(b"x")
    done, _ = artifact(store)
    now = os.stat(stage.path).st_mtime
    for path in (stage.path, stage.images):
        os.utime(path, (now - age, now - age))
    delete(store)
    assert not done.path.exists()
    assert stage.path.exists() == (age == 0)


@pytest.mark.parametrize("finish", ["delete", "sweep"])
def test_a_crash_at_any_step_is_finished_later(tmp_path, monkeypatch, finish):
    """Whatever step is the last, each artifact is whole or unknown; in the end nothing is left."""
    for last in range(100):
        store = stores.Store(tmp_path / str(last))
        made = [artifact(store, variant) for variant in ("aaaa", "bbbb")]
        before = [files(stage.path) for stage, _ in made]
        taken = 0

        def step(real, last=last):
            def call(*args, **options):
                nonlocal taken
                taken += 1
                if taken > last:
                    raise Crash
                return real(*args, **options)

            return call

        with monkeypatch.context() as patched:
            for name in STEPS:
                patched.setattr(os, name, step(getattr(os, name)))
            try:
                delete(store)
                break
            except Crash:
                pass
        for (stage, digest), complete in zip(made, before, strict=True):
            try:
                store.open(HASH, stage.path.parent.name, stage.uuid, digest)
            except errors.ArtifactError:
                continue
            assert files(stage.path) == complete
        if finish == "sweep":
            store.sweep(older_than_seconds=YOUNG)
            known = [stage for stage, _ in made if (stage.path / manifest.NAME).exists()]
            found = sorted((tmp_path / str(last)).glob("*/*/*"))
            assert found == sorted(stage.path for stage in known)
        delete(store)
        assert files(tmp_path / str(last)) == []
    assert last > 20


def test_it_stops_between_artifacts(store):
    for _ in range(3):
        artifact(store)
    gone = []
    store.delete(HASH, stage_seconds=YOUNG, on_deleted=gone.append, stopped=lambda: len(gone) == 2)
    assert len(gone) == 2
    assert len(delete(store)) == 1


def test_captures_go_on_beside_deletions_and_sweeps(store):
    """Empty directories come and go under a capture's feet."""
    stop = threading.Event()
    problems = []

    def remove():
        while not stop.is_set():
            try:
                delete(store)
                store.sweep(older_than_seconds=YOUNG)
            except BaseException as err:
                problems.append(err)

    worker = threading.Thread(target=remove)
    worker.start()
    try:
        for _ in range(300):
            stage = store.stage(HASH, "aaaa")
            (stage.images / "pages-1.img").write_bytes(b"x")
            assert (stage.images / "pages-1.img").exists()
            store.discard(stage)
    finally:
        stop.set()
        worker.join()
    assert problems == []


def test_a_file_that_cannot_be_removed_is_named_and_the_rest_tried_again(store, monkeypatch):
    stage, _ = artifact(store)
    real = os.unlink

    def refuse(name, **options):
        if name == "files.data":
            raise PermissionError(1, "Operation not permitted", name)
        real(name, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(errors.StoreError, match=rf"{HASH}: Operation not permitted"):
        delete(store)
    monkeypatch.undo()
    assert (stage.path / removal.DELETED).exists()
    assert not (stage.path / manifest.NAME).exists()
    assert len(delete(store)) == 1
