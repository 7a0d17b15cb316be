"""Encryption: what comes back, what is refused, and that the format stays as it is."""

import base64
import contextlib
import dataclasses
import gc
import hashlib
import itertools
import json
import random
import threading
import time
import traceback

import blake3
import hypothesis
import pytest
from cryptography.hazmat.primitives.ciphers import aead
from hypothesis import strategies as st

from chrek import errors, names
from chrek.remote import keys, seal, storekeys

WRAPPING, OLDER, OTHER = (keys.Wrapping(random.Random(seed).randbytes(32)) for seed in range(3))
STORE = keys.StoreKeys(bytes(range(32)), bytes(range(100, 132)), "2026-01-02T03:04:05+00:00")
SEALED = seal.Sealed(STORE)
PLAIN = seal.Plain()
KEY = "prod/0123456789abcdef/v1/5f0c"
DATA = b"weights of a layer"
ID = SEALED.chunk_id(DATA)
BOTH = pytest.mark.parametrize("sealer", [PLAIN, SEALED], ids=["plain", "sealed"])

# Made once, by a program that knows the documentation only. They never change: stores hold such.
SALT = bytes(range(200, 232))
STORED_CHUNK = bytes.fromhex("2692c745265e0086ece9ebc1fc09f717e29b14b27d77fa30c34121d85dc1ebde39c6")
STORED_PART = base64.b64decode(
    "AGNocmVrIHNlYWxlZAoBcMQlBLAEVaTIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+nHqazBm9/goGnYyD7S"
    "9LEmm4P/A79a/q2hAJX7WlkSMEE="
)
STORED_KEYS = b"""{
 "version": 1,
 "id": "70c42504b00455a4",
 "createdAt": "2026-01-02T03:04:05+00:00",
 "wrappedBy": "ec6e83623d64818f",
 "salt": "yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4OHi4+Tl5uc=",
 "keys": "yWRY0A+2IOPRhvuAuQPhLDEOK2Wto1OTbohq+eQuyqWJeC9gc3Z096gKuRUV1loTRcRai/QqexcChdJ1IEyITY0f\
GecobZA8JEo3v9rBVqU="
}
"""


def flips(data):
    """All that differ in one bit."""
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def fill(sealer, chunks):
    """A pack with (id, codec, data, size), and where each lies."""
    pack = sealer.pack()
    data, places = bytearray(pack.header), []
    for chunk_id, codec, body, size in chunks:
        at = len(data)
        data += pack.seal(chunk_id, codec, body, offset=at, size=size)
        assert len(data) - at == len(body) + sealer.overhead_bytes
        places.append((at, len(data) - at))
    return bytes(data), places


def put(data=DATA, *, sealer=SEALED, codec=1, size=40):
    """The arguments with which a chunk, alone in its pack, is opened."""
    pack, [(at, length)] = fill(sealer, [(sealer.chunk_id(data), codec, data, size)])
    return {
        "header": pack[: sealer.header_bytes],
        "offset": at,
        "chunk_id": sealer.chunk_id(data),
        "codec": codec,
        "size": size,
        "stored": pack[at : at + length],
    }


def assert_refused(arguments, *, sealer=SEALED):
    with pytest.raises(errors.ArtifactError, match="not those that were stored") as caught:
        sealer.open(**arguments)
    assert caught.value.reason == names.Reason.ARTIFACT_CORRUPT


CHUNKS = st.lists(
    st.tuples(
        st.binary(min_size=32, max_size=32),
        st.integers(0, 255),
        st.binary(max_size=300),
        st.integers(0, 2**64 - 1),
    ),
    max_size=8,
)


@BOTH
@hypothesis.given(CHUNKS, st.randoms())
def test_chunks_come_back_in_any_order(sealer, chunks, order):
    pack, places = fill(sealer, chunks)
    header = pack[: sealer.header_bytes]
    numbers = list(range(len(chunks)))
    order.shuffle(numbers)
    for number in numbers:
        (chunk_id, codec, body, size), (at, length) = chunks[number], places[number]
        stored = memoryview(pack)[at : at + length]
        assert bytes(sealer.open(header, at, chunk_id, codec, size, stored)) == body


@BOTH
def test_a_view_is_sealed_as_bytes_are(sealer):
    view = memoryview(b"before" + DATA + b"after")[6:-5]
    arguments = put(view, sealer=sealer)
    assert arguments["chunk_id"] == sealer.chunk_id(DATA)
    assert bytes(sealer.open(**arguments)) == DATA


def test_plain_stores_what_it_is_given():
    pack, _ = fill(PLAIN, [(ID, 0, b"one", 3), (ID, 1, b"two", 9)])
    assert pack == b"onetwo"
    assert PLAIN.chunk_id(DATA) == blake3.blake3(DATA).digest()
    assert PLAIN.seal_part("manifest.json", KEY, DATA) == DATA
    assert PLAIN.open_part("manifest.json", KEY, DATA) == DATA


def test_ids_are_those_of_one_store():
    other = dataclasses.replace(STORE, id_key=bytes(range(101, 133)))
    assert SEALED.chunk_id(DATA) == blake3.blake3(DATA, key=STORE.id_key).digest()
    assert len({PLAIN.chunk_id(DATA), ID, seal.Sealed(other).chunk_id(DATA)}) == 3


def test_nothing_of_the_data_is_stored():
    pack, _ = fill(SEALED, [(ID, 0, bytes(4096), 4096)])
    assert len(set(pack)) > 200
    assert not any(ID[at : at + 4] in pack for at in range(28))
    part = SEALED.seal_part("manifest.json", KEY, DATA * 10)
    assert DATA[:6] not in part
    assert KEY.encode() not in part


@pytest.mark.parametrize("field", ["header", "chunk_id", "stored"])
def test_a_chunk_with_one_bit_changed_is_refused(field):
    arguments = put()
    for changed in flips(arguments[field]):
        assert_refused(arguments | {field: changed})
    assert SEALED.open(**arguments) == DATA


@pytest.mark.parametrize(("field", "bits"), [("codec", 9), ("size", 65), ("offset", 97)])
def test_a_chunk_with_one_bit_of_a_number_changed_is_refused(field, bits):
    arguments = put()
    for bit in range(bits):
        assert_refused(arguments | {field: arguments[field] ^ 1 << bit})
    assert_refused(arguments | {field: -1})


@pytest.mark.parametrize("field", ["header", "chunk_id", "stored"])
def test_a_chunk_that_is_cut_or_longer_is_refused(field):
    arguments = put()
    whole = arguments[field]
    for length in range(len(whole)):
        assert_refused(arguments | {field: whole[:length]})
    assert_refused(arguments | {field: whole + b"\0"})


def test_two_chunks_that_changed_places_are_refused():
    names_and_bodies = [(bytes([n]) * 32, 0, bytes([n]) * 50, 50) for n in (1, 2)]
    pack, [(first, length), (second, _)] = fill(SEALED, names_and_bodies)
    header = pack[:32]
    swapped = pack[:first] + pack[second:] + pack[first:second]
    for (chunk_id, *_), at in zip(names_and_bodies, (first, second), strict=True):
        there = {"header": header, "offset": at, "codec": 0, "size": 50}
        for one in (1, 2):
            changed = there | {"chunk_id": bytes([one]) * 32, "stored": swapped[at : at + length]}
            assert_refused(changed)
        whole = there | {"chunk_id": chunk_id, "stored": pack[at : at + length]}
        assert SEALED.open(**whole) == bytes([chunk_id[0]]) * 50


def test_a_chunk_of_another_pack_is_refused():
    one, other = put(), put()
    assert one["header"] != other["header"]
    assert one["stored"] != other["stored"]
    assert_refused(one | {"stored": other["stored"]})
    assert_refused(one | {"header": other["header"]})


def test_a_chunk_of_another_store_is_refused():
    other = dataclasses.replace(STORE, data_key=bytes(range(1, 33)))
    assert_refused(put(), sealer=seal.Sealed(other))


@hypothesis.given(st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_no_two_chunks_of_a_pack_have_one_offset(sizes):
    chunks = [(ID, 0, bytes(size), size) for size in sizes]
    _, places = fill(SEALED, chunks)
    ends = [at + length for at, length in places]
    assert [at for at, _ in places] == [32, *ends[:-1]]
    assert all(end > at for (at, _), end in zip(places, ends, strict=True))


@pytest.mark.parametrize("offset", [0, 31, 33, 32 + 18 + 16 - 1, 32 + 18 + 16 + 1])
def test_a_chunk_goes_where_the_pack_ends_or_nowhere(offset):
    pack = SEALED.pack()
    pack.seal(ID, 0, DATA, offset=32, size=18)
    for again in (32, offset):
        with pytest.raises(ValueError, match=f"a chunk at {again} of a pack that ends at 66"):
            pack.seal(ID, 0, DATA, offset=again, size=18)
    pack.seal(ID, 0, DATA, offset=66, size=18)


class Hesitant(int):
    """An offset that gives other threads time between being compared and being used."""

    __hash__ = int.__hash__

    def __ne__(self, other):
        differs = int(self) != other
        time.sleep(0.05)
        return differs


def test_of_threads_that_want_one_place_one_gets_it():
    pack, won = SEALED.pack(), []

    def want():
        with contextlib.suppress(ValueError):
            won.append(pack.seal(ID, 0, DATA, offset=Hesitant(32), size=18))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


@pytest.mark.parametrize("wrong", [{"codec": 256}, {"codec": -1}, {"size": -1}, {"id": ID[1:]}])
def test_what_cannot_be_bound_is_not_sealed(wrong):
    given = {"id": ID, "codec": 0, "size": 18} | wrong
    with pytest.raises((ValueError, OverflowError)):
        SEALED.pack().seal(given["id"], given["codec"], DATA, offset=32, size=given["size"])


@BOTH
@hypothesis.given(st.text(max_size=20), st.text(max_size=20), st.binary(max_size=300))
def test_parts_come_back(sealer, name, key_text, data):
    hypothesis.assume(not data.startswith(seal.MAGIC))
    assert sealer.open_part(name, key_text, sealer.seal_part(name, key_text, data)) == data


def test_a_part_with_one_bit_changed_is_refused():
    part = SEALED.seal_part("manifest.json", KEY, DATA)
    for changed in flips(part):
        with pytest.raises(errors.ArtifactError):
            SEALED.open_part("manifest.json", KEY, changed)


def test_a_part_that_is_cut_or_longer_is_refused():
    part = SEALED.seal_part("manifest.json", KEY, DATA)
    for changed in [*(part[:length] for length in range(len(part))), part + b"\0"]:
        with pytest.raises(errors.ArtifactError):
            SEALED.open_part("manifest.json", KEY, changed)


@pytest.mark.parametrize(
    ("name", "key_text"),
    [
        ("chunks.table", KEY),
        ("manifest.json", KEY.replace("v1", "v2")),
        ("manifest.jso", "n" + KEY),
        ("manifest.json" + KEY, ""),
    ],
)
def test_a_part_is_that_of_one_artifact(name, key_text):
    part = SEALED.seal_part("manifest.json", KEY, DATA)
    with pytest.raises(errors.ArtifactError, match="is not what was stored as that") as caught:
        SEALED.open_part(name, key_text, part)
    assert caught.value.reason == names.Reason.ARTIFACT_CORRUPT


def test_equal_parts_are_not_seen_to_be_equal():
    one, other = (SEALED.seal_part("manifest.json", KEY, DATA) for _ in range(2))
    assert one[:23] == other[:23]
    assert not any(one[at : at + 4] == other[at : at + 4] for at in range(23, len(one) - 4))


def test_a_sealed_part_without_a_key_says_what_is_missing():
    part = SEALED.seal_part("manifest.json", KEY, DATA)
    with pytest.raises(errors.StoreError, match="encrypted, this release has no key") as caught:
        PLAIN.open_part("manifest.json", KEY, part)
    assert caught.value.reason == names.Reason.INVALID_CONFIG
    assert "in storage.encryption.keySecretRef" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{}", b"CHRKPLC1" + bytes(99)])
def test_a_plain_part_in_an_encrypted_store_is_made_again(data):
    with pytest.raises(errors.ArtifactError, match="is not encrypted") as caught:
        SEALED.open_part("manifest.json", KEY, data)
    assert caught.value.reason in names.LOST_ARTIFACT
    assert "make the checkpoint again" in str(caught.value)


def test_a_part_of_a_later_version_says_so():
    part = bytearray(SEALED.seal_part("manifest.json", KEY, DATA))
    part[len(seal.MAGIC)] = 2
    for data in (bytes(part), bytes(part[: len(seal.MAGIC) + 1])):
        with pytest.raises(errors.ArtifactError, match="sealed in version 2, this chrek reads"):
            SEALED.open_part("manifest.json", KEY, data)
        with pytest.raises(errors.StoreError, match="has no key"):
            PLAIN.open_part("manifest.json", KEY, data)


def test_a_part_of_other_store_keys_names_them():
    other = dataclasses.replace(STORE, data_key=bytes(range(1, 33)))
    part = seal.Sealed(other).seal_part("manifest.json", KEY, DATA)
    with pytest.raises(errors.ArtifactError, match=f"the store keys {other.id}") as caught:
        SEALED.open_part("manifest.json", KEY, part)
    assert STORE.id in str(caught.value)
    assert caught.value.reason == names.Reason.ARTIFACT_UNREADABLE


def test_store_keys_are_random_and_come_back():
    blobs = [storekeys.new_store_keys(WRAPPING) for _ in range(2)]
    one, other = (storekeys.unwrap(blob, [OTHER, WRAPPING]) for blob in blobs)
    assert len({one.data_key, one.id_key, other.data_key, other.id_key}) == 4
    assert {len(key) for key in (one.data_key, one.id_key)} == {32}
    assert one.id != other.id
    assert json.loads(blobs[0])["id"] == one.id
    assert json.loads(blobs[0])["createdAt"] == one.created_at


def test_another_secret_is_told_from_damage():
    blob = storekeys.new_store_keys(WRAPPING)
    with pytest.raises(errors.StoreError, match="is not the one the store was made") as caught:
        storekeys.unwrap(blob, [OLDER, OTHER])
    assert caught.value.reason == names.Reason.INVALID_CONFIG
    assert all(one.id in str(caught.value) for one in (WRAPPING, OLDER, OTHER))
    with pytest.raises(errors.StoreError, match="is not the one the store was made"):
        storekeys.rewrap(blob, [OLDER])


def test_a_new_key_of_the_secret_wraps_the_same_store_keys():
    old = storekeys.new_store_keys(OLDER)
    new = storekeys.rewrap(old, [WRAPPING, OLDER])
    assert storekeys.unwrap(new, [WRAPPING]) == storekeys.unwrap(old, [OLDER])
    with pytest.raises(errors.StoreError, match="is wrapped by the key"):
        storekeys.unwrap(new, [OLDER])
    assert storekeys.rewrap(new, [WRAPPING, OLDER]) == new
    assert storekeys.rewrap(new, [WRAPPING]) == new


def test_wrapped_keys_with_one_bit_changed_are_refused():
    blob = storekeys.new_store_keys(WRAPPING)
    whole = storekeys.unwrap(blob, [WRAPPING])
    same = 0
    for changed in flips(blob):
        try:
            assert storekeys.unwrap(changed, [WRAPPING]) == whole
            same += 1
        except errors.StoreError:
            continue
    # The last digit of base64 has bits that mean nothing: two of either text.
    assert same <= 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "0" * 16),
        ("createdAt", "2000-01-01T00:00:00+00:00"),
        ("salt", base64.b64encode(bytes(32)).decode()),
        ("salt", ""),
        ("keys", ""),
        ("keys", base64.b64encode(bytes(80)).decode()),
        ("keys", "no base64"),
        ("wrappedBy", OTHER.id),
        ("wrappedBy", "\N{BELL}" * 16),
        ("id", None),
        ("version", 2),
        ("version", True),
        ("more", 1),
    ],
)
def test_wrapped_keys_with_another_field_are_refused(field, value):
    blob = json.loads(storekeys.new_store_keys(WRAPPING)) | {field: value}
    with pytest.raises(errors.StoreError, match=keys.NAME) as caught:
        storekeys.unwrap(json.dumps(blob).encode(), [WRAPPING, OTHER])
    assert "\N{BELL}" not in str(caught.value)


def test_wrapped_keys_are_small():
    blob = storekeys.new_store_keys(WRAPPING)
    assert storekeys.unwrap(blob + b" " * (4096 - len(blob)), [WRAPPING])
    with pytest.raises(errors.StoreError, match="has 4097 bytes, more than any has"):
        storekeys.unwrap(blob + b" " * (4097 - len(blob)), [WRAPPING])


@hypothesis.given(
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from([b"[" * 4096, b'{"version":' * 300, b"0" * 5000]),
        st.dictionaries(
            st.sampled_from(["version", "id", "createdAt", "wrappedBy", "salt", "keys"]),
            st.one_of(st.just(1), st.just(WRAPPING.id), st.text(), st.integers(), st.none()),
        ).map(lambda fields: json.dumps(fields).encode()),
    )
)
def test_hostile_wrapped_keys_are_refused(blob):
    with pytest.raises(errors.StoreError):
        storekeys.unwrap(blob, [WRAPPING])


def test_what_stores_hold_is_still_read():
    assert ID.hex() == "f545eca13a309168c1ca727cfb2d01131cebf92237f7e4db5b7cdc722ac748bb"
    assert PLAIN.chunk_id(DATA).hex().startswith("2a2dd4520e0ba995d2369ca8751e3100")
    assert SEALED.open(SALT, 4096, ID, 1, 40, STORED_CHUNK) == DATA
    assert SEALED.open_part("manifest.json", KEY, STORED_PART) == DATA
    wrapping = keys.Wrapping(bytes(range(50, 82)))
    assert storekeys.unwrap(STORED_KEYS, [wrapping]) == STORE
    assert keys.encode(keys.decode(STORED_KEYS)) == STORED_KEYS


def reference(key, salt, *, context):
    return aead.AESGCM(blake3.blake3(key + salt, derive_key_context=context).digest())


def test_the_format_is_what_it_says():
    """Written once more, from the documentation alone."""
    chunk = put(DATA, codec=1, size=40)
    cipher = reference(STORE.data_key, chunk["header"], context="chrek remote 1: key of a pack")
    label = ID + b"\1" + (40).to_bytes(8, "big")
    assert cipher.encrypt((32).to_bytes(12, "big"), DATA, label) == chunk["stored"]

    part = SEALED.seal_part("chunks.table", "ab", DATA)
    header, salt = part[:55], part[23:55]
    assert header[:23] == b"\0chrek sealed\n\1" + bytes.fromhex(STORE.id)
    cipher = reference(STORE.data_key, salt, context="chrek remote 1: key of a part")
    label = header + b"\0\0\0\x0cchunks.table\0\0\0\2ab"
    assert cipher.encrypt(bytes(12), DATA, label) == part[55:]


def secrets():
    """Key material in every form that it could be shown in, with what was derived from it."""
    for key in (WRAPPING.key, OLDER.key, OTHER.key, STORE.data_key, STORE.id_key):
        yield from (key, key.hex().encode(), base64.b64encode(key), repr(key)[2:-1].encode())
        yield repr(bytearray(key)).encode()
        yield repr(list(key)).encode()
        yield hashlib.sha256(key).hexdigest().encode()


def assert_no_secret(text):
    data = text.encode("utf-8", "surrogateescape")
    assert not any(secret in data for secret in secrets()), "key material is shown"


def failures(tmp_path):
    """Every error that these modules raise with keys about."""
    sealed_part = SEALED.seal_part("manifest.json", KEY, DATA)
    blob = storekeys._wrap(STORE, WRAPPING)
    damaged = json.loads(blob) | {"keys": base64.b64encode(bytes(80)).decode()}
    pack = SEALED.pack()
    yield lambda: SEALED.open(**put() | {"offset": 33})
    yield lambda: SEALED.open(**put() | {"chunk_id": b"x"})
    yield lambda: SEALED.open_part("manifest.json", "other", sealed_part)
    yield lambda: SEALED.open_part("manifest.json", KEY, b"{}")
    yield lambda: PLAIN.open_part("manifest.json", KEY, sealed_part)
    yield lambda: storekeys.unwrap(blob, [OLDER, OTHER])
    yield lambda: storekeys.unwrap(json.dumps(damaged).encode(), [WRAPPING])
    yield lambda: storekeys.unwrap(b"{", [WRAPPING])
    yield lambda: pack.seal(ID, 0, DATA, offset=0, size=1)
    yield lambda: pack.seal(ID, 999, DATA, offset=32, size=1)
    texts = [WRAPPING.key.hex() + "0", WRAPPING.key.hex() + " " + OLDER.key.hex()]
    files = [text.encode() for text in texts] + [WRAPPING.key + b"\n", OLDER.key[:31]]
    for number, data in enumerate(files):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "key").write_bytes(data)
        yield lambda directory=directory: keys.read(directory)


def test_no_error_shows_a_key(tmp_path):
    count = 0
    for failure in failures(tmp_path):
        try:
            failure()
        except Exception as err:
            count += 1
            assert_no_secret("".join(traceback.format_exception(err)))
            while err:
                assert_no_secret(f"{err!s}{err!r}{vars(err)}{err.args}")
                err = err.__cause__ or err.__context__
    assert count == 14


def test_no_object_of_the_process_shows_a_key():
    alive = [
        SEALED,
        SEALED.pack(),
        STORE,
        WRAPPING,
        PLAIN,
        keys.decode(storekeys._wrap(STORE, OTHER)),
    ]
    gc.collect()
    shown = [
        one for one in gc.get_objects() if str(type(one).__module__).startswith("chrek.remote")
    ]
    assert {type(one) for one in alive} - {type(one) for one in shown} <= {keys.Wrapped}
    for one in itertools.chain(alive, shown):
        assert_no_secret(f"{one!r} {one!s} {one}")
