"""An artifact on a server: whole or not at all, the same bytes on every node, stored once."""

import asyncio
import os
import threading
import time

import msgspec
import pytest

from chrek import errors, manifest, names, verification
from chrek import store as stores
from chrek.remote import backend as backends
from chrek.remote import keys, marks, prune, seal, storekeys, upload
from fakes import backend as fake_backend
from fakes import node as nodes

HASH, VARIANT = nodes.HASH, nodes.VARIANT
FILES, fetch, noise = nodes.FILES, nodes.fetch, nodes.noise
OTHER = "fedcba9876543210"


@pytest.fixture
def backend():
    return fake_backend.Memory()


@pytest.fixture
def first(backend, tmp_path):
    with nodes.Node(backend, tmp_path / "n1") as made:
        yield made


@pytest.fixture
def second(backend, tmp_path):
    with nodes.Node(backend, tmp_path / "n2") as made:
        yield made


def test_the_other_node_gets_the_same_bytes(first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    assert fetch(second, uuid, digest) == FILES
    assert first.store().location(HASH) == f"s3://b/{HASH}"


def test_holes_take_no_space_anywhere(backend, first, second):
    uuid, digest = nodes.make(first.store(), {"criu/zeros.img": bytes(64 << 20)})
    assert not backend.stored
    assert fetch(second, uuid, digest) == {"criu/zeros.img": bytes(64 << 20)}
    assert (second.path / HASH / VARIANT / uuid / "criu/zeros.img").stat().st_blocks == 0


def test_what_was_captured_here_is_not_fetched(backend, first):
    uuid, digest = nodes.make(first.store(), FILES)
    backend.calls.clear()
    assert fetch(first, uuid, digest) == FILES
    assert backend.calls == []


def test_what_was_fetched_is_not_fetched_again(backend, first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    fetch(second, uuid, digest)
    backend.calls.clear()
    assert fetch(second, uuid, digest) == FILES
    assert backend.calls == []


def test_one_fetches_for_all(backend, first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(second, uuid, digest))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [FILES] * 4
    assert backend.calls.count(f"read {backends.Part.TABLE}") == 1


def test_a_new_agent_looks_at_what_the_one_before_left(backend, first, second, tmp_path):
    uuid, digest = nodes.make(first.store(), FILES)
    fetch(second, uuid, digest)
    page = second.path / HASH / VARIANT / uuid / "criu/pages-1.img"
    with page.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    with nodes.Node(backend, second.path) as again:
        assert fetch(again, uuid, digest) == FILES
        backend.calls.clear()
        assert fetch(again, uuid, digest) == FILES
        assert backend.calls == []


def test_the_server_need_not_answer_for_what_is_here(backend, first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    fetch(second, uuid, digest)
    backend.fails_at = 0
    assert fetch(second, uuid, digest) == FILES


def test_the_second_is_sent_where_it_differs(backend, first):
    nodes.make(first.store(), FILES)
    before = sum(len(one.data) for one in backend.stored.values())
    changed = {**FILES, "criu/inventory.img": b"another inventory"}
    nodes.make(first.store(), changed)
    after = sum(len(one.data) for one in backend.stored.values())
    assert 0 < after - before < before / 20


def test_of_other_namespaces_nothing_is_known(backend, first):
    nodes.make(first.store(), FILES)
    nodes.make(first.store("other"), FILES)
    by_space = {}
    for (space, _), one in backend.stored.items():
        by_space[space] = by_space.get(space, 0) + len(one.data)
    assert by_space[""] == by_space["other"]


def test_a_pack_that_is_hardly_used_is_not_kept_alive(backend, first):
    """Or a few chunks that every worker has would keep all packs that ever were."""
    store, same = first.store(), {"criu/a.img": noise(20_000, 2)}
    one, _ = nodes.make(store, {**same, "criu/pages-1.img": noise(200_000)})
    (old,) = backend.stored
    two, _ = nodes.make(store, same)
    assert list(backend.stored) == [old]
    store.delete(HASH, VARIANT, one, stage_seconds=0)
    assert len(backend.stored) == 2, "whoever reads it goes on"
    store.sweep(older_than_seconds=0)
    assert len(backend.stored) == 1
    assert old not in backend.stored
    store.delete(HASH, VARIANT, two, stage_seconds=0)
    assert not backend.stored


@pytest.mark.parametrize("collects", [False, True])
def test_deletion_takes_what_nobody_else_needs(tmp_path, collects):
    backend = fake_backend.Memory(collects=collects)
    with nodes.Node(backend, tmp_path / "n") as node:
        store = node.store()
        one, _ = nodes.make(store, FILES)
        two, digest = nodes.make(store, {**FILES, "more": noise(300_000, 9)})
        gone = []
        store.delete(HASH, VARIANT, one, stage_seconds=0, on_deleted=gone.append)
        assert [(d.path, d.bytes) for d in gone] == [
            (f"{HASH}/{VARIANT}/{one}", sum(map(len, FILES.values())))
        ]
        assert not store.empty(HASH)
    with nodes.Node(backend, tmp_path / "m") as other:
        assert fetch(other, two, digest)["more"] == noise(300_000, 9)
        other.store().delete(HASH, stage_seconds=0)
        assert other.store().empty(HASH)
    assert bool(backend.stored) == collects
    assert not backend.parts


def test_deletion_of_what_is_not_there_is_no_error(first):
    first.store().delete(HASH, stage_seconds=0)
    first.store().delete(HASH, VARIANT, "abc", stage_seconds=0)


def test_packs_of_an_artifact_in_the_making_stay(backend, first):
    backend.stored["", "a" * 64] = fake_backend.Stored(b"pack of nobody yet")
    writing = backends.Key("", OTHER, VARIANT, "abc")
    backend.begun[writing] = time.time()
    first.store().sweep(older_than_seconds=60)
    assert backend.stored
    backend.begun[writing] = 0.0
    first.store().sweep(older_than_seconds=60)
    assert not backend.stored
    assert not backend.begun, "who died is forgotten"


def test_each_artifact_is_asked_once_what_it_needs(backend, first):
    for number in range(3):
        nodes.make(first.store(), {"a": noise(1000, number)})
    gone, _ = nodes.make(first.store(), {"b": noise(1000, 9)})
    first.store().sweep(older_than_seconds=60)
    backend.calls.clear()
    first.store().delete(HASH, VARIANT, gone, stage_seconds=60)
    assert f"read {backends.Part.PLACES}" not in backend.calls
    assert len(backend.stored) == 3


def test_two_collectors_give_way(backend, first):
    backend.stored["", "a" * 64] = fake_backend.Stored(b"pack")
    backend.begun[backends.Key("", "0" * 16, "c", "other")] = time.time()
    first.store().sweep(older_than_seconds=60)
    assert backend.stored


def test_nothing_goes_while_an_artifact_cannot_be_read(backend, first, second):
    nodes.make(first.store(), FILES)
    uuid, _ = nodes.make(first.store(), {"x": noise(1000, 5)}, identity_hash=OTHER)
    key = backends.Key("", OTHER, VARIANT, uuid)
    backend.parts[key, backends.Part.PLACES].data = b"damaged"
    packs = dict(backend.stored)
    second.store().sweep(older_than_seconds=0)
    assert backend.stored == packs


@pytest.mark.parametrize("part", list(backends.Part))
def test_damaged_parts_are_refused(backend, first, second, part):
    uuid, digest = nodes.make(first.store(), FILES)
    stored = backend.parts[backends.Key("", HASH, VARIANT, uuid), part]
    data = bytearray(stored.data)
    data[len(data) // 2] ^= 1
    stored.data = bytes(data)
    with pytest.raises(errors.ArtifactError):
        fetch(second, uuid, digest)
    assert nodes.contents(second.path) == {}, "nothing half is left"


def test_damaged_packs_are_refused(backend, first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    stored = next(iter(backend.stored.values()))
    stored.data = stored.data[:100] + bytes([stored.data[100] ^ 1]) + stored.data[101:]
    with pytest.raises(errors.ArtifactError):
        fetch(second, uuid, digest)
    assert nodes.contents(second.path) == {}


def test_tables_of_another_artifact_are_refused(backend, first, second):
    uuid, digest = nodes.make(first.store(), {"a": noise(5000, 1)})
    other, _ = nodes.make(first.store(), {"a": noise(5000, 2)})
    for part in (backends.Part.TABLE, backends.Part.PLACES):
        mine = backend.parts[backends.Key("", HASH, VARIANT, uuid), part]
        mine.data = backend.parts[backends.Key("", HASH, VARIANT, other), part].data
    store = second.store()
    artifact = store.open(HASH, VARIANT, uuid, digest)
    with store.fetched(artifact) as found, pytest.raises(errors.ArtifactError):
        verification.whole(found)


def test_what_was_wrong_on_the_server_is_not_kept(backend, first, second):
    """Tables that fit each other bring another artifact's bytes, to one restore and no further."""
    uuid, digest = nodes.make(first.store(), {"a": noise(5000, 1)})
    other, _ = nodes.make(first.store(), {"a": noise(5000, 2)})
    parts = [(backends.Part.TABLE, {}), (backends.Part.PLACES, {})]
    for part, kept in parts:
        mine = backend.parts[backends.Key("", HASH, VARIANT, uuid), part]
        kept["data"] = mine.data
        mine.data = backend.parts[backends.Key("", HASH, VARIANT, other), part].data
    store = second.store()
    artifact = store.open(HASH, VARIANT, uuid, digest)
    with pytest.raises(errors.ArtifactError), store.fetched(artifact) as found:
        verification.whole(found)
    for part, kept in parts:
        backend.parts[backends.Key("", HASH, VARIANT, uuid), part].data = kept["data"]
    assert fetch(second, uuid, digest) == {"a": noise(5000, 1)}


def test_another_manifest_than_the_one_in_the_cache(backend, first):
    """The status names one that somebody has put on the server: its files are not those here."""
    uuid, _ = nodes.make(first.store(), {"a": noise(5000, 1)})
    other, _ = nodes.make(first.store(), {"a": noise(5000, 2)})
    keys = [backends.Key("", HASH, VARIANT, one) for one in (uuid, other)]
    for part in backends.Part:
        backend.parts[keys[0], part].data = backend.parts[keys[1], part].data
    text = backend.parts[keys[0], backends.Part.MANIFEST]
    text.data = text.data.replace(other.encode(), uuid.encode())
    assert fetch(first, uuid, manifest.digest(text.data)) == {"a": noise(5000, 2)}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([manifest.File(name="criu", size=0, chunks=[])], "can be called 'criu'"),
        ([manifest.File(name="manifest.json", size=0, chunks=[])], "called 'manifest.json'"),
        ([manifest.File(name=".manifest.json", size=0, chunks=[])], "called '.manifest.json'"),
        ([manifest.File(name=".deleted", size=0, chunks=[])], "called '.deleted'"),
        ([manifest.File(name="b/c", size=0, chunks=[])], "called 'b/c'"),
        ([manifest.File(name="criu/" + "ü" * 128, size=0, chunks=[])], "called 'criu/ü"),
        ([manifest.File(name="z", size=1, chunks=["0" * 64])], "z lacks what is at 0"),
        ([manifest.File(name="z", size=20 << 40, chunks=["0" * 64] * (5 << 20))], "z lacks"),
    ],
)
def test_files_that_nobody_has_captured(backend, tmp_path, files, says):
    """Told before room is made for them, for which others would have to go."""
    with (
        nodes.Node(backend, tmp_path / "n1") as first,
        nodes.Node(backend, tmp_path / "n2", size_bytes=1 << 20) as second,
    ):
        fetch(second, *(kept := nodes.make(first.store(), {"a": noise(5000)})))
        uuid, digest = nodes.make(first.store(), {"a": noise(5000, 1)})
        artifact = second.store().open(HASH, VARIANT, uuid, digest)
        changed = msgspec.structs.replace(
            artifact.manifest, files=[*artifact.manifest.files, *files]
        )
        told = stores.Artifact(artifact.path, changed)
        with pytest.raises(errors.ArtifactError, match=says), second.store().fetched(told):
            pass
        assert [one.key.uuid for one in second.cache.kept()] == [kept[0]]
        assert not artifact.path.exists()


def test_room_is_made_for_what_is_no_hole(backend, tmp_path):
    with (
        nodes.Node(backend, tmp_path / "n1") as first,
        nodes.Node(backend, tmp_path / "n2", size_bytes=1 << 20) as second,
    ):
        made = [
            nodes.make(first.store(), {"a": noise(5000, seed), "b": bytes(9 << 20)})
            for seed in range(2)
        ]
        for uuid, digest in made:
            fetch(second, uuid, digest)
        assert {one.key.uuid for one in second.cache.kept()} == {uuid for uuid, _ in made}


def test_a_stage_in_which_something_stands(backend, first):
    for name in (manifest.NAME, f".{manifest.NAME}"):
        stage = first.store().stage(HASH, VARIANT)
        nodes.fill(stage, {"a": b"x"})
        described = nodes.described(stage)
        (stage.path / name).write_bytes(b"of another")
        with pytest.raises(errors.StoreError, match="File exists"):
            first.store().commit(stage, described)
    assert backend.parts == {}


def test_what_is_missing_says_so(backend, first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    backend.stored.clear()
    with pytest.raises(errors.ArtifactError) as failed:
        fetch(second, uuid, digest)
    assert failed.value.reason == names.Reason.ARTIFACT_MISSING
    with pytest.raises(errors.ArtifactError) as failed:
        second.store().open(HASH, VARIANT, "abc", digest)
    assert failed.value.reason == names.Reason.ARTIFACT_MISSING


def test_another_digest_is_refused(first, second):
    uuid, _ = nodes.make(first.store(), FILES)
    with pytest.raises(errors.ArtifactError) as failed:
        second.store().open(HASH, VARIANT, uuid, "sha256:0")
    assert failed.value.reason == names.Reason.DIGEST_MISMATCH


def test_sealed(tmp_path):
    backend = fake_backend.Memory()
    wrapping = keys.Wrapping(noise(32, 7))
    blob = storekeys.new_store_keys(wrapping)
    sealer = seal.Sealed(storekeys.unwrap(blob, (wrapping,)))
    with (
        nodes.Node(backend, tmp_path / "n1", sealer=sealer) as first,
        nodes.Node(backend, tmp_path / "n2", sealer=sealer) as second,
        nodes.Node(backend, tmp_path / "n3") as without,
    ):
        uuid, digest = nodes.make(first.store(), FILES)
        nodes.make(first.store(), FILES)
        assert fetch(second, uuid, digest) == FILES
        everything = b"".join(one.data for one in [*backend.stored.values()])
        everything += b"".join(one.data for one in [*backend.parts.values()])
        assert b"text that can be" not in everything
        assert HASH.encode() not in everything
        with pytest.raises(errors.StoreError):
            without.store().open(HASH, VARIANT, uuid, digest)


def steps(backend, tmp_path, number):
    """Make an artifact on a server that is gone after a number of calls; whether it succeeded."""
    backend.calls.clear()
    backend.fails_at = number
    with nodes.Node(backend, tmp_path / f"n{number}") as node:
        try:
            made = nodes.make(node.store(), FILES)
        except errors.StoreError:
            made = None
        backend.fails_at = None
        return made


def test_an_upload_that_ends_at_any_call_leaves_all_or_nothing(tmp_path):
    backend = fake_backend.Memory()
    for number in range(100):
        made = steps(backend, tmp_path, number)
        manifests = [key for key, part in backend.parts if part == backends.Part.MANIFEST]
        with nodes.Node(backend, tmp_path / f"other{number}") as other:
            assert len(manifests) == (made is not None)
            if made is not None:
                assert fetch(other, *made) == FILES
            other.store().sweep(older_than_seconds=-1)
            assert made is not None or not backend.stored, number
            if made is not None:
                other.store().delete(HASH, stage_seconds=0)
        backend.parts.clear()
        if made is not None and number > 6:
            return
    pytest.fail("it never succeeded")


def test_a_deletion_that_ends_at_any_call_is_finished_by_the_next(tmp_path):
    for number in range(100):
        backend = fake_backend.Memory()
        with nodes.Node(backend, tmp_path / f"a{number}") as node:
            nodes.make(node.store(), FILES)
            keep, digest = nodes.make(node.store(), {**FILES, "x": b"y"}, identity_hash=OTHER)
            backend.calls.clear()
            backend.fails_at = number
            try:
                node.store().delete(HASH, stage_seconds=0)
                done = True
            except errors.StoreError:
                done = False
            backend.fails_at = None
            node.store().delete(HASH, stage_seconds=0)
            node.store().sweep(older_than_seconds=-1)
            assert node.store().empty(HASH)
        with nodes.Node(backend, tmp_path / f"b{number}") as other:
            assert fetch(other, keep, digest, identity_hash=OTHER)["x"] == b"y"
        if done:
            return
    pytest.fail("it never succeeded")


def test_copies_of_what_was_deleted_elsewhere_go(backend, first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    fetch(second, uuid, digest)
    first.store().delete(HASH, stage_seconds=0)
    assert second.store().sweep(older_than_seconds=60) == 1
    assert nodes.contents(second.path) == {}


def test_a_full_cache_makes_room(backend, tmp_path):
    data = {"criu/pages-1.img": noise(2 << 20)}
    with (
        nodes.Node(backend, tmp_path / "n1") as first,
        nodes.Node(backend, tmp_path / "n2", size_bytes=5 << 20) as second,
    ):
        made = []
        for seed in range(3):
            data["seed"] = bytes([seed])
            made.append(nodes.make(first.store(), data))
            os.utime(first.path)
        for uuid, digest in made:
            fetch(second, uuid, digest)
        kept = {one.key.uuid for one in second.cache.kept()}
        assert kept == {made[1][0], made[2][0]}
        store = second.store()
        with store.fetched(store.open(HASH, VARIANT, *made[1])):
            fetch(second, *made[0])
            assert made[1][0] in {one.key.uuid for one in second.cache.kept()}


def test_names_are_checked(first):
    for bad in ("../x", "", "x" * 16, "0123456789ABCDEF"):
        with pytest.raises(errors.InputError):
            first.store().open(bad, VARIANT, "abc", "sha256:0")
        for work in (first.store().empty, lambda one: first.store().delete(one, stage_seconds=0)):
            with pytest.raises(errors.InputError):
                work(bad)
    for path in ((HASH, "", "abc"), (HASH, VARIANT, ""), (HASH, "../x", "abc")):
        with pytest.raises(errors.InputError):
            first.store().stored_digest(*path)
        with pytest.raises(errors.InputError):
            first.store().open(*path, "sha256:0")
    for path in ((HASH, "../x"), (HASH, VARIANT, "../x")):
        with pytest.raises(errors.InputError):
            first.store().delete(*path, stage_seconds=0)
    with pytest.raises(errors.InputError):
        first.store().stage(HASH, "../x")


def test_transfers_are_told_of(first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    fetch(second, uuid, digest)
    fetch(second, uuid, digest)
    ((up, sent, _),) = first.transfers
    ((down, read, seconds),) = second.transfers
    assert (up, down) == ("up", "down")
    assert 0 < read <= sent < sum(map(len, FILES.values()))
    assert 0 <= seconds < 30


def test_the_manifest_is_the_same_text_everywhere(backend, first, second):
    uuid, digest = nodes.make(first.store(), FILES)
    fetch(second, uuid, digest)
    texts = {
        (node.path / HASH / VARIANT / uuid / manifest.NAME).read_bytes() for node in (first, second)
    }
    assert texts == {backend.parts[backends.Key("", HASH, VARIANT, uuid), "manifest.json"].data}
    assert manifest.digest(texts.pop()) == digest
    assert isinstance(first.store().stage(HASH, VARIANT), stores.Stage)


def test_artifacts_of_the_server_are_listed(first, second):
    made = []
    for variant, identity_hash in ((VARIANT, OTHER), ("bbbb", HASH), (VARIANT, HASH)):
        where = {"variant": variant, "identity_hash": identity_hash}
        made.append((identity_hash, variant, nodes.make(first.store(), {"a": b"x"}, **where)[0]))
    nodes.make(first.store("team"), {"a": b"x"})
    first.store().stage(HASH, VARIANT)
    assert second.store().artifacts() == sorted(made)
    assert second.store().artifacts(HASH) == sorted(made)[:2]
    assert second.store().artifacts("e" * 16) == []
    assert len(second.store("team").artifacts()) == 1
    with pytest.raises(errors.InputError):
        second.store().artifacts("../x")


@pytest.mark.parametrize("sealed", [False, True])
def test_a_manifest_is_stored_byte_for_byte(backend, tmp_path, sealed):
    wrapping = keys.Wrapping(noise(32, 7))
    sealer = seal.Sealed(storekeys.unwrap(storekeys.new_store_keys(wrapping), (wrapping,)))
    options = {"sealer": sealer} if sealed else {}
    with (
        nodes.Node(backend, tmp_path / "n1", **options) as first,
        nodes.Node(backend, tmp_path / "n2", **options) as second,
    ):
        stage = first.store().stage(HASH, VARIANT, "0-1-2")
        nodes.fill(stage, FILES)
        text = manifest.encode(nodes.described(stage)) + b"\n\n"
        digest = first.store().commit_text(stage, text)
        assert digest == manifest.digest(text)
        assert second.store().stored_digest(HASH, VARIANT, "0-1-2") == digest
        assert fetch(second, "0-1-2", digest) == FILES
        for node in (first, second):
            assert (node.path / HASH / VARIANT / "0-1-2" / manifest.NAME).read_bytes() == text


def test_what_is_damaged_in_the_cache_is_fetched_with_its_own_text(backend, first, second):
    stage = first.store().stage(HASH, VARIANT)
    nodes.fill(stage, FILES)
    text = manifest.encode(nodes.described(stage)) + b"\n"
    digest = first.store().commit_text(stage, text)
    fetch(second, stage.uuid, digest)
    (second.path / HASH / VARIANT / stage.uuid / "files.data").write_bytes(b"damage")
    with nodes.Node(backend, second.path) as again:
        assert fetch(again, stage.uuid, digest) == FILES
    assert (second.path / HASH / VARIANT / stage.uuid / manifest.NAME).read_bytes() == text


def test_what_is_not_on_the_server_has_no_digest(first, second):
    uuid, _ = nodes.make(first.store(), FILES)
    first.store().delete(HASH, stage_seconds=0)
    for node in (first, second):
        with pytest.raises(errors.ArtifactError) as failed:
            node.store().stored_digest(HASH, VARIANT, uuid)
        assert failed.value.reason == names.Reason.ARTIFACT_MISSING


def test_a_mark_that_cannot_be_taken_back_holds_nobody_up(backend, first, second, monkeypatch):
    """It is forgotten when it is old."""
    monkeypatch.setattr(marks, "END_SECONDS", 0.05)

    async def end(_):
        await asyncio.sleep(3600)

    monkeypatch.setattr(backend, "end", end)
    made = nodes.make(first.store(), FILES)
    assert fetch(second, *made) == FILES
    assert len(backend.begun) == 1
    monkeypatch.undo()
    first.store().sweep(older_than_seconds=-1)
    assert not backend.begun


def test_an_upload_waits_for_a_collector_that_lives(backend, first, monkeypatch):
    """Its own pack was there already, and may be going."""
    nodes.make(first.store(), FILES)
    backend.parts.clear()
    monkeypatch.setattr(upload, "COLLECTOR_POLL_SECONDS", 0.01)
    mark = backends.Key("", prune.COLLECTOR, "c", "other")
    backend.begun[mark] = time.time()
    made = []
    thread = threading.Thread(target=lambda: made.append(nodes.make(first.store(), FILES)))
    thread.start()
    time.sleep(0.3)
    assert not made
    backend.begun[mark] -= prune.LONGEST_SECONDS
    thread.join(5)
    assert made
