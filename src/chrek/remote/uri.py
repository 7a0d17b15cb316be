"""`s3://...` and `oci://...`, as users write them in the chart's values.

    s3://bucket/prefix                a bucket at AWS, or at `endpoint`
    s3://host[:port]/bucket/prefix    a bucket at another server: what has a dot or a port is a host
    oci://registry/repository         a repository, without a tag

A bucket may have a dot in its name where `endpoint` says which server is meant. Nothing is guessed:
what does not fit is a ConfigError that says why and what to write.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NoReturn

from chrek import config, errors
from chrek.registry import reference

LONGEST_PREFIX = 512
"""Of the 1024 bytes that a key may have: namespace, hash and names of ours come after it."""
_SETTING = "storage.s3"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
_SEGMENT = re.compile(r"[A-Za-z0-9_.-]+")


@dataclasses.dataclass(frozen=True)
class BucketPlace:
    """Where a store is in S3."""

    endpoint: str
    """URL of the server, such as `https://minio.example.com:9000`; empty for AWS."""
    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""


@dataclasses.dataclass(frozen=True)
class RepositoryPlace:
    """Where a store is in a registry."""

    registry: str
    """`host[:port]`."""
    repository: str


def bucket_place(settings: config.S3, *, default_endpoint: str | None = None) -> BucketPlace:
    """Read where the bucket is.

    Args:
        settings: `storage.s3`.
        default_endpoint: URL of the server where neither `endpoint` nor a host in the URI says it;
            empty for AWS, None when it is not known here.

    Raises:
        ConfigError: a value cannot be used.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    segments = _segments("s3", f"{_SETTING}.uri", settings.uri)
    endpoint = settings.endpoint and endpoint_url(
        settings.endpoint, name=f"{_SETTING}.endpoint", plain_http=settings.plainHttp
    )
    host = ""
    if _is_host(segments[0]) and not endpoint:
        host = _host(f"{_SETTING}.uri", settings.uri, segments.pop(0))
        endpoint = f"{'http' if settings.plainHttp else 'https'}://{host}"
    if not segments:
        why = f"{host!r} has a dot or a port, so it is a server, and no bucket follows"
        _refuse(f"{_SETTING}.uri", settings.uri, why, _dotted(host))
    if not endpoint and default_endpoint:
        name = "AWS_ENDPOINT_URL of the Secret"
        endpoint = endpoint_url(default_endpoint, name=name, plain_http=settings.plainHttp)
    if settings.plainHttp and not endpoint and default_endpoint is not None:
        why = "plain HTTP is asked for, and AWS is meant"
        _refuse(f"{_SETTING}.plainHttp", "true", why, "set endpoint, or leave plainHttp out")
    if settings.endpoint and (":" in segments[0] or endpoint.endswith(f"://{segments[0]}")):
        why = f"endpoint is set, so a bucket is expected where {segments[0]!r} stands"
        _refuse(f"{_SETTING}.uri", settings.uri, why, "leave out endpoint, or the host in the URI")
    bucket, prefix = segments[0], "/".join(segments[1:])
    _check_bucket(settings.uri, bucket, host)
    _check_prefix(settings.uri, segments[1:], prefix)
    return BucketPlace(endpoint, bucket, prefix)


def endpoint_url(text: str, *, name: str, plain_http: bool) -> str:
    """A server's URL without anything behind the port.

    Args:
        text: `https://host[:port]`.
        name: of the setting, for messages.
        plain_http: whether it must be `http://` and not `https://`.

    Raises:
        ConfigError: it is something else.
    """
    _check_characters(name, text)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("http", "https"):
        _refuse(
            name, text, "it is no http: or https: URL", "write https://host or https://host:port"
        )
    host, _, path = rest.partition("/")
    if path:
        hint = "write the bucket and the prefix in uri"
        _refuse(name, text, f"a path, {path!r}, follows the host", hint)
    if scheme == "http" and not plain_http:
        why = "plain HTTP must be asked for: what is stored would travel unencrypted"
        _refuse(name, text, why, "write https://, or set plainHttp: true")
    if scheme == "https" and plain_http:
        _refuse(name, text, "plainHttp is set", "write http://, or leave plainHttp out")
    return f"{scheme}://{_host(name, text, host)}"


def repository_place(text: str) -> RepositoryPlace:
    """Read where the repository is.

    Args:
        text: `storage.oci.uri`.

    Raises:
        ConfigError: it cannot be used.
    """
    name = "storage.oci.uri"
    registry, *parts = _segments("oci", name, text)
    example = "write oci://registry/repository, such as oci://registry.example.com/checkpoints"
    if not parts:
        _refuse(name, text, f"no repository follows {registry!r}", example)
    registry = _host(name, text, registry)
    repository = "/".join(parts)
    if ":" in repository or "@" in repository:
        why = "it has a tag or a digest; artifacts get theirs from chrek"
        _refuse(name, text, why, example)
    if registry in reference.HUB_ALIASES and len(parts) == 1:
        why = f"{registry} has no repositories without an owner that you could write to"
        _refuse(name, text, why, f"write oci://{registry}/<owner>/{repository}")
    named = registry if ":" in registry else f"{registry}:443"
    try:
        # The port tells the parser that the first part is a registry even without a dot.
        repository = reference.parse(f"{named}/{repository}").repository
    except errors.InputError as err:
        why = err.message.rpartition(": ")[2]
        _refuse(name, text, why, err.hint or example)
    return RepositoryPlace(registry, repository)


def _segments(scheme: str, name: str, text: str) -> list[str]:
    """What stands between the slashes behind the scheme; at least one, none empty."""
    form = {
        "s3": "s3://bucket/prefix or s3://host[:port]/bucket/prefix",
        "oci": "oci://registry/repository",
    }[scheme]
    if not text:
        _refuse(name, text, "it is empty", f"write {form}")
    _check_characters(name, text)
    found, separator, rest = text.partition("://")
    if not separator or found != scheme:
        _refuse(name, text, f"it does not start with {scheme}://", f"write {form}")
    parts = rest.removesuffix("/").split("/")
    if not all(parts):
        why = (
            "nothing follows the scheme" if not rest.strip("/") else "two slashes follow each other"
        )
        _refuse(name, text, why, f"write {form}")
    return parts


def _check_characters(name: str, text: str) -> None:
    scheme, separator, rest = text.partition("://")
    authority = (rest if separator else text).partition("/")[0]
    if "@" in authority:
        # What stands before the @ may be a password.
        shown = f"{scheme if separator else ''}{separator}...@{authority.rpartition('@')[2]}"
        _refuse(
            name, shown, "it holds credentials", "put them into the Secret of credentialsSecretRef"
        )
    if "?" in text or "#" in text:
        at = min(text.find(mark) for mark in "?#" if mark in text)
        hint = "leave out what follows; region and endpoint are settings of their own"
        _refuse(name, text[:at] + text[at] + "...", f"it has a {text[at]!r}", hint)
    if not text.isascii() or not text.isprintable() or {" ", "%", "\\"} & set(text):
        why = "it has a space, an escape or another character that names do not have"
        _refuse(name, text, why, "use letters, digits, `.`, `_` and `-`")


def _is_host(segment: str) -> bool:
    return "." in segment or ":" in segment


def _host(name: str, text: str, host: str) -> str:
    """The same host and port, checked with the grammar of registries."""
    before, colon, port = host.rpartition(":")
    has_port = bool(colon) and not host.endswith("]")
    if has_port and not (port.isdigit() and 0 < int(port[:6]) < 65536):
        _refuse(name, text, f"{port!r} is no port", "write host:port, with a port from 1 to 65535")
    try:
        reference.parse(f"{host if has_port else f'{host}:443'}/x/x")
    except errors.InputError:
        shown = before if has_port else host
        _refuse(name, text, f"{shown!r} is no host", "write host or host:port, IPv6 in brackets")
    return host.lower()


def _check_bucket(text: str, bucket: str, host: str) -> None:
    name = f"{_SETTING}.uri"
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _ADDRESS.fullmatch(bucket):
        why = f"{bucket!r} is no name of a bucket"
        hint = "small letters, digits, `-` and `.`, 3 to 63, with a letter or digit at both ends"
        _refuse(name, text, why, f"{hint}{f'; {_dotted(host)}' if host else ''}")


def _check_prefix(text: str, segments: list[str], prefix: str) -> None:
    name = f"{_SETTING}.uri"
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
            why = f"{segment!r} cannot be a part of the prefix"
            _refuse(
                name, text, why, "use letters, digits, `.`, `_` and `-`, but not `.` or `..` alone"
            )
    if len(prefix) > LONGEST_PREFIX:
        why = f"the prefix has {len(prefix)} characters"
        _refuse(name, text[:64] + "...", why, f"use at most {LONGEST_PREFIX}")


def _dotted(host: str) -> str:
    return (
        f"if {host!r} is the bucket, set endpoint to the server's URL: a bucket with a dot needs it"
    )


def _refuse(name: str, text: str, why: str, hint: str) -> NoReturn:
    raise errors.ConfigError(f"{name} {text!r}: {why}", hint=hint)
