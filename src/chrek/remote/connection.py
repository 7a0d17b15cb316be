"""How to reach a bucket: the configuration, made into what the client takes.

The client also reads `AWS_*` variables of the environment. Whatever decides who is talked to, and
how, is therefore set here in any case.

Source: https://developmentseed.org/obstore/latest/api/store/aws/ (names of options)
"""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import functools
import os
import pathlib
import random
import re
import time
from typing import Any

import chrek
from chrek import config, errors
from chrek.remote import accesskey, uri

DEFAULT_REGION = "us-east-1"
LARGEST_BYTES = 64 << 20
"""No object of a store is larger."""
REPEATS = 3
"""How often the client itself repeats a read, or a page of a listing, in its place."""
SETTLE_SECONDS = 0.1
_RANDOM = random.SystemRandom()
_REGION = re.compile(r"[a-z0-9-]{1,32}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How long things may take."""

    deadline_seconds: float = 120.0
    """After so long, what fails is not tried again."""
    silence_seconds: float = 30.0
    """How long the server may say nothing."""
    connect_seconds: float = 5.0
    bytes_per_second: int = 128 << 10
    """A line that moves less is broken."""
    pause_seconds: float = 0.5
    """The longest time before something is tried again; twice as long each time."""

    def within(self, seconds: float) -> Limits:
        """The same, with a deadline that is no later."""
        return dataclasses.replace(self, deadline_seconds=min(seconds, self.deadline_seconds))

    def pause(self, attempt: int) -> float:
        """Seconds to wait after an attempt, the first of which is 0."""
        return _RANDOM.uniform(0.5, 1) * self.pause_seconds * float(1 << min(attempt, 5))

    def seconds(self, size: int) -> float:
        """The longest time for one request that moves so many bytes."""
        return self.connect_seconds + self.silence_seconds + size / self.bytes_per_second


@dataclasses.dataclass(frozen=True)
class Connection:
    """Whom to talk to, and how.

    Attributes:
        place: the bucket.
        secret: where its key is; None: the client finds credentials itself.
        region: of the bucket.
        authorities: further certificate authorities, in PEM.
    """

    place: uri.BucketPlace
    secret: accesskey.Folder | None
    region: str
    authorities: bytes

    @classmethod
    def of(cls, settings: config.S3) -> Connection:
        """Read the configuration, the Secret and the certificates.

        Raises:
            ConfigError: one of them cannot be used.
        """
        path = settings.credentialsPath
        secret = accesskey.Folder(pathlib.Path(path)) if path else None
        if secret:
            secret.key()
        endpoint = (
            secret.endpoint if secret else _variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        )
        place = uri.bucket_place(settings, default_endpoint=endpoint)
        region = settings.region or (secret.region if secret else "")
        region = region or _variable(*accesskey.REGIONS) or DEFAULT_REGION
        if not _REGION.fullmatch(region):
            raise errors.ConfigError(
                f"region {region[:64]!r} is no region", hint="write it as in eu-central-1"
            )
        return cls(place, secret, region, _authorities(settings.caBundlePath))

    def store_options(self, limits: Limits, *, reads: bool) -> dict[str, Any]:
        """Keyword arguments of the client.

        Args:
            limits: how long things may take.
            reads: for requests without a body that change nothing.
        """
        place = self.place
        endpoint = place.endpoint
        if not endpoint:
            domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
            endpoint = f"https://{place.bucket}.s3.{self.region}.{domain}"
        options: dict[str, Any] = {
            "prefix": place.prefix or None,
            "region": self.region,
            "endpoint": endpoint,
            "aws_endpoint_url_s3": endpoint,
            "virtual_hosted_style_request": not place.endpoint,
            "conditional_put": "etag",
            # One request for each object: not every server has the request for many.
            "disable_bulk_delete": True,
            "skip_signature": False,
            "unsigned_payload": False,
            "s3_express": False,
            "client_options": self._http(limits, reads=reads),
            "retry_config": {
                "max_retries": REPEATS if reads else 0,
                "retry_timeout": _seconds(limits.deadline_seconds),
                "backoff": {
                    "init_backoff": _seconds(limits.pause_seconds / 2),
                    "max_backoff": _seconds(limits.pause_seconds * 8),
                    "base": 2,
                },
            },
        }
        return {**options, "credential_provider": self.secret} if self.secret else options

    def _http(self, limits: Limits, *, reads: bool) -> dict[str, Any]:
        options: dict[str, Any] = {
            "allow_http": self.place.endpoint.startswith("http://"),
            "allow_invalid_certificates": False,
            "connect_timeout": _seconds(limits.connect_seconds),
            "timeout": _seconds(limits.seconds(LARGEST_BYTES)),
            "user_agent": f"chrek/{chrek.__version__}",
        }
        if reads:
            # Time in which a body is sent counts as silence of the server: requests with a body
            # have a limit as a whole only.
            options["read_timeout"] = _seconds(limits.silence_seconds)
        if self.authorities:
            options["root_certificate"] = self.authorities
        return options


@functools.cache
def settle_at_exit() -> None:
    """Give the client's threads time to let go of Python before it ends.

    One that comes too late aborts the process, whatever that has done: seen with one in five that
    end right after a request, and with none of 160 that wait.

    Source: https://github.com/python/cpython/issues/87135
    """
    atexit.register(time.sleep, SETTLE_SECONDS)


def _variable(*wanted: str) -> str:
    return next(filter(None, map(os.environ.get, wanted)), "")


def _authorities(path: str) -> bytes:
    if not path:
        return b""
    try:
        found = pathlib.Path(path).read_bytes()
    except OSError as err:
        raise errors.ConfigError(
            f"{path}: {err.strerror}", hint="check the ConfigMap of storage.s3.caBundle"
        ) from err
    if b"-----BEGIN CERTIFICATE-----" not in found:
        raise errors.ConfigError(
            f"{path}: it holds no certificate in PEM",
            hint="check the key ca.crt of the ConfigMap of storage.s3.caBundle",
        )
    return found


def _seconds(value: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=value)
