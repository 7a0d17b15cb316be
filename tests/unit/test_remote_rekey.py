"""A store gets another data key while it is in use; nothing is lost, and nothing stays behind."""

import asyncio
import dataclasses
import functools
import time

import pytest

from chrek import config, errors
from chrek.remote import backend as backends
from chrek.remote import keys, opening, rekey, seal, storekeys
from fakes import backend as fake_backend
from fakes import node as nodes

HASH, VARIANT, OTHER = nodes.HASH, nodes.VARIANT, "fedcba9876543210"
fetch, noise = nodes.fetch, nodes.noise


SECRET = noise(32, 7)
SHARED = noise(40_000, 1)
FILES = [{"criu/shared.img": SHARED, "criu/own.img": noise(30_000, n)} for n in range(3)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rekey, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(rekey, "POLL_SECONDS", 0.01)


@pytest.fixture
def secret(tmp_path):
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "key").write_bytes(SECRET)
    return folder


@pytest.fixture
def node(secret, tmp_path):
    """Makes nodes of a release that has the Secret."""
    made = []

    def make(backend):
        unlock = functools.partial(opening._unlock, config.Encryption(keyPath=str(secret)))
        made.append(nodes.Node(backend, tmp_path / f"n{len(made)}", unlock=unlock))
        return made[-1]

    yield make
    for one in made:
        one.server.close()


def run(one, namespaces=("",), writer_seconds=60.0):
    told = []
    one.server.run(
        lambda server, _: rekey.run(
            server,
            (keys.Wrapping(SECRET),),
            namespaces,
            writer_seconds=writer_seconds,
            report=told.append,
        ),
        timeout_seconds=30,
    )
    return told


def store_keys(backend):
    return storekeys.unwrap(backend.keys, (keys.Wrapping(SECRET),))


def make_three(one):
    made = [nodes.make(one.store(), files) for files in FILES[:2]]
    third = nodes.make(one.store("team"), FILES[2], identity_hash=OTHER)
    return [(HASH, "", *made[0]), (HASH, "", *made[1]), (OTHER, "team", *third)]


def assert_there(one, made):
    for (identity_hash, namespace, uuid, digest), files in zip(made, FILES, strict=True):
        assert fetch(one, uuid, digest, identity_hash, namespace) == files


@pytest.mark.parametrize("collects", [False, True])
def test_all_of_it_is_sealed_with_another_key(node, collects):
    backend = fake_backend.Memory(collects=collects)
    first, reader = node(backend), node(backend)
    made = make_three(first)
    assert fetch(reader, *made[0][2:]) == FILES[0]
    old, before, packs = store_keys(backend), dict(backend.parts), set(backend.stored)
    told = run(node(backend))
    assert sorted(line.split()[0] for line in told[:3]) == sorted(
        "/".join(filter(None, (space, name, VARIANT, uuid))) for name, space, uuid, _ in made
    )
    assert told[3] == "the older key is gone"
    new = store_keys(backend)
    assert new.id_key == old.id_key
    assert new.data_key != old.data_key
    assert not new.older
    sealer = seal.Sealed(new)
    assert backend.parts.keys() == before.keys()
    for key, stored in backend.parts.items():
        assert sealer.current(stored.data)
        assert stored.data != before[key].data
    if not collects:
        assert not packs & set(backend.stored)
    # Those who have had the old key in memory all along, and one who comes now.
    for one in (first, reader, node(backend)):
        assert_there(one, made)
    uuid, digest = nodes.make(first.store(), FILES[2])
    assert fetch(node(backend), uuid, digest) == FILES[2]
    assert all(sealer.current(stored.data) for stored in backend.parts.values())
    assert not backend.begun


def test_what_one_had_captured_before_is_not_referred_to_by_the_next(node):
    """While both keys are there: its packs go."""
    backend = fake_backend.Memory()
    first = node(backend)
    nodes.make(first.store(), FILES[0])
    packs = set(backend.stored)
    backend.keys = storekeys.renewed(backend.keys, (keys.Wrapping(SECRET),))
    uuid, digest = nodes.make(first.store(), FILES[0])
    assert len(set(backend.stored) - packs) == 1
    for name in packs:
        del backend.stored[name]
    assert fetch(node(backend), uuid, digest) == FILES[0]


def test_interrupted_at_any_call_it_is_finished_by_the_next(node):
    for number in range(200):
        backend = fake_backend.Memory()
        first = node(backend)
        made = make_three(first)
        old = store_keys(backend)
        backend.calls.clear()
        backend.fails_at = number
        try:
            run(node(backend))
            done = True
        except errors.StoreError:
            done = False
        backend.fails_at = None
        assert_there(node(backend), made)
        backend.begun.clear()
        run(node(backend))
        assert_there(node(backend), made)
        assert store_keys(backend).older == ()
        assert not any(seal.Sealed(old).current(one.data) for one in backend.parts.values())
        if done:
            assert number > 20
            return
    pytest.fail("it never succeeded")


def test_an_artifact_that_cannot_be_read_keeps_the_older_key(node):
    backend = fake_backend.Memory()
    first = node(backend)
    uuid, _ = nodes.make(first.store(), {"criu/a.img": noise(5000, 8)})
    (name,) = backend.stored
    backend.stored[name].data = bytes(len(backend.stored[name].data))
    other, digest = nodes.make(first.store(), FILES[0], identity_hash=OTHER)
    with pytest.raises(errors.ArtifactError) as caught:
        run(node(backend))
    assert caught.value.message.startswith("1 artifacts cannot be read, and the older key stays: ")
    assert f"{HASH}/{VARIANT}/{uuid}: " in caught.value.message
    assert "delete" in caught.value.hint
    assert store_keys(backend).older
    assert fetch(node(backend), other, digest, OTHER) == FILES[0]
    first.store().delete(HASH, stage_seconds=0)
    run(node(backend))
    assert not store_keys(backend).older
    assert fetch(node(backend), other, digest, OTHER) == FILES[0]


def test_one_that_is_damaged_does_not_end_what_is_sent_for_others(node, monkeypatch):
    backend = fake_backend.Memory()
    first = node(backend)
    other, digest = nodes.make(first.store(), FILES[0], identity_hash=OTHER)
    before = set(backend.stored)
    uuid, _ = nodes.make(first.store(), {"criu/a.img": noise(900_000, 8)})
    for name in list(set(backend.stored) - before)[-1:]:
        backend.stored[name].data = bytes(len(backend.stored[name].data))
    real = backend.put_pack

    async def put_pack(*arguments):
        await asyncio.sleep(0.2)
        return await real(*arguments)

    monkeypatch.setattr(backend, "put_pack", put_pack)
    with pytest.raises(errors.ArtifactError, match="1 artifacts cannot be read") as caught:
        run(node(backend))
    assert uuid in caught.value.message
    sealer = seal.Sealed(dataclasses.replace(store_keys(backend), older=()))
    key = backends.Key("", OTHER, VARIANT, other)
    assert all(sealer.current(backend.parts[key, part].data) for part in backends.Part)
    assert fetch(node(backend), other, digest, OTHER) == FILES[0]


def test_whoever_captures_is_waited_for(node):
    backend = fake_backend.Memory()
    nodes.make(node(backend).store(), FILES[0])
    writing = backends.Key("", OTHER, VARIANT, "abc")
    backend.begun[writing] = time.time()
    seen, real = [], backend.writers

    async def writers(namespace):
        found = await real(namespace)
        seen.append(len(found))
        if len(seen) == 4:
            backend.begun.pop(writing)
        return found

    backend.writers = writers
    run(node(backend))
    assert len(seen) > 4
    backend.begun[writing] = time.time() - 3600
    run(node(backend))


def test_of_two_at_the_same_time_one_ends(node):
    backend = fake_backend.Memory()
    uuid, digest = nodes.make(node(backend).store(), FILES[0])
    stored, real = backend.keys, backend.write_keys

    async def write_keys(data, *, replace=False):
        await real(data, replace=replace)
        backend.write_keys = real
        return await real(storekeys.renewed(stored, (keys.Wrapping(SECRET),)), replace=True)

    backend.write_keys = write_keys
    with pytest.raises(errors.StoreError, match=r"somebody else has written keys\.json"):
        run(node(backend))
    assert fetch(node(backend), uuid, digest) == FILES[0]
    run(node(backend))
    assert fetch(node(backend), uuid, digest) == FILES[0]


def test_a_store_that_is_not_encrypted(node):
    with pytest.raises(errors.StoreError, match=r"the store has no keys\.json"):
        run(nodes.Node(fake_backend.Memory(), "/nonexistent"))


def test_two_data_keys_are_wrapped_and_read():
    wrapping, other = keys.Wrapping(SECRET), keys.Wrapping(noise(32, 9))
    first = storekeys.new_store_keys(wrapping)
    both = storekeys.renewed(first, (wrapping,))
    assert storekeys.renewed(both, (wrapping,)) == both
    one, two = (storekeys.unwrap(blob, (wrapping,)) for blob in (first, both))
    assert two.older == (one.data_key,)
    assert list(two.data_keys) == [two.id, one.id]
    again = storekeys.rewrap(both, (other, wrapping))
    assert storekeys.unwrap(again, (other,)) == two
    last = storekeys.unwrap(storekeys.settled(again, (other,)), (other,))
    assert (last.data_key, last.older) == (two.data_key, ())
