"""The access key of a bucket, from the files of a mounted Secret.

The Secret may be changed while the program runs: the files are read for every request. The kubelet
replaces all of them at once, by a link to another directory; who went through the link for each
could get one key's id and another key's secret, so the directory behind it is opened.

Source: https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html (the names),
https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter (how Secrets are replaced)
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import pathlib

from chrek import errors

ID = "AWS_ACCESS_KEY_ID"
SECRET = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - a name
TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105 - a name
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
ENDPOINT = "AWS_ENDPOINT_URL"
LONGEST = 16 << 10
"""Bytes of a file; session tokens have one or two thousand."""
_LINK = "..data"
_READINGS = 5


@dataclasses.dataclass(frozen=True)
class Key:
    """What requests are signed with."""

    id: str
    secret: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(repr=False)
    """Empty unless the key is temporary."""

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        return [text for text in (self.id, self.secret, self.token) if text]


class Folder:
    """Where a Secret with `AWS_*` keys is mounted; called by the client for every request."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __call__(self) -> dict[str, str | datetime.datetime | None]:
        """The key as obstore takes it, already over, so that the next request asks again."""
        key = self.key()
        return {
            "access_key_id": key.id,
            "secret_access_key": key.secret,
            "token": key.token or None,
            "expires_at": datetime.datetime.now(datetime.UTC),
        }

    def key(self) -> Key:
        """The key that is there now.

        Raises:
            ConfigError: it is incomplete or cannot be read.
        """
        found = Key("", "", "")
        for _ in range(_READINGS):
            # A directory that is replaced while it is read loses its files.
            found = Key(*self._texts(ID, SECRET, TOKEN))
            if found.id and found.secret:
                return found
        raise errors.ConfigError(
            f"{self.path}: there is no {SECRET if found.id else ID}, or it is empty",
            hint=f"the Secret of credentialsSecretRef needs the keys {ID} and {SECRET}",
        )

    @property
    def region(self) -> str:
        """Empty when the Secret does not say."""
        return next(filter(None, self._texts(*REGIONS)), "")

    @property
    def endpoint(self) -> str:
        """URL of the server; empty when the Secret does not say."""
        return self._texts(ENDPOINT)[0]

    def _texts(self, *names: str) -> list[str]:
        """What the files of one state of the Secret hold; empty for those that are missing."""
        link = self.path / _LINK
        try:
            directory = os.open(link if link.exists() else self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as err:
            raise self._unreadable(self.path, err.strerror or "") from None
        try:
            return [self._text(directory, name) for name in names]
        finally:
            os.close(directory)

    def _text(self, directory: int, name: str) -> str:
        try:
            with open(name, "rb", opener=functools.partial(os.open, dir_fd=directory)) as file:
                text = file.read(LONGEST).decode("ascii").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as err:
            why = err.strerror if isinstance(err, OSError) else "it is not plain text"
            raise self._unreadable(self.path / name, why or "") from None
        if not text.isprintable():
            why = "it has more than one line, or characters that no key has"
            raise self._unreadable(self.path / name, why)
        return text

    def _unreadable(self, path: pathlib.Path, why: str) -> errors.ConfigError:
        return errors.ConfigError(f"{path}: {why}", hint="check the Secret of credentialsSecretRef")
