"""Stores that are full, read-only, gone, slow or late: told, and nothing is lost."""

from __future__ import annotations

import time

import pytest

from chrek import errors, manifest
from store import places, samples
from store.checks import MISSING, YOUNG, assert_emptied, assert_missing, delete, refused
from store.samples import HASH, OTHER, VARIANT

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]


@pytest.mark.needs("full")
def test_a_full_store(place: places.Place) -> None:
    store = place.store("a")
    old = samples.commit(store, samples.few())
    stage = store.stage(HASH, VARIANT)
    samples.fill(stage, samples.tiny())
    described = samples.describe(stage, samples.tiny())
    with place.trouble("full"):
        with pytest.raises(errors.StoreError):
            store.commit(stage, described)
        samples.check(place.store("b"), old)
        with pytest.raises((errors.StoreError, OSError)):
            samples.commit(place.store("b"), samples.few(1), OTHER)
        store.discard(stage)
        assert not stage.path.exists()
    with refused(MISSING):
        place.store("c").open(HASH, VARIANT, stage.uuid, "sha256:")
    samples.check(place.store("c"), samples.commit(store, samples.few(2)))
    assert_emptied(place, HASH, OTHER)


@pytest.mark.needs("full")
def test_a_full_store_can_be_emptied(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    with place.trouble("full"):
        assert [gone.path for gone in delete(place.store("b"))] == [sample.path]
    assert place.listing() == set()


@pytest.mark.needs("filling")
def test_a_store_that_fills_up(place: places.Place) -> None:
    """It takes what fits, also after something that did not."""
    store = place.store("a")
    old = samples.commit(store, samples.few())
    with place.trouble("filling"):
        with pytest.raises((errors.StoreError, OSError)):
            samples.commit(store, samples.few(1), OTHER)
        samples.check(place.store("b"), old)
        if "frees" in place.can:
            samples.check(place.store("b"), samples.commit(store, samples.tiny()))
    samples.check(place.store("c"), samples.commit(store, samples.few(1)))
    assert_emptied(place, HASH, OTHER)


@pytest.mark.needs("read-only")
def test_a_store_that_is_read_only(place: places.Place) -> None:
    store = place.store("a")
    old = samples.commit(store, samples.few())
    stage = store.stage(OTHER, VARIANT)
    samples.fill(stage, samples.tiny())
    with place.trouble("read-only"):
        samples.check(place.store("b"), old)
        for work in (
            lambda: samples.commit(store, samples.tiny()),
            lambda: store.commit(stage, samples.describe(stage, samples.tiny(), OTHER)),
            lambda: delete(store, HASH),
        ):
            with pytest.raises(errors.StoreError):
                work()
        store.discard(stage)
        assert store.sweep(older_than_seconds=0) == 0
    samples.check(place.store("c"), old)
    assert_emptied(place, HASH, OTHER)


@pytest.mark.needs("gone")
def test_a_store_that_is_gone(place: places.Place) -> None:
    """It is not an artifact that is lost then, and nothing is made again for it."""
    store = place.store("a")
    sample = samples.commit(store, samples.few())
    with place.trouble("gone"):
        for work in (
            lambda: samples.commit(store, samples.tiny()),
            lambda: samples.read(place.store("b"), sample),
            lambda: delete(store),
        ):
            with pytest.raises(errors.StoreError) as caught:
                work()
            assert caught.value.retryable
        assert store.sweep(older_than_seconds=0) == 0
    samples.check(place.store("c"), sample)
    samples.check(place.store("c"), samples.commit(store, samples.tiny()))


@pytest.mark.needs("gone")
def test_a_store_that_goes_before_the_commit(place: places.Place) -> None:
    store = place.store("a")
    old = samples.commit(store, samples.tiny())
    stage = store.stage(HASH, VARIANT)
    samples.fill(stage, samples.tiny(1))
    described = samples.describe(stage, samples.tiny(1))
    with place.trouble("gone"):
        with pytest.raises(errors.StoreError):
            store.commit(stage, described)
        store.discard(stage)
    text = manifest.digest(manifest.encode(described))
    with refused(MISSING):
        place.store("c").open(HASH, VARIANT, stage.uuid, text)
    samples.check(place.store("c"), old)
    assert_emptied(place)


@pytest.mark.needs("gone", "cache")
def test_what_a_node_has_is_there_without_the_store(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    samples.check(place.store("b"), sample)
    with place.trouble("gone"):
        for node in ("a", "b"):
            samples.check(place.store(node), sample)
            place.restart(node)
            samples.check(place.store(node), sample)
        with pytest.raises(errors.StoreError):
            samples.find(place.store("c"), sample)
    samples.check(place.store("c"), sample)


@pytest.mark.needs("silent")
def test_a_store_that_says_nothing(place: places.Place) -> None:
    """Nobody waits for ever; then it is as one that is gone."""
    store = place.store("a")
    old = samples.commit(store, samples.few())
    with place.trouble("silent"):
        for work in (
            lambda: samples.commit(store, samples.tiny()),
            lambda: samples.read(place.store("b"), old),
            lambda: delete(store, OTHER),
        ):
            with pytest.raises(errors.StoreError) as caught:
                work()
            assert caught.value.retryable
        assert store.sweep(older_than_seconds=0) == 0
        samples.check(store, old)
    samples.check(place.store("c"), old)
    samples.check(place.store("c"), samples.commit(store, samples.tiny()))
    assert_emptied(place)


@pytest.mark.needs("slow")
def test_a_slow_store(place: places.Place) -> None:
    with place.trouble("slow"):
        sample = samples.commit(place.store("a"), samples.tiny())
        samples.check(place.store("b"), sample)
        delete(place.store("a"))
    place.settle()
    assert_missing(place.store("c"), sample)


@pytest.mark.needs("lag")
def test_a_store_that_lags(place: places.Place) -> None:
    """Until others see it there is none for them; never half of one."""
    with place.trouble("lag"):
        sample = samples.commit(place.store("a"), samples.few())
        samples.check(place.store("a"), sample)
        end, found = time.monotonic() + place.settle_seconds, []
        while time.monotonic() < end:
            try:
                samples.check(place.store("b"), sample)
                found.append("read")
            except errors.ArtifactError as err:
                found.append(err.reason)
            time.sleep(0.02)
        assert {*found} <= {"read", MISSING}
        assert found[0] == MISSING
        assert found == sorted(found), "what is there stays"
        samples.check(place.store("b"), sample)
        later = samples.commit(place.store("b"), samples.tiny(), OTHER)
        place.store("a").sweep(older_than_seconds=YOUNG)
        place.settle()
        samples.check(place.store("c"), later)
        delete(place.store("c"), OTHER)
    place.settle()
    assert_emptied(place)
