"""What an artifact is in a registry."""

import dataclasses
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import errors, manifest
from chrek.registry import client
from chrek.remote import backend, ocimanifest

KEY = backend.Key("", "0123456789abcdef", "a1b2c3d4e5f6", "6ecd6e2e-3b9f-4c2c-9d0e-0d6f5c0a1b2c")
TAG = "0123456789abcdef.a1b2c3d4e5f6.6ecd6e2e-3b9f-4c2c-9d0e-0d6f5c0a1b2c"
GRAMMAR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
NAMES = st.text("0123456789abcdef-", min_size=1, max_size=55)
DIGEST = f"sha256:{'0' * 64}"
PARTS = [client.Descriptor(DIGEST, 7, kind) for kind in ocimanifest.TYPES.values()]


@given(st.text("0123456789abcdef", min_size=16, max_size=16), NAMES, NAMES)
def test_a_tag_is_read_back(identity_hash, variant, uuid):
    key = backend.Key("team-a", identity_hash, variant, uuid)
    tag = ocimanifest.tag(key)
    assert GRAMMAR.fullmatch(tag)
    assert ocimanifest.key("team-a", tag) == key


def test_the_tag_of_an_artifact():
    assert ocimanifest.tag(KEY) == TAG


@pytest.mark.parametrize(
    "wrong",
    [
        {"identity_hash": "0123456789abcde"},
        {"identity_hash": "../56789abcdef01"},
        {"variant": ""},
        {"variant": "a.b"},
        {"uuid": "a/b"},
        {"uuid": "a" * 65},
        {"variant": "a" * 64, "uuid": "b" * 64},
        {"uuid": "a\n"},
    ],
)
def test_names_that_are_none_of_the_store(wrong):
    with pytest.raises(errors.InputError, match="is not a name in the store"):
        ocimanifest.tag(dataclasses.replace(KEY, **wrong))


@pytest.mark.parametrize(
    "tag", ["latest", "keys", "keys.claim", TAG + ".x", TAG.upper(), TAG[1:], TAG + "\n", "a.b.c"]
)
def test_tags_of_others(tag):
    assert ocimanifest.key("", tag) is None


async def test_the_text_of_an_artifact():
    packs = [backend.Pack(f"sha256:{n:064x}", 1 << n) for n in range(2)]
    described = backend.Described(manifest=b"m", table=b"tt", places=b"ppp", packs=packs)
    listed = await ocimanifest.descriptors(described)
    raw = ocimanifest.artifact(listed, {"a": "b", ocimanifest.CREATED: "2026-11-25T10:00:00Z"})

    def one(kind, digest, size, title):
        found = {"mediaType": f"application/vnd.chrek.{kind}", "digest": digest, "size": size}
        note = {"annotations": {"org.opencontainers.image.title": title}} if title else {}
        return {**found, **note}

    def sha(text):
        return f"sha256:{hashlib.sha256(text).hexdigest()}"

    assert json.loads(raw) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.chrek.checkpoint.v1+json",
        "config": one("manifest.v1+json", sha(b"m"), 1, ""),
        "layers": [
            one("chunks.v1", sha(b"tt"), 2, "chunks.table"),
            one("places.v1", sha(b"ppp"), 3, "places.table"),
            one("pack.v1", packs[0].name, 1, "00000.pack"),
            one("pack.v1", packs[1].name, 2, "00001.pack"),
        ],
        "annotations": {"org.opencontainers.image.created": "2026-11-25T10:00:00Z", "a": "b"},
    }
    assert ocimanifest.artifact(listed, {ocimanifest.CREATED: "x"}) == ocimanifest.artifact(
        listed, {ocimanifest.CREATED: "x"}
    )


def test_the_time_of_creation_is_added():
    raw = ocimanifest.artifact(PARTS, {})
    created = json.loads(raw)["annotations"][ocimanifest.CREATED]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created)


def test_a_terabyte_of_packs_fits():
    """Of 64 MiB each, with the longest annotations that a capture gives."""
    packs = [client.Descriptor(DIGEST, 64 << 20, ocimanifest.PACK_TYPE)] * 13_000
    raw = ocimanifest.artifact([*PARTS, *packs], {"a": "x" * 4096})
    assert len(raw) <= ocimanifest.MOST_BYTES
    assert len(packs) * (64 << 20) > 0.8e12


def answer(config=PARTS[0], layers=PARTS[1:], annotations=None):
    made = client.Manifest(config=config, layers=list(layers), annotations=annotations)
    return client.Answer(made, DIGEST)


def test_an_artifact_is_read_back():
    packs = [client.Descriptor(DIGEST, 9, ocimanifest.PACK_TYPE)]
    found = ocimanifest.decode(answer(layers=[*PARTS[1:], *packs]), "x")
    assert found.digest == DIGEST
    assert list(found.parts.items()) == list(zip(ocimanifest.TYPES, PARTS, strict=True))
    assert found.created == 0.0


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:01:00.5Z", 60.5),
        ("1970-01-01T00:01:00", 60.0),
        ("", 0.0),
        ("yesterday", 0.0),
        ("9999-99-99", 0.0),
    ],
)
def test_times_of_creation(created, seconds):
    found = ocimanifest.decode(answer(annotations={ocimanifest.CREATED: created}), "x")
    assert found.created == seconds


@pytest.mark.parametrize(
    ("config", "layers", "part"),
    [
        (None, PARTS[1:], "manifest.json"),
        (PARTS[1], PARTS[1:], "manifest.json"),
        (PARTS[0], [], "chunks.table"),
        (PARTS[0], PARTS[1:2], "places.table"),
        (PARTS[0], [PARTS[2], PARTS[1]], "chunks.table"),
        (PARTS[0], [client.Descriptor("sha512:x", 7, PARTS[1].media_type)], "chunks.table"),
        (PARTS[0], [client.Descriptor(DIGEST + "/..", 7, PARTS[1].media_type)], "chunks.table"),
        (PARTS[0], [client.Descriptor(DIGEST, -1, PARTS[1].media_type)], "chunks.table"),
        (
            PARTS[0],
            [client.Descriptor(DIGEST, manifest.MAX_BYTES + 1, PARTS[1].media_type)],
            "chunks.table",
        ),
    ],
)
def test_what_is_no_artifact(config, layers, part):
    with pytest.raises(errors.ArtifactError) as raised:
        ocimanifest.decode(answer(config, layers), "oci://x/y:t")
    assert raised.value.message == f"oci://x/y:t: it has no usable {part}"
