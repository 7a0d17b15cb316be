"""Credentials in the form of Docker's config file, as pull secrets hold them.

Keys are matched as the kubelet does it: by host, with `*` for a part of it, by port, and by the
longest path. Nothing of a credential is ever part of a message or of a `repr`.
Source: https://kubernetes.io/docs/concepts/containers/images/#config-json
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import fnmatch
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from chrek import errors
from chrek.registry import reference as reference_module

FILE = ".dockerconfigjson"
FILE_BYTES = 1 << 20
"""Secrets are not larger."""


@dataclasses.dataclass(frozen=True, slots=True)
class Credential:
    """What proves to a registry who asks.

    Attributes:
        source: where it was found, for messages.
        identity_token: an OAuth refresh token, used instead of the password when there is one.
    """

    source: str
    username: str = dataclasses.field(default="", repr=False)
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)

    def basic(self) -> str:
        """Value of the header Authorization."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A credential and what it is for.

    Attributes:
        host: `host[:port]`, may have `*` for a part between dots; `docker.io` for Docker Hub.
        path: prefix of the repository, empty for all.
    """

    host: str
    path: str
    credential: Credential

    def matches(self, image: reference_module.Reference) -> bool:
        """Whether the credential is meant for an image."""
        if self.path and not f"{image.repository}/".startswith(f"{self.path}/"):
            return False
        pattern, _, pattern_port = self.host.partition(":")
        host, _, port = image.registry.partition(":")
        parts, wanted = pattern.split("."), host.split(".")
        return (
            pattern_port == port
            and len(parts) == len(wanted)
            and all(fnmatch.fnmatchcase(one, glob) for one, glob in zip(wanted, parts, strict=True))
        )


class Mounted:
    """A Secret of type kubernetes.io/dockerconfigjson as a folder; read again when it changes."""

    def __init__(self, folder: pathlib.Path | None, *, source: str) -> None:
        """Prepare.

        Args:
            folder: where it is mounted; None: there is none.
            source: what it is called in messages.
        """
        self._path = folder / FILE if folder else None
        self._source = source
        self._seen: tuple[int, ...] = ()
        self._entries: list[Entry] = []

    @property
    def mounted(self) -> bool:
        """Whether there should be one."""
        return self._path is not None

    def credential(self, image: reference_module.Reference) -> Credential | None:
        """The one that is most specific for an image; None for nobody.

        Raises:
            ConfigError: the Secret cannot be read, or is none.
        """
        if self._path is not None:
            self._refresh(self._path)
        return next(iter(matching(self._entries, image)), None)

    def _refresh(self, path: pathlib.Path) -> None:
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
                if seen == self._seen:
                    return
                raw = file.read(FILE_BYTES)
        except OSError as err:
            raise errors.ConfigError(
                f"{self._source}: {path}: {err.strerror}",
                hint="it must be of type kubernetes.io/dockerconfigjson",
            ) from err
        self._entries = read(raw, source=self._source)
        self._seen = seen


def read(raw: bytes, *, source: str) -> list[Entry]:
    """Entries of a config file: `{"auths": {…}}` or, as older ones are, the mapping alone.

    Args:
        raw: JSON.
        source: where it comes from, for messages.

    Raises:
        ConfigError: it is not such a file, or an entry has no usable credential.
    """
    try:
        decoded = msgspec.json.decode(raw)
        found = list(decoded.get("auths", decoded).items())
    except (msgspec.DecodeError, TypeError, AttributeError, UnicodeDecodeError) as err:
        raise errors.ConfigError(
            f"{source}: it is not a Docker config file",
            hint="make it with `kubectl create secret docker-registry`",
        ) from err
    # An entry without anything in it says that a credential helper has it: not ours to run.
    return [
        _entry(key, fields, source) for key, fields in found if isinstance(fields, dict) and fields
    ]


def matching(entries: Iterable[Entry], image: reference_module.Reference) -> list[Credential]:
    """Credentials to try for an image, the most specific path first."""
    found = [entry for entry in entries if entry.matches(image)]
    return [entry.credential for entry in sorted(found, key=lambda entry: -len(entry.path))]


def _entry(key: str, fields: Mapping[str, Any], source: str) -> Entry:
    bare = key.partition("://")[2] or key
    host, _, path = bare.partition("/")
    first, _, rest = path.partition("/")
    if first in ("v1", "v2"):  # The API's version, which older keys end with, is no repository.
        path = rest
    host = host.lower()
    if host in reference_module.HUB_ALIASES:
        host = reference_module.HUB
    return Entry(host, path.strip("/"), _credential(key, fields, source))


def _credential(key: str, fields: Mapping[str, Any], source: str) -> Credential:
    username, password = str(fields.get("username", "")), str(fields.get("password", ""))
    if fields.get("auth"):
        try:
            pair = base64.b64decode(str(fields["auth"]), validate=True).decode()
        except (binascii.Error, ValueError):
            raise _unusable(key, source, "`auth` is not base64 text") from None
        username, colon, password = pair.rstrip("\0").partition(":")
        if not colon:
            raise _unusable(key, source, "`auth` is not the base64 of user:password")
    identity_token = str(fields.get("identitytoken", ""))
    if not (username and password) and not identity_token:
        raise _unusable(key, source, "it has neither `auth` nor username and password")
    return Credential(source, username, password, identity_token)


def _unusable(key: str, source: str, why: str) -> errors.ConfigError:
    return errors.ConfigError(
        f"{source}: the entry of {key!r} cannot be used: {why}",
        hint="make it with `kubectl create secret docker-registry`",
    )
