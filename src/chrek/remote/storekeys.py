"""A store's keys: made, wrapped by a key of the Secret, and exchanged for new ones.

`keys.json` holds one data key, or two while everything is encrypted anew (`rekey`): what is sealed
from then on is under the first, what was before is read with the other. The key of chunks' ids
stays the same, so a chunk keeps its name.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Sequence

from chrek import errors, names
from chrek.remote import ciphers, keys

_WRAP = "chrek remote 1: key that wraps a store's keys"


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


def renewed(blob: bytes, wrappings: Sequence[keys.Wrapping]) -> bytes:
    """The `keys.json` with a new data key, beside the one so far.

    Args:
        blob: `keys.json` as it is; returned unchanged if it has two already.

    Raises:
        StoreError: as `unwrap`.
    """
    store_keys = unwrap(blob, wrappings)
    if store_keys.older:
        return blob
    changed = dataclasses.replace(
        store_keys, data_key=os.urandom(keys.KEY_BYTES), older=(store_keys.data_key,)
    )
    return _wrap(changed, wrappings[0])


def settled(blob: bytes, wrappings: Sequence[keys.Wrapping]) -> bytes:
    """The `keys.json` without an older data key: what is sealed with that is lost.

    Raises:
        StoreError: as `unwrap`.
    """
    return _wrap(dataclasses.replace(unwrap(blob, wrappings), older=()), wrappings[0])


def _wrap(store_keys: keys.StoreKeys, wrapping: keys.Wrapping) -> bytes:
    salt = os.urandom(ciphers.SALT_BYTES)
    label = ciphers.label(store_keys.id, store_keys.created_at, wrapping.id)
    sealed = ciphers.derived(wrapping.key, salt, context=_WRAP).encrypt(
        ciphers.ONLY_NONCE,
        b"".join((store_keys.data_key, store_keys.id_key, *store_keys.older)),
        label,
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
    label = ciphers.label(wrapped.id, wrapped.created_at, wrapped.wrapped_by)
    cipher = ciphers.derived(wrapping.key, wrapped.salt, context=_WRAP)
    try:
        plain = cipher.decrypt(ciphers.ONLY_NONCE, wrapped.keys, label)
    except ciphers.InvalidTag as err:
        raise errors.StoreError(
            f"{keys.NAME} is not what was stored: it was changed or damaged",
            hint="restore it from a copy: without it nothing in the store can be read",
        ) from err
    size = keys.KEY_BYTES
    data_key, id_key, *older = [plain[at : at + size] for at in range(0, len(plain), size)]
    return keys.StoreKeys(data_key, id_key, wrapped.created_at, tuple(older))
