"""What is named goes, what nobody will finish goes, and all else stays."""

from __future__ import annotations

import contextlib
import random

import pytest

from chrek import removal
from store import places, samples
from store.checks import YOUNG, assert_emptied, assert_missing, delete
from store.samples import HASH, OTHER, VARIANT

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_is_named_goes_and_nothing_else(place: places.Place, depth: int) -> None:
    store = place.store("a")
    victim = samples.commit(store, samples.tiny())
    beside = samples.commit(store, samples.tiny(1))
    variant = samples.commit(store, samples.tiny(2), HASH, "bbbb")
    other = samples.commit(store, samples.tiny(3), OTHER)
    path = (HASH, VARIANT, victim.uuid)[:depth]
    gone = delete(place.store("b"), *path)
    expected = [victim, *([beside] if depth < 3 else []), *([variant] if depth < 2 else [])]
    assert {one.path for one in gone} == {sample.path for sample in expected}
    for one in gone:
        (sample,) = [sample for sample in expected if sample.path == one.path]
        assert one.bytes >= sum(map(len, sample.files.values()))
    place.settle()
    for sample in (victim, beside, variant, other):
        if sample in expected:
            assert_missing(place.store("c"), sample)
        else:
            samples.check(place.store("c"), sample)
    assert place.store("a").empty(HASH) == (depth == 1)
    assert_emptied(place, HASH, OTHER)


def test_deletion_is_idempotent(place: places.Place) -> None:
    store = place.store("a")
    for path in ((HASH,), (HASH, VARIANT), (HASH, VARIANT, "1")):
        assert delete(store, *path) == delete(place.store("a", "team"), *path) == []
    sample = samples.commit(store, samples.tiny())
    assert delete(store, HASH, "bbbb") == delete(store, HASH, VARIANT, "1") == []
    assert [gone.path for gone in delete(store)] == [sample.path]
    assert delete(store) == []
    assert store.empty(HASH)
    assert place.listing() == set()


def test_what_two_share_stays_and_keeps_nothing_else(place: places.Place) -> None:
    """On servers chunks that are still used leave the packs of what was deleted."""
    noise = random.Random(1)
    shared = {samples.CORE: noise.randbytes(60_000)}
    large = samples.commit(place.store("a"), {**shared, samples.PAGES: noise.randbytes(500_000)})
    small = samples.commit(place.store("a"), {**shared, samples.PAGES: noise.randbytes(9_000)})
    delete(place.store("b"), HASH, VARIANT, large.uuid)
    place.settle()
    assert sum(len(place.read(name)) for name in place.contents(small)) < 100_000
    place.store("a").sweep(older_than_seconds=YOUNG)
    place.settle()
    assert_missing(place.store("c"), large)
    samples.check(place.store("c"), small)
    assert_emptied(place)


@pytest.mark.parametrize("filled", [True, False])
def test_a_capture_outlives_the_deletion_of_its_hash(place: places.Place, filled: bool) -> None:
    old = samples.commit(place.store("a"), samples.tiny())
    store = place.store("a")
    stage = store.stage(HASH, VARIANT)
    if filled:
        samples.fill(stage, samples.tiny(1))
    assert [gone.path for gone in delete(place.store("b"))] == [old.path]
    place.settle()
    if not filled:
        with contextlib.suppress(FileExistsError):
            # An empty directory may go: a capture makes it again.
            stage.images.mkdir(mode=0o700, parents=True)
        samples.fill(stage, samples.tiny(1))
    described = samples.describe(stage, samples.tiny(1))
    digest = store.commit(stage, described)
    sample = samples.Sample(HASH, VARIANT, stage.uuid, digest, described, samples.tiny(1))
    samples.check(place.store("c"), sample)
    assert_missing(place.store("c"), old)


def test_what_the_store_did_not_make_stays(place: places.Place) -> None:
    samples.commit(place.store("a"), samples.tiny())
    strangers = place.strangers()
    for name in strangers:
        place.write(name, b"precious")
    delete(place.store("b"))
    delete(place.store("b"), stage_seconds=0)
    place.store("b").sweep(older_than_seconds=0)
    assert {*strangers} <= place.listing()
    assert [place.read(name) for name in strangers] == [b"precious"] * len(strangers)


def test_a_deletion_that_is_stopped(place: places.Place) -> None:
    made = [samples.commit(place.store("a"), samples.tiny(n)) for n in range(3)]
    gone: list[removal.Deleted] = []
    delete(place.store("a"), on_deleted=gone.append, stopped=lambda: len(gone) == 1)
    assert len(gone) == 1
    left = [sample for sample in made if sample.path != gone[0].path]
    assert len(left) == 2
    for sample in left:
        samples.check(place.store("b"), sample)
    assert len(delete(place.store("a"))) == 2


def test_the_same_hash_is_used_again(place: places.Place) -> None:
    """At once, by the node that deleted it and by one that did not notice."""
    first = samples.commit(place.store("a"), samples.tiny())
    samples.check(place.store("b"), first)
    delete(place.store("a"))
    second = samples.commit(place.store("a"), samples.tiny(1))
    samples.check(place.store("a"), second)
    third = samples.commit(place.store("b"), samples.tiny(2))
    samples.check(place.store("b"), third)
    place.settle()
    for node in ("a", "b", "c"):
        samples.check(place.store(node), second)
        samples.check(place.store(node), third)


# Sweeping.


def test_sweep_removes_abandoned_stages_only(place: places.Place) -> None:
    store = place.store("a")
    sample = samples.commit(store, samples.few())
    stages = [store.stage(HASH, VARIANT), store.stage(HASH, "bbbb"), store.stage(OTHER, VARIANT)]
    for stage in stages:
        samples.fill(stage, samples.tiny())
    assert store.sweep(older_than_seconds=YOUNG) == 0
    assert all((stage.path / "files.data").exists() for stage in stages)
    assert store.sweep(older_than_seconds=0) == 3
    assert not [stage for stage in stages if stage.path.exists()]
    samples.check(place.store("b"), sample)
    assert store.sweep(older_than_seconds=0) == 0
    assert_emptied(place)


def test_a_sweep_by_another_node_spares_what_is_young(place: places.Place) -> None:
    store = place.store("a")
    stage = store.stage(HASH, VARIANT)
    samples.fill(stage, samples.few())
    place.store("b").sweep(older_than_seconds=YOUNG)
    described = samples.describe(stage, samples.few())
    digest = store.commit(stage, described)
    sample = samples.Sample(HASH, VARIANT, stage.uuid, digest, described, samples.few())
    # Who has just seen a stage may believe for so long that it is none other.
    place.settle()
    place.store("b").sweep(older_than_seconds=0)
    samples.check(place.store("c"), sample)


def test_sweeps_of_other_namespaces(place: places.Place) -> None:
    stage = place.store("a", "team").stage(HASH, VARIANT)
    samples.fill(stage, samples.tiny())
    assert place.store("a").sweep(older_than_seconds=0) == 0
    assert place.store("a", "team-b").sweep(older_than_seconds=0) == 0
    assert (stage.path / "files.data").exists()
    assert place.store("a", "team").sweep(older_than_seconds=0) == 1
