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
`keys.json` goes on reading what they can fetch, until everything is sealed with another data key:
`rekey`. On a node, in the cache and in the agent's memory, nothing is encrypted.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Protocol

import blake3

from chrek import errors, names
from chrek.remote import ciphers, keys

ID_BYTES = 32
TAG_BYTES = 16
MAGIC = b"\x00chrek sealed\n"
"""Begins a sealed part; no plain one begins with a zero byte and these words."""
VERSION = 1
_STORE_ID_BYTES = 8
_PART_HEADER_BYTES = len(MAGIC) + 1 + _STORE_ID_BYTES + ciphers.SALT_BYTES
_PACK = "chrek remote 1: key of a pack"
_PART = "chrek remote 1: key of a part"
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

    def current(self, data: bytes) -> bool:
        """Whether a part as it is stored is sealed with the store's newest key."""
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
            ArtifactError: it is not what was sealed as this part of this artifact; reason
                ArtifactUnreadable, when it is sealed with keys that are not known.
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

    def current(self, data: bytes) -> bool:
        return True

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

    header_bytes = ciphers.SALT_BYTES
    overhead_bytes = TAG_BYTES

    def __init__(self, store_keys: keys.StoreKeys) -> None:
        self._keys = store_keys
        self._store_id = bytes.fromhex(store_keys.id)
        self._data_keys = {
            bytes.fromhex(name): data_key for name, data_key in store_keys.data_keys.items()
        }

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        return blake3.blake3(data, key=self._keys.id_key).digest()

    def pack(self) -> PackSealer:
        salt = os.urandom(ciphers.SALT_BYTES)
        return _SealedPack(salt, ciphers.derived(self._keys.data_key, salt, context=_PACK))

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
        for data_key in self._data_keys.values():
            cipher = ciphers.derived(data_key, header, context=_PACK)
            with contextlib.suppress(ciphers.InvalidTag, OverflowError, ValueError):
                label = _chunk_label(chunk_id, codec, size)
                return cipher.decrypt(ciphers.nonce(offset), stored, label)
        raise errors.ArtifactError(
            f"chunk {chunk_id.hex()}: the bytes at {offset} of its pack are not those that "
            "were stored",
            hint=f"the pack was changed or damaged: {_REMAKE}",
        )

    def current(self, data: bytes) -> bool:
        return _store_id(data) == self._store_id

    def seal_part(self, name: str, key_text: str, data: bytes) -> bytes:
        salt = os.urandom(ciphers.SALT_BYTES)
        header = MAGIC + bytes([VERSION]) + self._store_id + salt
        cipher = ciphers.derived(self._keys.data_key, salt, context=_PART)
        return header + cipher.encrypt(
            ciphers.ONLY_NONCE, data, header + ciphers.label(name, key_text)
        )

    def open_part(self, name: str, key_text: str, data: bytes) -> bytes:
        header, sealed = data[:_PART_HEADER_BYTES], memoryview(data)[_PART_HEADER_BYTES:]
        self._check_header(header, what=f"{name} of {key_text}")
        data_key = self._data_keys[_store_id(header)]
        cipher = ciphers.derived(data_key, header[-ciphers.SALT_BYTES :], context=_PART)
        try:
            return cipher.decrypt(
                ciphers.ONLY_NONCE, sealed, header + ciphers.label(name, key_text)
            )
        except ciphers.InvalidTag as err:
            raise errors.ArtifactError(
                f"{name} of {key_text} is not what was stored as that",
                hint=f"it was changed or damaged: {_REMAKE}",
            ) from err

    def _check_header(self, header: bytes, *, what: str) -> None:
        version, store_id = header[len(MAGIC) :][:1], _store_id(header)
        why, hint = "", _REMAKE
        if not header.startswith(MAGIC):
            why = "is not encrypted, but this release's store is"
            hint = f"if it is older than storage.encryption, {_REMAKE}"
        elif version and version[0] != VERSION:
            why = f"is sealed in version {version[0]}, this chrek reads version {VERSION}"
            hint = f"use the chrek version that made it, or {_REMAKE}"
        elif len(header) != _PART_HEADER_BYTES:
            why = f"ends after {len(header)} bytes"
        elif store_id not in self._data_keys:
            why = (
                f"is sealed with the store keys {store_id.hex()}, "
                f"those of {keys.NAME} are {self._keys.id}"
            )
            hint = f"restore the {keys.NAME} that it was made with, or {_REMAKE}"
        if why:
            reason = names.Reason.ARTIFACT_UNREADABLE
            raise errors.ArtifactError(f"{what} {why}", reason=reason, hint=hint)


def _store_id(data: bytes) -> bytes:
    """Which keys a part says that it is sealed with."""
    return data[len(MAGIC) + 1 :][:_STORE_ID_BYTES]


class _SealedPack:
    def __init__(self, salt: bytes, cipher: ciphers.Cipher) -> None:
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
        return self._cipher.encrypt(ciphers.nonce(offset), data, label)


def _chunk_label(chunk_id: bytes, codec: int, size: int) -> bytes:
    """What a chunk is bound to, fixed in width: no two chunks have the same."""
    if len(chunk_id) != ID_BYTES:
        raise ValueError(f"an id of {len(chunk_id)} bytes instead of {ID_BYTES}")
    return chunk_id + codec.to_bytes(1, "big") + size.to_bytes(8, "big")
