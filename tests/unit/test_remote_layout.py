"""Names of objects in a bucket."""

from __future__ import annotations

import string

import hypothesis
import pytest
from hypothesis import strategies

from chrek import errors
from chrek.remote import backend, layout

HASH = "0123456789abcdef"
PACK = "ab" + "0" * 62
UUID = "9b2f1c1e-3f0f-4c6a-9d8e-0a1b2c3d4e5f"
KEY = backend.Key("", HASH, "a1b2c3", UUID)
THEIRS = backend.Key("team-a", HASH, "a1b2c3", UUID)

hexadecimal = strategies.text("0123456789abcdef-", min_size=1, max_size=64)
keys = strategies.builds(
    backend.Key,
    strategies.sampled_from(["", "team-a", "packs", "writing", "ns"]),
    strategies.text("0123456789abcdef", min_size=16, max_size=16),
    hexadecimal,
    hexadecimal,
)


def test_names_are_those_that_the_documentation_shows():
    assert layout.part(KEY, backend.Part.MANIFEST) == f"{HASH}/a1b2c3/{UUID}/manifest.json"
    assert layout.part(THEIRS, backend.Part.TABLE) == (
        f"ns/team-a/{HASH}/a1b2c3/{UUID}/chunks.table"
    )
    assert layout.pack("", PACK) == f"packs/ab/{PACK}"
    assert layout.pack("team-a", PACK) == f"ns/team-a/packs/ab/{PACK}"
    assert layout.writer(KEY) == f"writing/{HASH}.a1b2c3.{UUID}"
    assert layout.writer(THEIRS) == f"ns/team-a/writing/{HASH}.a1b2c3.{UUID}"
    assert layout.check().startswith("checks/")
    assert layout.check() != layout.check()


@pytest.mark.parametrize("namespace", ["", "team-a"])
@pytest.mark.parametrize(
    "name", ["", "packs", "ns", "writing", "checks", HASH[:-1], HASH + "0", HASH.upper(), "x" * 16]
)
def test_only_hashes_are_identities(namespace, name):
    assert layout.read_identity(namespace, f"{layout.root(namespace)}{name}") == ""
    assert layout.read_identity(namespace, f"{layout.root(namespace)}{HASH}") == HASH


@pytest.mark.parametrize(
    "path",
    [
        f"{HASH}/a1/u1/manifest.json/more",
        f"{HASH}/a1/manifest.json",
        f"{HASH}/a1/u1/chunks.table",
        f"{HASH}/a1/u1/other.json",
        f"{HASH}/A1/u1/manifest.json",
        f"{HASH}/a1/u 1/manifest.json",
        f"{HASH}/a1/{'0' * 65}/manifest.json",
        f"ns/team-a/{HASH}/a1/u1/manifest.json",
        f"x/{HASH}/a1/u1/manifest.json",
        "manifest.json",
        "",
    ],
)
def test_what_is_no_manifest_is_passed_over(path):
    assert layout.read_part("", path) is None


@pytest.mark.parametrize(
    "path",
    [
        f"packs/ac/{PACK}",
        f"packs/{PACK}",
        f"packs/ab/x/{PACK}",
        f"packs/ab/{PACK[:-1]}",
        f"packs/ab/{PACK}0",
        f"packs/AB/{PACK.upper()}",
        f"ns/team-a/packs/ab/{PACK}",
        "packs/ab/",
        "",
    ],
)
def test_what_is_no_pack_is_passed_over(path):
    assert layout.read_pack("", path) == ""


@pytest.mark.parametrize(
    "path",
    [
        f"writing/{HASH}.a1",
        f"writing/{HASH}.a1.b.c",
        f"writing/x/{HASH}.a1.b",
        "writing/",
        f"{HASH}",
    ],
)
def test_what_is_no_writer_is_passed_over(path):
    assert layout.read_writer("", path) is None


@pytest.mark.parametrize(
    "key",
    [
        backend.Key("", HASH[:-1], "a", "b"),
        backend.Key("", HASH, "a/b", "c"),
        backend.Key("", HASH, "", "c"),
        backend.Key("", HASH, "a", ".."),
        backend.Key("", HASH, "a", "b\n"),
        backend.Key("..", HASH, "a", "b"),
        backend.Key("Team", HASH, "a", "b"),
        backend.Key("a/b", HASH, "a", "b"),
    ],
)
def test_no_other_name_is_made(key):
    for make in (layout.writer, lambda one: layout.part(one, backend.Part.MANIFEST)):
        with pytest.raises(errors.InputError):
            make(key)


@pytest.mark.parametrize("name", ["", "..", PACK[:-1], PACK.upper(), f"sha256:{PACK}", f"{PACK}\n"])
def test_no_other_name_of_a_pack_is_made(name):
    with pytest.raises(errors.InputError):
        layout.pack("", name)


@hypothesis.given(keys, strategies.sampled_from(["", "team-a"]))
def test_what_is_written_is_read(key, other):
    manifest, writer = layout.part(key, backend.Part.MANIFEST), layout.writer(key)
    for part in backend.Part:
        assert layout.read_part(key.namespace, layout.part(key, part)) == (key, part)
    assert layout.read_writer(key.namespace, writer) == key
    assert manifest.startswith(layout.identity(key.namespace, key.identity_hash) + "/")
    assert writer.startswith(layout.writing(key.namespace) + "/")
    if other != key.namespace:
        assert layout.read_part(other, manifest) is None
        assert layout.read_writer(other, writer) is None


@hypothesis.given(strategies.text(string.hexdigits + "/.-nspackwriting", max_size=120))
def test_whatever_a_listing_shows_is_read_or_passed_over(path):
    if found := layout.read_part("", path):
        assert path == layout.part(*found)
    if key := layout.read_writer("", path):
        assert path == layout.writer(key)
    if name := layout.read_pack("", path):
        assert path == layout.pack("", name)
