"""AES-256-GCM under a key of its own for each thing that is sealed."""

from __future__ import annotations

import blake3
from cryptography import exceptions
from cryptography.hazmat.primitives.ciphers import aead

Cipher = aead.AESGCM
InvalidTag = exceptions.InvalidTag
SALT_BYTES = 32
"""Random, for each thing that is sealed."""
_NONCE_BYTES = 12
ONLY_NONCE = bytes(_NONCE_BYTES)
"""For a key that seals one thing in its life."""


def derived(key: bytes, salt: bytes, *, context: str) -> Cipher:
    """A key of a pack, a part or a `keys.json`.

    Source: https://github.com/BLAKE3-team/BLAKE3-specs/blob/master/blake3.pdf, 6.2: what varies is
    part of the key material, contexts are constants.
    """
    return Cipher(blake3.blake3(key + salt, derive_key_context=context).digest())


def nonce(offset: int) -> bytes:
    """Of what lies there, under a key that seals more than one thing."""
    return offset.to_bytes(_NONCE_BYTES, "big")


def label(*texts: str) -> bytes:
    """The same of texts, each with its length before it."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(4, "big") + text for text in encoded)
