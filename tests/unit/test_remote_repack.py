"""What little is still used of a pack gets into another; every artifact stays what it was."""

import pytest

from chrek import errors, names
from chrek.remote import backend as backends
from chrek.remote import index, keys, repack, seal, storekeys
from fakes import backend as fake_backend
from fakes import node as nodes

HASH, VARIANT, OTHER = nodes.HASH, nodes.VARIANT, "fedcba9876543210"
fetch, noise = nodes.fetch, nodes.noise


SHARED = noise(40_000, 1)
LARGE = {"criu/shared.img": SHARED, "criu/own.img": noise(200_000, 2)}
SMALL = {"criu/shared.img": SHARED, "files.data": b"text " * 2000}


def sealers():
    wrapping = keys.Wrapping(noise(32, 7))
    return seal.Sealed(storekeys.unwrap(storekeys.new_store_keys(wrapping), (wrapping,)))


@pytest.fixture(params=["plain", "sealed"])
def sealer(request):
    return sealers() if request.param == "sealed" else seal.Plain()


@pytest.fixture(params=["bucket", "registry"])
def backend(request):
    return fake_backend.Memory(collects=request.param == "registry")


@pytest.fixture
def first(backend, sealer, tmp_path):
    with nodes.Node(backend, tmp_path / "n1", sealer=sealer) as made:
        yield made


@pytest.fixture
def second(backend, sealer, tmp_path):
    with nodes.Node(backend, tmp_path / "n2", sealer=sealer) as made:
        yield made


def packs_of(node, uuid):
    """Names of the packs that an artifact refers to."""
    key = backends.Key("", HASH, VARIANT, uuid)
    found = node.server.run(lambda one, sealer: index.read(one, sealer, key), timeout_seconds=5)
    return {one.name for one in found.places.packs}


def sizes(backend):
    return {name: len(one.data) for (_, name), one in backend.stored.items()}


def test_a_pack_of_which_little_is_used_goes(backend, first, second):
    large, _ = nodes.make(first.store(), LARGE)
    small, digest = nodes.make(first.store(), SMALL)
    (old,) = packs_of(first, large)
    assert old in packs_of(first, small)
    first.store().delete(HASH, VARIANT, large, stage_seconds=0)
    assert old not in packs_of(first, small)
    assert old in sizes(backend), "who has read the old table goes on reading"
    first.store().sweep(older_than_seconds=0)
    if not backend.collects:
        assert sum(sizes(backend).values()) < 60_000
        assert old not in sizes(backend)
    assert fetch(second, small, digest) == SMALL
    first.store().delete(HASH, stage_seconds=0)
    assert backend.collects or not backend.stored


def test_what_several_use_is_moved_once(backend, first, second):
    large, _ = nodes.make(first.store(), LARGE)
    made = [nodes.make(first.store(), {**SMALL, "x": noise(500, n)}) for n in range(3)]
    first.store().delete(HASH, VARIANT, large, stage_seconds=0)
    used = set().union(*(packs_of(first, uuid) for uuid, _ in made))
    assert sum(sizes(backend)[name] for name in used) < 2 * len(SHARED)
    for number, (uuid, digest) in enumerate(made):
        assert fetch(second, uuid, digest) == {**SMALL, "x": noise(500, number)}


def test_a_pack_that_is_used_by_halves_stays(backend, first):
    """Each of two uses less than half of it, and both together more."""
    parts = [{f"criu/{n}.img": noise(80_000, n)} for n in range(3)]
    large, _ = nodes.make(first.store(), parts[0] | parts[1] | parts[2])
    (old,) = packs_of(first, large)
    kept = [nodes.make(first.store(), part)[0] for part in parts[:2]]
    for uuid in kept:
        # The first uses a third of it only, so nobody refers to what it alone does.
        assert packs_of(first, uuid) == {old}
    first.store().delete(HASH, VARIANT, large, stage_seconds=0)
    assert [packs_of(first, uuid) for uuid in kept] == [{old}, {old}]
    first.store().delete(HASH, VARIANT, kept[0], stage_seconds=0)
    assert old not in packs_of(first, kept[1])


def test_interrupted_at_any_call_it_loses_nothing(sealer, tmp_path):
    for number in range(100):
        backend = fake_backend.Memory()
        with nodes.Node(backend, tmp_path / f"a{number}", sealer=sealer) as node:
            large, _ = nodes.make(node.store(), LARGE)
            made = [nodes.make(node.store(), {**SMALL, "x": noise(500, n)}) for n in range(2)]
            key = backends.Key("", HASH, VARIANT, large)
            for part in backends.Part:
                del backend.parts[key, part]
            backend.calls.clear()
            backend.fails_at = number
            try:
                node.server.run(
                    lambda one, sealed: repack.sparse(one, sealed, "", known={}),
                    timeout_seconds=30,
                )
                done = True
            except errors.StoreError:
                done = False
            backend.fails_at = None
            backend.begun.clear()
            node.store().sweep(older_than_seconds=-1)
            node.store().sweep(older_than_seconds=-1)
            old = max(sizes(backend).values())
            assert old < 100_000
        with nodes.Node(backend, tmp_path / f"b{number}", sealer=sealer) as other:
            for n, (uuid, digest) in enumerate(made):
                assert fetch(other, uuid, digest) == {**SMALL, "x": noise(500, n)}
        if done:
            return
    pytest.fail("it never succeeded")


def test_a_reader_of_the_old_table_looks_again(backend, first, second, monkeypatch):
    """Its packs go while it reads."""
    large, _ = nodes.make(first.store(), LARGE)
    small, digest = nodes.make(first.store(), SMALL)
    real, calls = backend.read_pack, []

    async def read_pack(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            backend.parts = dict(after)
            backend.stored = dict(stored)
        return await real(*arguments)

    before = dict(backend.parts), dict(backend.stored)
    first.store().delete(HASH, VARIANT, large, stage_seconds=0)
    first.store().sweep(older_than_seconds=0)
    old = set(before[1]) - {("", name) for name in packs_of(first, small)}
    after, stored = dict(backend.parts), {n: s for n, s in backend.stored.items() if n not in old}
    backend.parts, backend.stored = before
    monkeypatch.setattr(backend, "read_pack", read_pack)
    assert fetch(second, small, digest) == SMALL
    assert len(calls) > 1


def test_what_is_lost_is_not_looked_for_for_ever(backend, first, second):
    small, digest = nodes.make(first.store(), SMALL)
    backend.stored.clear()
    backend.calls.clear()
    with pytest.raises(errors.ArtifactError) as caught:
        fetch(second, small, digest)
    assert caught.value.reason == names.Reason.ARTIFACT_MISSING
    assert backend.calls.count(f"read {backends.Part.PLACES}") == 2


def test_a_damaged_pack_is_left_as_it_is(backend, first):
    large, _ = nodes.make(first.store(), LARGE)
    small, _ = nodes.make(first.store(), SMALL)
    (old,) = packs_of(first, large)
    data = bytearray(backend.stored["", old].data)
    backend.stored["", old].data = bytes(byte ^ 1 for byte in data)
    first.store().delete(HASH, VARIANT, large, stage_seconds=0)
    assert old in packs_of(first, small)


def test_one_that_is_deleted_meanwhile(backend, first):
    large, _ = nodes.make(first.store(), LARGE)
    small, _ = nodes.make(first.store(), SMALL)
    key = backends.Key("", HASH, VARIANT, small)
    real = backend.replace

    async def replace(*arguments):
        await backend.delete(key)
        await real(*arguments)

    backend.replace = replace
    first.store().delete(HASH, VARIANT, large, stage_seconds=0)
    assert not backend.parts
    assert not backend.begun


def test_others_read_what_was_exchanged(backend, first, second, tmp_path, sealer):
    """A node that knew the artifact before learns that its chunks are elsewhere."""
    large, _ = nodes.make(first.store(), LARGE)
    small, digest = nodes.make(first.store(), SMALL)
    second.store().sweep(older_than_seconds=0)
    first.store().delete(HASH, VARIANT, large, stage_seconds=0)
    second.store().sweep(older_than_seconds=0)
    with nodes.Node(backend, tmp_path / "n3", sealer=sealer) as third:
        assert fetch(third, small, digest) == SMALL
