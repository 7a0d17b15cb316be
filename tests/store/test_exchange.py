"""Parts of an artifact on a real server that are exchanged, and a store that gets another key."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

import msgspec
import pytest

from chrek import config, errors, names, storage
from chrek.remote import backend, opening, rekey, s3objects, seal
from store import remote_places, samples
from store.samples import HASH, OTHER, VARIANT

KEY_SEEN_BYTES = len(seal.MAGIC) + 1 + 8
pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture(params=["s3", "oci"])
def server(request: pytest.FixtureRequest) -> remote_places.Remote:
    found = request.getfixturevalue(f"{request.param}_place")
    assert isinstance(found, remote_places.Remote)
    return found


def opened(place: remote_places.Remote) -> Any:
    """The client of its server, for calls of its own."""
    return opening._backend(place.settings("a"))


def key_of(sample: samples.Sample) -> backend.Key:
    return backend.Key("", sample.identity_hash, sample.variant, sample.uuid)


async def packs(one: backend.Backend, key: backend.Key) -> list[backend.Pack]:
    found = await one.read(key, backend.Part.PLACES)
    return list(remote_places._packs(found))


def test_parts_are_exchanged_and_the_rest_stays(server: remote_places.Remote) -> None:
    sample = samples.commit(server.store("a"), samples.tiny())
    key = key_of(sample)

    async def exchange() -> None:
        one = opened(server)
        before = {part: await one.read(key, part) for part in backend.Part}
        (entry,) = await one.entries("")
        parts = {backend.Part.PLACES: b"other places"}
        for _ in range(2):
            # Once more is no error: the answer may have been lost.
            await one.replace(key, parts, await packs_before(one))
        found = {part: await one.read(key, part) for part in backend.Part}
        assert found == before | parts
        (again,) = await one.entries("")
        assert again.key == entry.key
        assert again.modified == entry.modified
        assert not entry.places or again.places != entry.places
        await one.close()

    known: list[backend.Pack] = []

    async def packs_before(one: backend.Backend) -> list[backend.Pack]:
        if not known:
            known.extend(await packs(one, key))
        return known

    asyncio.run(exchange())
    server.store("a").delete(HASH, stage_seconds=0)
    assert server.listing() == set()


def test_what_is_not_there_is_not_exchanged(server: remote_places.Remote) -> None:
    async def exchange() -> None:
        one = opened(server)
        with pytest.raises(errors.ArtifactError) as caught:
            await one.replace(
                backend.Key("", HASH, VARIANT, "1"), {backend.Part.PLACES: b"places"}, []
            )
        assert caught.value.reason == names.Reason.ARTIFACT_MISSING
        await one.close()

    asyncio.run(exchange())
    assert server.listing() == set()


def test_of_two_who_exchange_it_one_is_told(s3_place: remote_places.S3) -> None:
    key = key_of(samples.commit(s3_place.store("a"), samples.tiny()))

    async def exchange() -> None:
        one = opened(s3_place)
        listed = await packs(one, key)
        made = [one.replace(key, {backend.Part.PLACES: b"places %d" % n}, listed) for n in range(4)]
        found = await asyncio.gather(*made, return_exceptions=True)
        told = [str(err) for err in found if isinstance(err, errors.StoreError)]
        assert len(told) < 4
        assert [err for err in found if err is not None and str(err) not in told] == []
        assert all("somebody else has written it" in text for text in told)
        kept = await one.read(key, backend.Part.PLACES)
        assert kept in {b"places %d" % n for n, err in enumerate(found) if err is None}
        await one.close()

    asyncio.run(exchange())


def test_what_is_deleted_meanwhile_does_not_come_back(
    s3_place: remote_places.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of(samples.commit(s3_place.store("a"), samples.tiny()))
    real = s3objects.Objects.put

    async def exchange() -> None:
        one, other = opened(s3_place), opened(s3_place)
        listed = await packs(one, key)

        async def put(self: s3objects.Objects, name: str, data: bytes, **how: Any) -> bool:
            done = await real(self, name, data, **how)
            if how.get("over"):
                await other._objects.delete(name.replace("places.table", "manifest.json"))
            return done

        monkeypatch.setattr(s3objects.Objects, "put", put)
        with pytest.raises(errors.ArtifactError) as caught:
            await one.replace(key, {backend.Part.PLACES: b"places"}, listed)
        assert caught.value.reason == names.Reason.ARTIFACT_MISSING
        await one.close()
        await other.close()

    asyncio.run(exchange())
    assert not [name for name in s3_place.listing() if HASH in name]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_store_gets_another_key(
    server: remote_places.Remote,
    tmp_path: pathlib.Path,
    interrupted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rekey, "SETTLE_SECONDS", 0.1)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text(bytes(range(32)).hex())

    def node(name: str) -> storage.Storage:
        encryption = config.Encryption(keyPath=str(secret))
        settings = msgspec.structs.replace(server.settings(name), encryption=encryption)
        return remote_places._storage(settings)

    stores = {name: node(name) for name in ("a", "b", "c", "d")}
    own = remote_places.OWN
    made = [
        samples.commit(stores["a"].of(own), samples.few()),
        samples.commit(stores["a"].of(own), samples.tiny(), OTHER),
    ]
    samples.check(stores["b"].of(own), made[0])
    before = [server.read(server.manifest(one)) for one in made]
    if interrupted:

        def stop(line: str) -> None:
            raise errors.StoreError(f"stopped after {line}")

        with pytest.raises(errors.StoreError, match="stopped after"):
            stores["c"].rekey([own], writer_seconds=60, report=stop)
    told: list[str] = []
    stores["c"].rekey([own], writer_seconds=60, report=told.append)
    sealed = [line for line in told if line.endswith(" is sealed with the new key")]
    assert len(sealed) == (1 if interrupted else 2)
    assert "the older key is gone" in told
    for one, text in zip(made, before, strict=True):
        found = server.read(server.manifest(one))
        assert found.startswith(seal.MAGIC)
        assert found[:KEY_SEEN_BYTES] != text[:KEY_SEEN_BYTES], "which keys it names"
    for one in made:
        samples.check(stores["b"].of(own), one)
        samples.check(stores["d"].of(own), one)
    later = samples.commit(stores["b"].of(own), samples.few(3))
    samples.check(stores["d"].of(own), later)
    for each in stores.values():
        each.close()


def test_a_store_without_a_key_gets_no_other(server: remote_places.Remote) -> None:
    one = remote_places._storage(server.settings("a"))
    with pytest.raises(errors.StoreError, match="the store is not encrypted"):
        one.rekey([], writer_seconds=60, report=print)
    one.close()


def test_a_volume_has_no_key(tmp_path: pathlib.Path) -> None:
    one = remote_places._storage(config.Storage(pvc=config.Pvc(basePath=str(tmp_path))))
    with pytest.raises(errors.InputError, match="chrek encrypts nothing on a volume"):
        one.rekey([], writer_seconds=60, report=print)
    one.close()
