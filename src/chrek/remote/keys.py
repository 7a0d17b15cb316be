"""The keys that encryption rests on, and where they are kept.

    the Secret's keys    mounted on every node: `key`, and `previous` ones while they are replaced
    the store's keys     made once, in the store, wrapped by a key of the Secret: see `seal`

So the Secret can get another key without anything in the store being encrypted again. The Secret is
read at every call: the kubelet exchanges what is mounted when the Secret changes.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator

import blake3
import msgspec

from chrek import errors

KEY_BYTES = 32
NAME = "keys.json"
"""What the object with a store's wrapped keys should be called."""
VERSION = 1
_CURRENT = "key"
_PREVIOUS = re.compile(r"previous(-[0-9]{1,4})?")
_HEX = re.compile(rb"[0-9a-fA-F]{64}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{43}=")
_TEXT = re.compile(rb"[\t\r\n -~]*")
"""Of 32 random bytes, not one in 10^13 looks so: a passphrase is refused as a raw key."""
_ID = re.compile(r"[0-9a-f]{16}")
_ID_BYTES = 8
_MAX_FILE_BYTES = 16384
_MAX_STORED_BYTES = 4096
_DISTINCT = 16
"""Different bytes that a key must have: 32 random ones have fewer once in 10^16 times."""
_ATTEMPTS = 5
_HINT = (
    "a new key: kubectl create secret generic NAME "
    '--from-literal=key="$(head -c 32 /dev/urandom | base64)"'
)


@dataclasses.dataclass(frozen=True)
class Wrapping:
    """A key of the Secret."""

    key: bytes = dataclasses.field(repr=False)

    @property
    def id(self) -> str:
        """Tells keys apart and says nothing about them."""
        return _name(self.key, "chrek remote 1: name of a wrapping key")


@dataclasses.dataclass(frozen=True)
class StoreKeys:
    """The keys of one store."""

    data_key: bytes = dataclasses.field(repr=False)
    """What the keys of packs and parts are derived from."""
    id_key: bytes = dataclasses.field(repr=False)
    """What the ids of chunks are made with."""
    created_at: str
    """RFC 3339."""
    older: tuple[bytes, ...] = dataclasses.field(default=(), repr=False)
    """Data keys that nothing is sealed with any more, while what was is sealed anew."""

    @property
    def id(self) -> str:
        """Tells stores apart and says nothing about their keys."""
        return next(iter(self.data_keys))

    @property
    def data_keys(self) -> dict[str, bytes]:
        """By the id that parts name them with, the newest first."""
        context = "chrek remote 1: name of a store's keys"
        return {_name(key + self.id_key, context): key for key in (self.data_key, *self.older)}


class Wrapped(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """`keys.json`: a store's keys, encrypted; the names are in clear, and authenticated."""

    version: int = VERSION
    id: str
    created_at: str
    wrapped_by: str
    """Id of the Secret's key."""
    salt: bytes
    keys: bytes


class _Version(msgspec.Struct, frozen=True):
    version: int


def encode(wrapped: Wrapped) -> bytes:
    """The text of `keys.json`."""
    return msgspec.json.format(msgspec.json.encode(wrapped), indent=1) + b"\n"


def decode(blob: bytes) -> Wrapped:
    """Read a `keys.json` that may be damaged or hostile.

    Raises:
        StoreError: it is none, or too new.
    """
    hint = f"restore {NAME} from a copy: without it nothing in the store can be read"
    if len(blob) > _MAX_STORED_BYTES:
        raise errors.StoreError(f"{NAME} has {len(blob)} bytes, more than any has", hint=hint)
    try:
        version = msgspec.json.decode(blob, type=_Version).version
        if version != VERSION:
            raise errors.StoreError(
                f"{NAME} has version {version}, this chrek reads version {VERSION}",
                hint="use the chrek version that made the store",
            )
        wrapped = msgspec.json.decode(blob, type=Wrapped)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise errors.StoreError(f"{NAME}: {err}", hint=hint) from err
    if not _ID.fullmatch(wrapped.id) or not _ID.fullmatch(wrapped.wrapped_by):
        raise errors.StoreError(f"{NAME}: an id is not 16 hexadecimal digits", hint=hint)
    return wrapped


def read(directory: pathlib.Path) -> tuple[Wrapping, ...]:
    """The keys of the mounted Secret: the one to wrap with first, then those to read with as well.

    The file `key` holds one key; `previous`, `previous-1`, `previous-2` ... hold older ones, one on
    each line. A key is 32 bytes as base64 or as hexadecimal digits, or, alone in a file, raw.

    Args:
        directory: `storage.encryption.keyPath`.

    Raises:
        ConfigError: there is no `key`, or a file cannot be read or holds something else.
    """
    files = _files(directory)
    if _CURRENT not in files:
        raise errors.ConfigError(
            f"{directory}: the Secret has no entry `{_CURRENT}`, only {sorted(files)}", hint=_HINT
        )
    current = _parse(files.pop(_CURRENT), where=f"{directory / _CURRENT}")
    if len(current) != 1:
        raise errors.ConfigError(
            f"{directory / _CURRENT}: {len(current)} keys instead of one",
            hint=f"older ones go into the entry `previous`, one on each line; {_HINT}",
        )
    found = current
    for name in sorted(filter(_PREVIOUS.fullmatch, files), key=lambda name: (len(name), name)):
        found += _parse(files[name], where=f"{directory / name}")
    return tuple(Wrapping(key) for key in dict.fromkeys(found))


def _files(directory: pathlib.Path) -> dict[str, bytes]:
    """What the Secret holds: all of it from before a change, or all of it from after."""
    why = "it changes while it is read, again and again"
    for _ in range(_ATTEMPTS):
        try:
            with _opened(_generation(directory)) as fd:
                found = {name: _contents(fd, name) for name in os.listdir(fd)}
                if _is_current(directory, fd):
                    return found
        except FileNotFoundError as err:
            why = f"{err.strerror}"
        except OSError as err:
            raise _unreadable(directory, f"{err.strerror}") from err
    raise _unreadable(directory, why)


def _generation(directory: pathlib.Path) -> pathlib.Path:
    """The directory with the files.

    When a Secret changes, the kubelet fills another one, has the link `..data` point to it, and
    then removes the old one.
    Source: https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
    """
    data = directory / "..data"
    return data if data.is_dir() else directory


def _is_current(directory: pathlib.Path, fd: int) -> bool:
    """Whether nothing of what was opened can have been removed up to now."""
    return os.path.samestat(os.fstat(fd), _generation(directory).stat())


@contextlib.contextmanager
def _opened(directory: pathlib.Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _contents(directory_fd: int, name: str) -> bytes:
    """Of other entries than keys, nothing."""
    if name != _CURRENT and not _PREVIOUS.fullmatch(name):
        return b""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        return os.read(fd, _MAX_FILE_BYTES + 1)
    finally:
        os.close(fd)


def _parse(text: bytes, *, where: str) -> list[bytes]:
    """Keys of a file. What is in it is no part of any error."""
    if len(text) > _MAX_FILE_BYTES:
        raise errors.ConfigError(f"{where}: more than {_MAX_FILE_BYTES} bytes", hint=_HINT)
    if len(text) == KEY_BYTES and not _TEXT.fullmatch(text):
        return [_random(text, where=where)]
    return [
        _key(line, where=f"{where}, line {number}")
        for number, line in enumerate(text.split(b"\n"), start=1)
        if line.strip()
    ]


def _key(line: bytes, *, where: str) -> bytes:
    bare = line.strip()
    if _HEX.fullmatch(bare):
        return _random(bytes.fromhex(bare.decode("ascii")), where=where)
    if _BASE64.fullmatch(bare):
        return _random(base64.b64decode(bare), where=where)
    raise errors.ConfigError(
        f"{where}: {len(bare)} characters that are not a key of {KEY_BYTES} bytes "
        "in base64 or hexadecimal digits",
        hint=_HINT,
    )


def _random(key: bytes, *, where: str) -> bytes:
    if len(set(key)) < _DISTINCT:
        raise errors.ConfigError(f"{where}: these {KEY_BYTES} bytes are not random", hint=_HINT)
    return key


def _unreadable(directory: pathlib.Path, why: str) -> errors.ConfigError:
    return errors.ConfigError(
        f"{directory}: the Secret with the key cannot be read: {why}",
        hint="storage.encryption.keySecretRef must name a Secret in the release's namespace; "
        f"{_HINT}",
    )


def _name(key: bytes, context: str) -> str:
    return blake3.blake3(key, derive_key_context=context).hexdigest(_ID_BYTES)
