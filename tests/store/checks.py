"""What several files of the suite assert of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from chrek import errors, names, removal, storage
from store import places, samples
from store.samples import HASH

YOUNG = 3600.0
MISSING, DIFFERENT = names.Reason.ARTIFACT_MISSING, names.Reason.DIGEST_MISMATCH
CORRUPT, UNREADABLE = names.Reason.ARTIFACT_CORRUPT, names.Reason.ARTIFACT_UNREADABLE
LOST = {reason.value for reason in names.LOST_ARTIFACT}


@contextlib.contextmanager
def refused(*reasons: str) -> Iterator[None]:
    with pytest.raises(errors.ArtifactError) as caught:
        yield
    assert caught.value.reason in reasons, str(caught.value)


def assert_missing(store: storage.AnyStore, sample: samples.Sample) -> None:
    with refused(MISSING):
        samples.find(store, sample)


def delete(store: storage.AnyStore, *path: str, **options) -> list[removal.Deleted]:
    gone: list[removal.Deleted] = []
    wanted = {"stage_seconds": YOUNG, "on_deleted": gone.append, **options}
    store.delete(*(path or (HASH,)), **wanted)
    return gone


def assert_emptied(place: places.Place, *hashes: str) -> None:
    """The last of it goes, and nothing at all stays."""
    store = place.store("a")
    for identity_hash in hashes or (HASH,):
        delete(store, identity_hash, stage_seconds=0)
    store.sweep(older_than_seconds=0)
    assert place.listing() == set()


@contextlib.contextmanager
def harmless(place: places.Place) -> Iterator[None]:
    """Nothing is written but where a node keeps what is the store's."""
    store = place.store("b")
    around = store.base.parent

    def outside() -> list[str]:
        found = [path for path in around.rglob("*") if not path.is_relative_to(store.base)]
        return sorted(map(str, found))

    before, stored = outside(), place.listing()
    yield
    assert outside() == before
    assert place.listing() == stored
