"""What has been damaged, lost or replaced in a store is refused and does no harm."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable

import pytest

from store import places, samples
from store.checks import CORRUPT, DIFFERENT, MISSING, harmless, refused
from store.samples import HASH, OTHER, VARIANT

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]
DIGEST = "0" * 64


def test_an_artifact_that_is_not_there(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.tiny())
    for changed in ({"uuid": "1"}, {"variant": "bbbb"}, {"identity_hash": OTHER}):
        with refused(MISSING):
            samples.find(place.store("b"), dataclasses.replace(sample, **changed))


@pytest.mark.parametrize("digest", ["", "sha256:", f"sha256:{DIGEST}", DIGEST, "md5:1"])
def test_another_digest_than_the_status_names(place: places.Place, digest: str) -> None:
    sample = samples.commit(place.store("a"), samples.tiny())
    for node in ("a", "b"):
        with refused(DIFFERENT):
            samples.find(place.store(node), dataclasses.replace(sample, digest=digest))


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def halves(data: bytes) -> bytes:
    half = len(data) // 2
    return data[half : 2 * half] + data[:half] + data[2 * half :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "first bit": lambda data: flip(data, 0),
    "bit in the middle": lambda data: flip(data, len(data) // 2),
    "last bit": lambda data: flip(data, len(data) - 1),
    "noise of the same size": lambda data: random.Random(1).randbytes(len(data)),
    "zeros": lambda data: bytes(len(data)),
    "halves swapped": halves,
    "a byte less": lambda data: data[:-1],
    "half of it": lambda data: data[: len(data) // 2],
    "nothing left": lambda data: b"",
    "a byte more": lambda data: data + b"\0",
    "twice": lambda data: data * 2,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest(place: places.Place, damage: str) -> None:
    sample = samples.commit(place.store("a"), samples.tiny())
    name = place.manifest(sample)
    place.write(name, DAMAGE[damage](place.read(name)))
    with refused(DIFFERENT):
        samples.find(place.store("b"), sample)


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_contents(place: places.Place, damage: str, which: str) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    name = place.contents(sample)[0 if which == "largest" else -1]
    place.write(name, DAMAGE[damage](place.read(name)))
    with harmless(place):
        if which == "largest" and damage in place.unseen:
            samples.check(place.store("b"), sample)
        else:
            with refused(CORRUPT):
                samples.read(place.store("b"), sample)


def test_contents_that_are_swapped(place: places.Place) -> None:
    """Each is intact, at the place of another one, and they may be of one size."""
    sample = samples.commit(place.store("a"), samples.few())
    first, second = place.contents(sample)[-2:]
    one, other = place.read(first), place.read(second)
    place.write(first, other)
    place.write(second, one)
    with harmless(place), refused(CORRUPT):
        samples.read(place.store("b"), sample)


def test_contents_of_another_artifact(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    other = samples.commit(place.store("a"), samples.few(1), OTHER)
    pairs = zip(place.contents(sample), place.contents(other), strict=True)
    kept = {own: place.read(own) for own in place.contents(sample)}
    for own, theirs in pairs:
        if own != theirs:
            place.write(own, place.read(theirs))
    with harmless(place), refused(CORRUPT):
        samples.read(place.store("b"), sample)
    for own, data in kept.items():
        place.write(own, data)
    place.settle()
    samples.check(place.store("b"), sample)


@pytest.mark.parametrize("which", ["manifest", "largest", "smallest"])
def test_a_part_is_lost(place: places.Place, which: str) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    names = {"manifest": place.manifest(sample), "largest": place.contents(sample)[0]}
    place.remove(names.get(which, place.contents(sample)[-1]))
    with refused(MISSING):
        samples.read(place.store("b"), sample)


def test_all_but_the_manifest_is_lost(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    for name in place.contents(sample):
        place.remove(name)
    with refused(MISSING):
        samples.read(place.store("b"), sample)


def test_damage_that_is_undone_is_forgotten(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    name = place.contents(sample)[0]
    data = place.read(name)
    place.write(name, flip(data, 5))
    store = place.store("b")
    with refused(CORRUPT):
        samples.read(store, sample)
    place.write(name, data)
    place.settle()
    samples.check(store, sample)


# Manifests in the place of others.


def test_an_older_manifest_is_replayed(place: places.Place) -> None:
    """One that was signed for this very artifact once: the status says another digest."""
    sample = samples.commit(place.store("a"), samples.tiny())
    older = samples.commit(place.store("a"), samples.tiny(1))
    text = json.loads(place.read(place.manifest(sample)))
    place.plant(sample, json.dumps({**text, "createdAt": "2025-01-01T00:00:00Z"}).encode())
    with refused(DIFFERENT):
        samples.find(place.store("b"), sample)
    place.plant(sample, place.read(place.manifest(older)))
    with refused(DIFFERENT):
        samples.find(place.store("c"), sample)


@pytest.mark.parametrize("of", ["uuid", "variant", "hash", "namespace"])
def test_the_manifest_of_another_artifact(place: places.Place, of: str) -> None:
    """Also where the status is made to say its digest."""
    sample = samples.commit(place.store("a"), samples.tiny())
    namespace = "team" if of == "namespace" else ""
    path = {"variant": (HASH, "bbbb"), "hash": (OTHER, VARIANT)}.get(of, (HASH, VARIANT))
    other = samples.commit(place.store("a", namespace), samples.tiny(), *path)
    told = place.plant(sample, place.read(place.manifest(other, namespace)))
    with refused(DIFFERENT):
        samples.find(place.store("b"), sample)
    with refused(CORRUPT):
        samples.find(place.store("b"), told)
