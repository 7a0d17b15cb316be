"""How a registry asks for proof: the header WWW-Authenticate.

Source: RFC 9110 §11.6.1, https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

_SCHEME = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?=[ \t,]|$)(?![ \t]*=)")
_PARAMETER = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))"
)
_GAP = re.compile(r"[ \t,]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Challenge:
    """One way to prove who asks.

    Attributes:
        scheme: in small letters, such as `bearer`.
        parameters: by name in small letters.
    """

    scheme: str
    parameters: Mapping[str, str]


def parse(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of an answer; what cannot be read ends its header."""
    found = []
    for header in headers:
        at = _skip(header, 0)
        while at < len(header) and (scheme := _SCHEME.match(header, at)):
            parameters: dict[str, str] = {}
            at = _skip(header, scheme.end())
            while match := _PARAMETER.match(header, at):
                name, quoted, plain = match.groups()
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters[name.lower()] = value
                at = _skip(header, match.end())
            found.append(Challenge(scheme[1].lower(), parameters))
    return found


def _skip(header: str, at: int) -> int:
    match = _GAP.match(header, at)
    return match.end() if match else at
