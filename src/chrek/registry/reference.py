"""Names of images, read as container runtimes read them.

Source: https://pkg.go.dev/github.com/distribution/reference (grammar and normalization)
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from chrek import errors

HUB = "docker.io"
HUB_ALIASES = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})
HUB_HOST = "registry-1.docker.io"
"""Where the registry called docker.io answers."""
LONGEST = 255

_HOST = re.compile(
    r"(?:(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
    r"(?:\.(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]))*|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
)
_PATH = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_BARE_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry.

    Attributes:
        registry: `host[:port]` by which the image is named; `docker.io` for Docker Hub.
        repository: path in the registry, such as `library/busybox`.
        tag: empty when there is only a digest.
        digest: `sha256:…`; it counts when there is a tag as well.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse(text: str) -> Reference:
    """Read the `image` of a container.

    Raises:
        InputError: it is not the name of an image.
    """
    rest, _, digest = text.partition("@")
    if "@" in text and not _DIGEST.fullmatch(digest):
        raise _invalid(text, f"{digest!r} is no digest", "write @sha256: and 64 hexadecimal digits")
    if not rest:
        raise _invalid(text, "it is empty" if not text else "a digest needs a repository", None)
    head, slash, tail = rest.partition("/")
    named = bool(slash) and (
        any(c in head for c in ".:") or head == "localhost" or head.lower() != head
    )
    host, path = (head, tail) if named else (HUB, rest)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is no tag", "letters, digits, `_`, `.` and `-`, up to 128")
    if not _HOST.fullmatch(host):
        raise _invalid(text, f"{host!r} is no registry", "write host or host:port before the path")
    if not all(_PATH.fullmatch(part) for part in path.split("/")):
        raise _invalid(text, f"{path!r} is no repository", "small letters, digits, `.`, `_`, `-`")
    if host in HUB_ALIASES:
        host = HUB
        path = path if "/" in path else f"library/{path}"
    if _BARE_DIGEST.fullmatch(rest):
        raise _invalid(text, "64 hexadecimal digits name no image", "write name@sha256:…")
    if len(host) + 1 + len(path) > LONGEST:
        raise _invalid(text[:64] + "…", f"it is longer than {LONGEST} characters", None)
    return Reference(host, path, tag or ("" if digest else "latest"), digest)


def endpoint(registry: str) -> str:
    """`host[:port]` where a registry answers."""
    return HUB_HOST if registry in HUB_ALIASES else registry


def is_loopback(registry: str) -> bool:
    """Whether a registry's name stands for the machine that uses it."""
    host = registry.rpartition(":")[0] if re.search(r":[0-9]+$", registry) else registry
    host = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _invalid(text: str, why: str, hint: str | None) -> errors.InputError:
    return errors.InputError(f"image {text!r}: {why}", hint=hint)
