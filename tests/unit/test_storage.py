"""The configuration decides where artifacts are."""

import os

import pytest

from chrek import config, errors, storage
from chrek import store as stores
from chrek.remote import keys, opening, seal, storekeys
from chrek.remote import store as remote
from fakes import backend as fake_backend
from fakes import node as nodes

HASH = "0123456789abcdef"


def made(**settings):
    return storage.Storage(config.Storage(**settings), "chrek", transfer_seconds=1)


def test_a_volume(tmp_path):
    found = made(pvc=config.Pvc(basePath=str(tmp_path / "x")))
    own, other = found.of("chrek"), found.of("team")
    assert isinstance(own, stores.Store)
    assert own.location(HASH) == f"{tmp_path}/x/{HASH}"
    assert other.location(HASH) == f"{tmp_path}/x/ns/team/{HASH}"
    assert not found.has_cache
    found.check()
    found.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "s3", "s3": config.S3(uri="s3://host:1/bucket/p/")},
        {"type": "oci", "oci": config.Oci(uri="oci://host:1/bucket/p")},
    ],
)
def test_a_server(settings, tmp_path):
    found = made(**settings, cache=config.Cache(path=str(tmp_path)))
    own, other = found.of("chrek"), found.of("team")
    assert isinstance(own, remote.Store)
    uri = f"{settings['type']}://host:1/bucket/p"
    assert own.location(HASH) == f"{uri}/{HASH}"
    assert other.location(HASH) == f"{uri}/ns/team/{HASH}"
    assert own.base == tmp_path
    found.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "s3", "s3": config.S3(uri="s3://")},
        {"type": "oci", "oci": config.Oci(uri="https://x/y")},
    ],
)
def test_a_uri_that_is_none(settings):
    with pytest.raises(errors.ConfigError):
        made(**settings)


class TestKeys:
    """`opening._unlock`: the store's keys are made once, and wrapped again after a rotation."""

    def mounted(self, path, *lines):
        path.mkdir(exist_ok=True)
        for number, line in enumerate(lines):
            (path / ("key" if not number else f"previous-{number}")).write_text(line)
        return config.Encryption(keyPath=str(path))

    async def test_made_once(self, tmp_path):
        one = fake_backend.Memory()
        settings = self.mounted(tmp_path / "k", os.urandom(32).hex())
        first = await opening._unlock(settings, one)
        stored = one.keys
        second = await opening._unlock(settings, one)
        assert one.keys == stored
        assert first.chunk_id(b"x") == second.chunk_id(b"x") != seal.Plain().chunk_id(b"x")

    async def test_without_a_key(self):
        one = fake_backend.Memory()
        assert isinstance(await opening._unlock(config.Encryption(), one), seal.Plain)
        one.keys = storekeys.new_store_keys(keys.Wrapping(os.urandom(32)))
        with pytest.raises(errors.StoreError, match="is encrypted"):
            await opening._unlock(config.Encryption(), one)

    async def test_rotation(self, tmp_path):
        one = fake_backend.Memory()
        old, new = os.urandom(32).hex(), os.urandom(32).hex()
        first = await opening._unlock(self.mounted(tmp_path / "a", old), one)
        stored = one.keys
        second = await opening._unlock(self.mounted(tmp_path / "b", new, old), one)
        assert one.keys != stored
        third = await opening._unlock(self.mounted(tmp_path / "c", new), one)
        assert len({sealer.chunk_id(b"x") for sealer in (first, second, third)}) == 1
        with pytest.raises(errors.ChrekError):
            await opening._unlock(self.mounted(tmp_path / "d", os.urandom(32).hex()), one)

    async def test_keys_that_are_gone_are_not_made_again(self, tmp_path):
        one = fake_backend.Memory()
        settings = self.mounted(tmp_path / "k", os.urandom(32).hex())
        sealer = await opening._unlock(settings, one)
        with nodes.Node(one, tmp_path / "n", sealer=sealer) as node:
            nodes.make(node.store(), {"a": b"b"})
        one.keys = None
        with pytest.raises(errors.StoreError, match=r"keys\.json of the store is gone"):
            await opening._unlock(settings, one)
        assert one.keys is None
