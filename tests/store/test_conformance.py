"""What a store promises of one artifact, whatever the store is kept on."""

from __future__ import annotations

import os
import uuid as uuids

import pytest

from chrek import errors, manifest
from chrek import store as stores
from store import places, samples
from store.checks import MISSING, assert_emptied, assert_missing, delete, refused
from store.samples import HASH, OTHER, VARIANT

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]
BAD_NAMES = ("..", "../x", "a/b", "/etc", ".", "a\0", "A" * 16, "f" * 65)


# What was put in comes out.


@pytest.mark.parametrize("node", ["a", "b"])
def test_every_kind_of_file_comes_back(place: places.Place, node: str) -> None:
    sample = samples.commit(place.store("a"), samples.every())
    samples.check(place.store(node), sample)


def test_it_comes_back_again_and_again(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    reader = place.store("b")
    for store in (reader, reader, place.store("b"), place.store("c"), place.store("a")):
        samples.check(store, sample)


def test_what_open_says_is_what_was_committed(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.tiny())
    found = samples.find(place.store("b"), sample)
    assert found.manifest == sample.manifest
    assert str(uuids.UUID(sample.uuid)) == sample.uuid


@pytest.mark.parametrize("name", ["criu/empty.img", "files.data"])
@pytest.mark.parametrize("size", [0, 1, samples.CHUNK - 1, samples.CHUNK, samples.CHUNK + 1])
def test_sizes_at_the_edge(place: places.Place, name: str, size: int) -> None:
    files = {name: os.urandom(size)}
    samples.check(place.store("b"), samples.commit(place.store("a"), files))


def test_an_artifact_without_files(place: places.Place) -> None:
    samples.check(place.store("b"), samples.commit(place.store("a"), {}))


def test_many_files(place: places.Place) -> None:
    files = {f"criu/core-{number}.img": b"%d" % number * number for number in range(150)}
    samples.check(place.store("b"), samples.commit(place.store("a"), files))


def test_equal_contents_are_artifacts_of_their_own(place: places.Place) -> None:
    store = place.store("a")
    one, two = samples.commit(store, samples.few()), samples.commit(store, samples.few())
    other = samples.commit(store, samples.few(), OTHER, "bbbb")
    assert one.uuid != two.uuid
    delete(store, HASH, VARIANT, one.uuid)
    for sample in (two, other):
        samples.check(place.store("b"), sample)


def test_locations(place: places.Place) -> None:
    team = place.store("a", "team")
    found = [place.store("a").location(HASH), place.store("a").location(OTHER), team.location(HASH)]
    assert len({*found}) == 3
    assert found[0].endswith(f"/{HASH}")
    assert place.store("b", "team").location(HASH).split("/")[-2:] == found[2].split("/")[-2:]


def test_namespaces_are_apart(place: places.Place) -> None:
    own, team = place.store("a"), place.store("a", "team")
    sample, theirs = samples.commit(own, samples.few()), samples.commit(team, samples.few())
    for namespace, one in (("team", sample), ("", theirs), ("team-b", sample)):
        assert_missing(place.store("b", namespace), one)
    assert [gone.path for gone in delete(team)] == [theirs.path]
    samples.check(place.store("b"), sample)
    assert own.sweep(older_than_seconds=0) == 0
    assert_emptied(place)


@pytest.mark.needs("tree")
def test_nobody_else_can_read_what_is_stored(place: places.Files) -> None:
    before = os.umask(0)
    try:
        samples.commit(place.store("a", "team"), samples.tiny())
        place.store("a").stage(HASH, VARIANT)
    finally:
        os.umask(before)
    assert place.modes() == {(True, 0o700), (False, 0o600)}


def test_nobody_else_can_read_what_a_node_has(place: places.Place) -> None:
    before = os.umask(0)
    try:
        sample = samples.commit(place.store("a"), samples.tiny())
        for node in ("a", "b"):
            store = place.store(node)
            with store.fetched(samples.find(store, sample)) as artifact:
                found = {p: p.stat().st_mode & 0o777 for p in artifact.path.rglob("*")}
                assert {mode for path, mode in found.items() if path.is_file()} == {0o600}
                assert {mode for path, mode in found.items() if path.is_dir()} == {0o700}
                assert artifact.path.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_artifacts_are_listed(place: places.Place) -> None:
    store = place.store("a")
    assert store.artifacts() == store.artifacts(HASH) == []
    made = [
        samples.commit(store, samples.tiny(number), *path)
        for number, path in enumerate([(OTHER, VARIANT), (HASH, "bbbb"), (HASH, VARIANT)] * 2)
    ]
    samples.fill(store.stage(HASH, VARIANT), samples.tiny())
    samples.commit(place.store("a", "team"), samples.tiny())
    reader = place.store("b")
    paths = sorted((one.identity_hash, one.variant, one.uuid) for one in made)
    assert reader.artifacts() == paths
    assert reader.artifacts(HASH) == [path for path in paths if path[0] == HASH]
    delete(store, HASH, "bbbb")
    assert place.store("c").artifacts(HASH) == [p for p in paths if p[:2] == (HASH, VARIANT)]


def test_the_digest_of_what_is_stored(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.tiny())
    assert place.store("b").stored_digest(HASH, VARIANT, sample.uuid) == sample.digest
    with refused(MISSING):
        place.store("b").stored_digest(HASH, VARIANT, "1")


def test_an_artifact_of_another_store(place: places.Place) -> None:
    """It keeps its name and its manifest, to the last byte."""
    source, target = place.store("a"), place.store("b", "team")
    sample = samples.commit(source, samples.few())
    text = samples.find(source, sample).text
    stage = target.stage(HASH, VARIANT, sample.uuid)
    assert stage.uuid == sample.uuid
    samples.fill(stage, samples.read(source, sample))
    assert target.commit_text(stage, text) == sample.digest
    samples.check(place.store("c", "team"), sample)


# Nothing is there before it is all there.


def test_a_stage_is_no_artifact(place: places.Place) -> None:
    store = place.store("a")
    stage = store.stage(HASH, VARIANT)
    for files in ({}, samples.tiny()):
        samples.fill(stage, files)
        for node in ("a", "b"):
            with refused(MISSING):
                place.store(node).open(HASH, VARIANT, stage.uuid, "sha256:")
    store.discard(stage)
    store.discard(stage)
    assert not stage.path.exists()
    assert_emptied(place)


def test_stages_of_one_variant_are_apart(place: places.Place) -> None:
    stages = [place.store(node).stage(HASH, VARIANT) for node in ("a", "b", "a")]
    assert len({stage.uuid for stage in stages}) == 3
    for stage in stages:
        assert [path.name for path in stage.path.iterdir()] == [stores.IMAGES]


def test_who_looked_too_early_finds_it_later(place: places.Place) -> None:
    store, reader = place.store("a"), place.store("b")
    stage = store.stage(HASH, VARIANT)
    with refused(MISSING):
        reader.open(HASH, VARIANT, stage.uuid, "sha256:")
    samples.fill(stage, samples.tiny())
    described = samples.describe(stage, samples.tiny())
    digest = store.commit(stage, described)
    sample = samples.Sample(HASH, VARIANT, stage.uuid, digest, described, samples.tiny())
    place.settle()
    samples.check(reader, sample)


def test_what_is_committed_is_not_committed_again(place: places.Place) -> None:
    store = place.store("a")
    stage = store.stage(HASH, VARIANT)
    samples.fill(stage, samples.tiny())
    described = samples.describe(stage, samples.tiny())
    digest = store.commit(stage, described)
    with pytest.raises(errors.StoreError):
        store.commit(stage, samples.describe(stage, samples.tiny(), createdAt="later"))
    sample = samples.Sample(HASH, VARIANT, stage.uuid, digest, described, samples.tiny())
    samples.check(place.store("b"), sample)


@pytest.mark.parametrize("bad", ["", *BAD_NAMES])
def test_names_that_lead_elsewhere_are_refused(place: places.Place, bad: str) -> None:
    store = place.store("a")
    for path in ((bad, VARIANT, "1"), (HASH, bad, "1"), (HASH, VARIANT, bad)):
        with pytest.raises(errors.InputError):
            store.open(*path, "sha256:")
    for path in ((bad, VARIANT), (HASH, bad)):
        with pytest.raises(errors.InputError):
            store.stage(*path)
    with pytest.raises(errors.InputError):
        store.location(bad)
    for path in ((bad,), (HASH, bad), (HASH, VARIANT, bad)):
        if bad or len(path) == 1:
            with pytest.raises(errors.InputError):
                delete(store, *path)
    assert place.listing() == set()


def test_stages_are_not_led_astray(place: places.Place) -> None:
    """A commit writes one name, and only into what the stage made."""
    store = place.store("a")
    stage = store.stage(HASH, VARIANT)
    (stage.path / f".{manifest.NAME}").write_bytes(b"of another")
    with pytest.raises(errors.StoreError):
        store.commit(stage, samples.describe(stage, {}))
    assert isinstance(stage, stores.Stage)
