"""Encryption of what is stored on a server.

    a pack     salt | sealed chunk | sealed chunk | ...
    a part     magic | version | id of the store's keys | salt | sealed manifest or table

Everything is sealed with AES-256-GCM, for each pack and each part under a key of its own: derived
from the store's data key and 32 random bytes, the salt. The nonce of a chunk is its offset in the
pack, so no two chunks under one key can share a nonce, none has to be stored, and a chunk is opened
without reading another. A chunk is bound to its id, codec, size, pack and place there; a part to
its name and its artifact. Ids of chunks are BLAKE3 under the store's id key.

Whoever reads the bucket or the registry still sees: how many artifacts and packs there are, their
sizes and times; in objects' names the namespaces, identity hashes, variants and uuids; what of a
pack is read at once, and so the sizes of chunks after compression; at a registry, which artifacts
share a pack, and what `upload.annotations` says of each. An id of a chunk tells nobody without the
keys what the chunk is, but equal chunks of a store are stored once: who can have data of their own
captured into it and sees how much is written learns whether the data was there before.

Whoever may write there can delete, and can put old objects back. They cannot make anything that
opens, nor have one artifact's part or chunk taken for another's; another artifact as a whole fails
at the digest of the manifest in the DynamoCheckpoint's status, which is that of its plain text.

Another key in the Secret wraps the same store keys. Whoever had the old key and a copy of
`keys.json` goes on reading what they can fetch: after a leak, begin a store at another place. On a
node, in the cache and in the agent's memory, nothing is encrypted.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Sequence
from typing import Protocol

import blake3
from cryptography import exceptions
from cryptography.hazmat.primitives.ciphers import aead

from chrek import errors, names
from chrek.remote import keys

ID_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16
MAGIC = b"\x00chrek sealed\n"
"""Begins a sealed part; no plain one begins with a zero byte and these words."""
VERSION = 1
_STORE_ID_BYTES = 8
_PART_HEADER_BYTES = len(MAGIC) + 1 + _STORE_ID_BYTES + SALT_BYTES
_NONCE_BYTES = 12
_ONLY_NONCE = bytes(_NONCE_BYTES)
"""For a key that seals one thing in its life."""
_PACK = "chrek remote 1: key of a pack"
_PART = "chrek remote 1: key of a part"
_WRAP = "chrek remote 1: key that wraps a store's keys"
_REMAKE = "make the checkpoint again"


class PackSealer(Protocol):
    """Seals the chunks of one pack, which lie side by side behind its header."""

    header: bytes
    """What the pack begins with; may be empty."""

    def seal(
        self, chunk_id: bytes, codec: int, data: bytes | memoryview, *, offset: int, size: int
    ) -> bytes | memoryview:
        """A chunk as it is stored.

        Args:
            chunk_id: of the chunk.
            codec: how `data` is compressed, 0 to 255.
            data: the chunk after compression.
            offset: where in the pack it will be put: where the one before it ends.
            size: bytes of the chunk before compression.
        """
        ...


class Sealer(Protocol):
    """What a store does to its contents before a server gets them. Safe in all threads."""

    header_bytes: int
    """How much of a pack's beginning `open` needs."""
    overhead_bytes: int
    """By how much a stored chunk is larger than what was given to `seal`."""

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        """The name of a chunk within the store, 32 bytes."""
        ...

    def pack(self) -> PackSealer:
        """Begin a pack."""
        ...

    def open(
        self,
        header: bytes,
        offset: int,
        chunk_id: bytes,
        codec: int,
        size: int,
        stored: bytes | memoryview,
    ) -> bytes | memoryview:
        """The data that was given to `PackSealer.seal`, which may be `stored` itself.

        Args:
            header: the first `header_bytes` of the pack.
            offset: of the stored chunk in the pack, in bytes.
            chunk_id: which chunk it must be.
            codec: how it must be compressed.
            size: bytes that it must have before compression.
            stored: what lies in the pack.

        Raises:
            ArtifactError: it is not what was sealed there.
        """
        ...

    def seal_part(self, name: str, key_text: str, data: bytes) -> bytes:
        """A manifest or a table as it is stored.

        Args:
            name: which part.
            key_text: which artifact; another text for each.
            data: what it is.
        """
        ...

    def open_part(self, name: str, key_text: str, data: bytes) -> bytes:
        """What was given to `seal_part`.

        Raises:
            ArtifactError: it is not what was sealed as this part of this artifact.
            StoreError: the store is encrypted and this release has no key.
        """
        ...


class Plain:
    """Nothing is encrypted: ids are plain BLAKE3."""

    header_bytes = 0
    overhead_bytes = 0

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        return blake3.blake3(data).digest()

    def pack(self) -> PackSealer:
        return _PlainPack()

    def open(
        self,
        header: bytes,
        offset: int,
        chunk_id: bytes,
        codec: int,
        size: int,
        stored: bytes | memoryview,
    ) -> bytes | memoryview:
        return stored

    def seal_part(self, name: str, key_text: str, data: bytes) -> bytes:
        return data

    def open_part(self, name: str, key_text: str, data: bytes) -> bytes:
        if data.startswith(MAGIC):
            raise errors.StoreError(
                f"{name} of {key_text}: the store is encrypted, this release has no key",
                reason=names.Reason.INVALID_CONFIG,
                hint="name the Secret with its key in storage.encryption.keySecretRef",
            )
        return data


class _PlainPack:
    header = b""

    def seal(
        self, chunk_id: bytes, codec: int, data: bytes | memoryview, *, offset: int, size: int
    ) -> bytes | memoryview:
        return data


class Sealed:
    """Everything is encrypted, ids are keyed."""

    header_bytes = SALT_BYTES
    overhead_bytes = TAG_BYTES

    def __init__(self, store_keys: keys.StoreKeys) -> None:
        self._keys = store_keys
        self._store_id = bytes.fromhex(store_keys.id)

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        return blake3.blake3(data, key=self._keys.id_key).digest()

    def pack(self) -> PackSealer:
        salt = os.urandom(SALT_BYTES)
        return _SealedPack(salt, _cipher(self._keys.data_key, salt, context=_PACK))

    def open(
        self,
        header: bytes,
        offset: int,
        chunk_id: bytes,
        codec: int,
        size: int,
        stored: bytes | memoryview,
    ) -> bytes:
        # The key is derived for each chunk: that takes 2 us, less than a cache would be worth.
        cipher = _cipher(self._keys.data_key, header, context=_PACK)
        try:
            return cipher.decrypt(_nonce(offset), stored, _chunk_label(chunk_id, codec, size))
        except (exceptions.InvalidTag, OverflowError, ValueError) as err:
            raise errors.ArtifactError(
                f"chunk {chunk_id.hex()}: the bytes at {offset} of its pack are not those that "
                "were stored",
                hint=f"the pack was changed or damaged: {_REMAKE}",
            ) from err

    def seal_part(self, name: str, key_text: str, data: bytes) -> bytes:
        salt = os.urandom(SALT_BYTES)
        header = MAGIC + bytes([VERSION]) + self._store_id + salt
        cipher = _cipher(self._keys.data_key, salt, context=_PART)
        return header + cipher.encrypt(_ONLY_NONCE, data, header + _label(name, key_text))

    def open_part(self, name: str, key_text: str, data: bytes) -> bytes:
        header, sealed = data[:_PART_HEADER_BYTES], memoryview(data)[_PART_HEADER_BYTES:]
        self._check_header(header, what=f"{name} of {key_text}")
        cipher = _cipher(self._keys.data_key, header[-SALT_BYTES:], context=_PART)
        try:
            return cipher.decrypt(_ONLY_NONCE, sealed, header + _label(name, key_text))
        except exceptions.InvalidTag as err:
            raise errors.ArtifactError(
                f"{name} of {key_text} is not what was stored as that",
                hint=f"it was changed or damaged: {_REMAKE}",
            ) from err

    def _check_header(self, header: bytes, *, what: str) -> None:
        version, store_id = header[len(MAGIC) :][:1], header[len(MAGIC) + 1 :][:_STORE_ID_BYTES]
        why, hint = "", _REMAKE
        if not header.startswith(MAGIC):
            why = "is not encrypted, but this release's store is"
            hint = f"if it is older than storage.encryption, {_REMAKE}"
        elif version and version[0] != VERSION:
            why = f"is sealed in version {version[0]}, this chrek reads version {VERSION}"
            hint = f"use the chrek version that made it, or {_REMAKE}"
        elif len(header) != _PART_HEADER_BYTES:
            why = f"ends after {len(header)} bytes"
        elif store_id != self._store_id:
            why = (
                f"is sealed with the store keys {store_id.hex()}, "
                f"those of {keys.NAME} are {self._keys.id}"
            )
            hint = f"restore the {keys.NAME} that it was made with, or {_REMAKE}"
        if why:
            reason = names.Reason.ARTIFACT_UNREADABLE
            raise errors.ArtifactError(f"{what} {why}", reason=reason, hint=hint)


class _SealedPack:
    def __init__(self, salt: bytes, cipher: aead.AESGCM) -> None:
        self.header = salt
        self._cipher = cipher
        self._end = len(salt)
        self._lock = threading.Lock()

    def seal(
        self, chunk_id: bytes, codec: int, data: bytes | memoryview, *, offset: int, size: int
    ) -> bytes:
        label = _chunk_label(chunk_id, codec, size)
        with self._lock:
            if offset != self._end:
                raise ValueError(f"a chunk at {offset} of a pack that ends at {self._end}")
            # Taken before it is used, so that no nonce comes twice whatever fails. Even an empty
            # chunk has a tag, so the next one begins further on.
            self._end += memoryview(data).nbytes + TAG_BYTES
        return self._cipher.encrypt(_nonce(offset), data, label)


def new_store_keys(wrapping: keys.Wrapping) -> bytes:
    """The `keys.json` of a new store: random keys, wrapped."""
    created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    data_key, id_key = os.urandom(keys.KEY_BYTES), os.urandom(keys.KEY_BYTES)
    return _wrap(keys.StoreKeys(data_key, id_key, created_at), wrapping)


def unwrap(blob: bytes, wrappings: Sequence[keys.Wrapping]) -> keys.StoreKeys:
    """The keys of a store.

    Args:
        blob: `keys.json`.
        wrappings: the Secret's keys.

    Raises:
        StoreError: none of them has wrapped it, or it is damaged or hostile.
    """
    wrapped = keys.decode(blob)
    for wrapping in wrappings:
        if wrapping.id == wrapped.wrapped_by:
            return _unwrap(wrapped, wrapping)
    raise errors.StoreError(
        f"{keys.NAME} is wrapped by the key {wrapped.wrapped_by}, "
        f"the Secret holds {', '.join(wrapping.id for wrapping in wrappings)}",
        reason=names.Reason.INVALID_CONFIG,
        hint="the Secret's key is not the one the store was made with: put that one back, "
        "in the entry `previous` if it is to be replaced",
    )


def rewrap(blob: bytes, wrappings: Sequence[keys.Wrapping]) -> bytes:
    """The `keys.json` with the same store keys, wrapped by the Secret's newest key.

    Args:
        blob: `keys.json` as it is; returned unchanged if that key has wrapped it already.
        wrappings: the Secret's keys, the newest first.

    Raises:
        StoreError: none of them has wrapped it, or it is damaged or hostile.
    """
    store_keys = unwrap(blob, wrappings)
    newest = wrappings[0]
    return blob if keys.decode(blob).wrapped_by == newest.id else _wrap(store_keys, newest)


def _wrap(store_keys: keys.StoreKeys, wrapping: keys.Wrapping) -> bytes:
    salt = os.urandom(SALT_BYTES)
    label = _label(store_keys.id, store_keys.created_at, wrapping.id)
    sealed = _cipher(wrapping.key, salt, context=_WRAP).encrypt(
        _ONLY_NONCE, store_keys.data_key + store_keys.id_key, label
    )
    wrapped = keys.Wrapped(
        id=store_keys.id,
        created_at=store_keys.created_at,
        wrapped_by=wrapping.id,
        salt=salt,
        keys=sealed,
    )
    return keys.encode(wrapped)


def _unwrap(wrapped: keys.Wrapped, wrapping: keys.Wrapping) -> keys.StoreKeys:
    label = _label(wrapped.id, wrapped.created_at, wrapped.wrapped_by)
    cipher = _cipher(wrapping.key, wrapped.salt, context=_WRAP)
    try:
        both = cipher.decrypt(_ONLY_NONCE, wrapped.keys, label)
    except exceptions.InvalidTag as err:
        raise errors.StoreError(
            f"{keys.NAME} is not what was stored: it was changed or damaged",
            hint="restore it from a copy: without it nothing in the store can be read",
        ) from err
    return keys.StoreKeys(both[: keys.KEY_BYTES], both[keys.KEY_BYTES :], wrapped.created_at)


def _cipher(key: bytes, salt: bytes, *, context: str) -> aead.AESGCM:
    """A key of a pack, a part or a `keys.json`.

    Source: https://github.com/BLAKE3-team/BLAKE3-specs/blob/master/blake3.pdf, 6.2: what varies is
    part of the key material, contexts are constants.
    """
    return aead.AESGCM(blake3.blake3(key + salt, derive_key_context=context).digest())


def _nonce(offset: int) -> bytes:
    return offset.to_bytes(_NONCE_BYTES, "big")


def _chunk_label(chunk_id: bytes, codec: int, size: int) -> bytes:
    """What a chunk is bound to, fixed in width: no two chunks have the same."""
    if len(chunk_id) != ID_BYTES:
        raise ValueError(f"an id of {len(chunk_id)} bytes instead of {ID_BYTES}")
    return chunk_id + codec.to_bytes(1, "big") + size.to_bytes(8, "big")


def _label(*texts: str) -> bytes:
    """The same of texts, each with its length before it."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(4, "big") + text for text in encoded)
