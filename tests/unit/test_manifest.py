"""A manifest says what it said, or is refused with a message that names what is wrong."""

import contextlib
import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import errors, manifest, names

CHUNK = manifest.CHUNK_BYTES


def make(**changed):
    fields = {
        "version": 1,
        "uuid": "b7c1",
        "identityHash": "0123456789abcdef",
        "variant": "aaaa",
        "createdAt": "2026-01-01T00:00:00Z",
        "chrekVersion": "0.1.0",
        "rootPid": 10001,
        "stdio": ["/dev/null", "pipe:[1]", "pipe:[2]"],
        "volumes": [{"path": "/", "exclusive": True}],
        "source": {"architecture": "x86_64", "kernel": "6", "hostname": "h", "addresses": []},
        "files": [
            {"name": "criu/pages-1.img", "size": CHUNK + 1, "chunks": ["a", "b"]},
            {"name": "files.data", "size": 0, "chunks": []},
        ],
        "steps": {"dump": 1.5},
    }
    return {key: value for key, value in {**fields, **changed}.items() if value is not ...}


def file(name="x", size=1, chunks=("a",)):
    return {"files": [{"name": name, "size": size, "chunks": list(chunks)}]}


def encoded(raw):
    return json.dumps(raw).encode()


def test_it_reads_what_it_writes():
    one = manifest.decode(encoded(make()))
    again = manifest.decode(manifest.encode(one))
    assert again == one
    assert one.bytes == CHUNK + 1
    assert one.file("files.data").size == 0
    with pytest.raises(errors.ArtifactError, match="no file other"):
        one.file("other")
    assert [f.name for f in manifest.select(one.files, "criu/")] == ["criu/pages-1.img"]


BAD = [
    (b"", "truncated"),
    (b"{", "truncated"),
    (b"\xff\xfe{}", "malformed"),
    (b"[]", "Expected `object`, got `array`"),
    (b'{"version": 1}', "missing required field `uuid`"),
    (b'{"version": "1"}', "Expected `int`, got `str`"),
    (b'{"x":' + b"[" * 100_000, "manifest.json: "),
    (b'{"version": 1, "uuid": "\\ud800"}', "manifest.json: "),
    (encoded(make(version=2)), "has version 2, this chrek reads version 1"),
    (encoded(make(version=0)), "has version 0"),
    (encoded(make(odd=1)), "unknown field `odd`"),
    (encoded(make(files=...)), "missing required field `files`"),
    (encoded(make(rootPid="1")), "$.rootPid"),
    (encoded(make(rootPid=1)), "pid 1"),
    (encoded(make(rootPid=-1)), "pid -1"),
    (encoded(make(rootPid=1 << 40)), f"pid {1 << 40}"),
    (encoded(make(stdio=["/dev/null"] * 4)), "stdio"),
    (encoded(make(stdio=[])), "stdio"),
    *(
        (encoded(make(**file(name=name))), f"{name!r} is no name of an artifact's file")
        for name in (
            *("", "/", "/etc/passwd", "../x", "criu/../x", "criu/..", "./x", "criu//x", "criu/"),
            *("a/b/c", "a\0b", "..", "."),
        )
    ),
    (encoded(make(**file(size=-1, chunks=[]))), "x has 0 chunk digests"),
    (encoded(make(**file(size=0))), "x has 1 chunk digests"),
    (encoded(make(**file(size=1, chunks=[]))), "x has 0 chunk digests"),
    (encoded(make(**file(size=CHUNK + 1))), "x has 1 chunk digests"),
    (encoded(make(files=file()["files"] * 2)), "a file is named twice"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_manifest_is_refused(data, message):
    with pytest.raises(errors.ArtifactError) as caught:
        manifest.decode(data)
    assert message in str(caught.value)
    assert str(caught.value).startswith("manifest.json")


def test_the_digest_decides_before_anything_is_read():
    data = encoded(make())
    right = "sha256:" + hashlib.sha256(data).hexdigest()
    assert manifest.digest(data) == right
    assert manifest.decode(data, expected_digest=right).uuid == "b7c1"
    for other in (data + b"\n", b"not json"):
        with pytest.raises(errors.ArtifactError, match="was replaced or damaged") as caught:
            manifest.decode(other, expected_digest=right)
        assert caught.value.reason == names.Reason.DIGEST_MISMATCH
    with pytest.raises(errors.ArtifactError):
        manifest.decode(data, expected_digest="")


def test_a_newer_version_is_told_apart_from_damage():
    with pytest.raises(errors.ArtifactError, match="use the chrek version") as caught:
        manifest.decode(encoded({"version": 7, "other": {"shape": []}}))
    assert caught.value.reason == names.Reason.ARTIFACT_UNREADABLE


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_an_error(data):
    with contextlib.suppress(errors.ArtifactError):
        manifest.decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(key=st.sampled_from(sorted(make())), value=JSON)
def test_any_value_of_any_field_is_read_or_an_error(key, value):
    try:
        read = manifest.decode(encoded(make(**{key: value})))
    except errors.ArtifactError:
        return
    assert msgspec.to_builtins(getattr(read, key)) is not None
