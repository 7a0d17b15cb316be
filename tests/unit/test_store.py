"""An artifact exists as a whole or not at all, and is found only by what the status says of it."""

import os
import pathlib
import stat
import uuid

import msgspec
import pytest

from chrek import errors, manifest, names
from chrek import store as stores

HASH = "0123456789abcdef"


def described(stage, **changed):
    fields = {
        "version": 1,
        "uuid": stage.uuid,
        "identityHash": HASH,
        "variant": "aaaa",
        "createdAt": "2026-01-01T00:00:00Z",
        "chrekVersion": "0.1.0",
        "rootPid": 10001,
        "stdio": ["/dev/null"] * 3,
        "volumes": [],
        "source": {"architecture": "x", "kernel": "6", "hostname": "h", "addresses": []},
        "files": [],
        "steps": {},
    }
    return msgspec.convert({**fields, **changed}, manifest.Manifest)


@pytest.fixture
def store(tmp_path):
    return stores.Store(tmp_path / "checkpoints")


def test_what_is_committed_is_found(store, tmp_path):
    stage = store.stage(HASH, "aaaa")
    (stage.images / "pages-1.img").write_bytes(b"x")
    wanted = described(stage)
    digest = store.commit(stage, wanted)
    found = store.open(HASH, "aaaa", stage.uuid, digest)
    assert found.manifest == wanted
    assert found.path == tmp_path / "checkpoints" / HASH / "aaaa" / stage.uuid
    assert store.location(HASH) == str(tmp_path / "checkpoints" / HASH)
    assert str(uuid.UUID(stage.uuid)) == stage.uuid
    assert sorted(p.name for p in found.path.iterdir()) == ["criu", "manifest.json"]


def test_nobody_else_can_read_it(tmp_path):
    store = stores.Store(tmp_path / "checkpoints", "team-a")
    (tmp_path / "checkpoints").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        stage = store.stage(HASH, "aaaa")
        store.commit(stage, described(stage))
    finally:
        os.umask(before)
    made = [p for p in (tmp_path / "checkpoints").rglob("*")]
    assert {stat.S_IMODE(p.stat().st_mode) for p in made if p.is_dir()} == {0o700}
    assert {stat.S_IMODE(p.stat().st_mode) for p in made if p.is_file()} == {0o600}


def test_namespaces_do_not_meet(tmp_path):
    stage = stores.Store(tmp_path, "a").stage(HASH, "aaaa")
    digest = stores.Store(tmp_path, "a").commit(stage, described(stage))
    assert stage.path.is_relative_to(tmp_path / "ns/a" / HASH)
    for other in ("", "b"):
        with pytest.raises(errors.ArtifactError) as caught:
            stores.Store(tmp_path, other).open(HASH, "aaaa", stage.uuid, digest)
        assert caught.value.reason == names.Reason.ARTIFACT_MISSING


def test_a_stage_without_manifest_is_no_artifact(store):
    stage = store.stage(HASH, "aaaa")
    with pytest.raises(errors.ArtifactError, match="no artifact at") as caught:
        store.open(HASH, "aaaa", stage.uuid, "sha256:")
    assert caught.value.reason == names.Reason.ARTIFACT_MISSING
    store.discard(stage)
    store.discard(stage)
    assert not stage.path.exists()


@pytest.mark.parametrize("after", ["open", "write", "fsync", "rename"])
def test_a_crash_during_commit_leaves_all_or_nothing(store, monkeypatch, after):
    class Crash(BaseException):
        pass

    stage = store.stage(HASH, "aaaa")
    wanted = described(stage)
    real = {"open": os.open, "fsync": os.fsync, "rename": pathlib.Path.rename}

    def crashing(*args, **options):
        result = real[after](*args, **options)
        if after != "open" or "manifest" in str(args[0]):
            raise Crash
        return result

    if after == "rename":
        monkeypatch.setattr(pathlib.Path, "rename", crashing)
    elif after == "write":
        monkeypatch.setattr(os, "fdopen", lambda fd, mode: (os.close(fd), crash())[0])

        def crash():
            raise Crash
    else:
        monkeypatch.setattr(os, after, crashing)
    with pytest.raises(Crash):
        store.commit(stage, wanted)
    monkeypatch.undo()
    if after == "rename":
        digest = manifest.digest(manifest.encode(wanted))
        assert store.open(HASH, "aaaa", stage.uuid, digest).manifest == wanted
    else:
        with pytest.raises(errors.ArtifactError):
            store.open(HASH, "aaaa", stage.uuid, "sha256:")


def test_a_generation_is_never_written_twice(store):
    stage = store.stage(HASH, "aaaa")
    (stage.path / ".manifest.json").write_text("of another")
    with pytest.raises(errors.StoreError, match=r"manifest\.json: File exists"):
        store.commit(stage, described(stage))
    assert store.stage(HASH, "aaaa").path != store.stage(HASH, "aaaa").path


@pytest.mark.parametrize(
    "changed", [{"uuid": "other"}, {"identityHash": "f" * 16}, {"variant": "bbbb"}]
)
def test_a_manifest_in_the_wrong_place_is_refused(store, changed):
    stage = store.stage(HASH, "aaaa")
    digest = store.commit(stage, described(stage, **changed))
    with pytest.raises(errors.ArtifactError, match="is that of another artifact"):
        store.open(HASH, "aaaa", stage.uuid, digest)


def test_another_manifest_than_the_status_names_is_refused(store):
    stage = store.stage(HASH, "aaaa")
    digest = store.commit(stage, described(stage))
    path = stage.path / manifest.NAME
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(errors.ArtifactError) as caught:
        store.open(HASH, "aaaa", stage.uuid, digest)
    assert caught.value.reason == names.Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("bad", ["", "..", "../x", "a/b", "/etc", ".", "a\0", "A" * 16, "f" * 65])
def test_names_that_lead_elsewhere_are_refused(store, tmp_path, bad):
    for arguments in ((bad, "aaaa", "u"), (HASH, bad, "aaaa"), (HASH, "aaaa", bad)):
        with pytest.raises(errors.InputError, match="is not a name in the store"):
            store.open(*arguments, "sha256:")
    for arguments in ((bad, "aaaa"), (HASH, bad)):
        with pytest.raises(errors.InputError, match="is not a name in the store"):
            store.stage(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_volume_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    store = stores.Store(tmp_path / "checkpoints")
    with pytest.raises(errors.StoreError, match=r"checkpoints/.*: Not a directory"):
        store.stage(HASH, "aaaa")
    with pytest.raises(errors.StoreError, match=r"storage\.pvc"):
        store.open(HASH, "aaaa", "aaaa", "sha256:")


def test_sweep_removes_abandoned_stages_only(store, tmp_path):
    old, new, done = (store.stage(HASH, "aaaa") for _ in range(3))
    store.commit(done, described(done))
    filling = store.stage(HASH, "bbbb")
    (filling.images / "pages-1.img").touch()
    for stage in (old, done, filling):
        os.utime(stage.path, (1, 1))
    for stage in (old, done):
        os.utime(stage.images, (1, 1))
    (tmp_path / "checkpoints/lost+found/a/b").mkdir(parents=True)
    (tmp_path / "checkpoints" / HASH / "aaaa/a-file").touch()
    assert store.sweep(older_than_seconds=60) == 1
    assert not old.path.exists()
    assert new.path.exists()
    assert done.path.exists()
    assert filling.path.exists()
    assert (tmp_path / "checkpoints/lost+found/a/b").exists()
    assert stores.Store(tmp_path / "absent").sweep(older_than_seconds=0) == 0


def test_sync_forgives_what_cannot_be_synced_only(tmp_path):
    stores.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        stores.sync(tmp_path / "absent")


def test_artifacts_are_listed_and_nothing_else(store, tmp_path):
    made = []
    for identity_hash, variant in ((HASH, "bbbb"), (HASH, "aaaa"), ("f" * 16, "aaaa")):
        stage = store.stage(identity_hash, variant)
        store.commit(stage, described(stage, identityHash=identity_hash, variant=variant))
        made.append((identity_hash, variant, stage.uuid))
    store.stage(HASH, "aaaa")
    other = stores.Store(tmp_path / "checkpoints", "team-a")
    root = tmp_path / "checkpoints"
    for name in (f"{HASH}/aaaa/a-file", "lost+found", "0123456789ABCDEF"):
        (root / name).mkdir()
        (root / name / manifest.NAME).touch()
    (root / HASH / "cccc").touch()
    elsewhere = tmp_path / "elsewhere/aaaa/abc"
    elsewhere.mkdir(parents=True)
    (elsewhere / manifest.NAME).touch()
    (root / ("e" * 16)).symlink_to(tmp_path / "elsewhere")
    (root / HASH / "dddd").symlink_to(tmp_path / "elsewhere/aaaa")
    assert store.artifacts() == sorted(made)
    assert store.artifacts(HASH) == sorted(made)[:2]
    assert store.artifacts("e" * 16) == []
    assert other.artifacts() == []
    store.delete("f" * 16, stage_seconds=0)
    assert store.artifacts() == sorted(made)[:2]


def test_a_store_that_is_not_there_lists_nothing_and_says_so(tmp_path):
    with pytest.raises(errors.StoreError, match="absent: No such file"):
        stores.Store(tmp_path / "absent").artifacts()
    with pytest.raises(errors.InputError, match="is not a name in the store"):
        stores.Store(tmp_path).artifacts("../x")


def test_the_digest_of_what_is_there(store):
    stage = store.stage(HASH, "aaaa")
    with pytest.raises(errors.ArtifactError) as caught:
        store.stored_digest(HASH, "aaaa", stage.uuid)
    assert caught.value.reason == names.Reason.ARTIFACT_MISSING
    digest = store.commit(stage, described(stage))
    assert store.stored_digest(HASH, "aaaa", stage.uuid) == digest
    assert store.open(HASH, "aaaa", stage.uuid, digest).text == manifest.encode(described(stage))
    again = stores.Store(store.base, "other").stage(HASH, "aaaa", stage.uuid)
    text = manifest.encode(described(stage)) + b"\n"
    assert stores.Store(store.base, "other").commit_text(again, text) == manifest.digest(text)
    assert (again.path / manifest.NAME).read_bytes() == text


@pytest.mark.parametrize("bad", ["", "..", "a/b", "A"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_path_has_no_empty_part(bad, at):
    path = [HASH, "aaaa", "1"]
    stores.check_path(*path)
    path[at] = bad
    with pytest.raises(errors.InputError):
        stores.check_path(*path)


@pytest.mark.parametrize("name", ["manifest.json", ".manifest.json"])
def test_a_stage_in_which_something_stands_is_not_new(store, name):
    stage = store.stage(HASH, "aaaa")
    store.check_new(stage)
    (stage.path / name).symlink_to("nowhere")
    for refuse in (store.check_new, lambda one: store.commit(one, described(one))):
        with pytest.raises(errors.StoreError, match="File exists"):
            refuse(stage)
