"""What a registry's failures are called: its own words, and what to do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import msgspec

from chrek import errors

LONGEST = 256
DENIED_CODES = frozenset({"UNAUTHORIZED", "DENIED"})
NO_DELETION = (
    "it is read-only, or deletions are disabled there, so artifacts stay: set"
    " storage.delete.enabled in the registry's configuration (REGISTRY_STORAGE_DELETE_ENABLED=true)"
)
HINTS: Mapping[str, str] = {
    "401": "is there a pull secret for {registry}, and is it right?",
    "403": "may the user of the pull secret pull this image?",
    "404": "check the image's name and tag; some registries say so too when they want a pull"
    " secret",
    "429": "it limits requests: a pull secret often has a higher limit",
    "5xx": "try again later",
    "CERTIFICATE": "the certificate of {registry} is of an authority that chrek's image does not"
    " know",
    "PLAINTEXT": "list it under dynamo-operator.imageLookup.plainHttpRegistries if it has no TLS",
    "UNREACHABLE": "can pods of the release's namespace reach {registry}?",
}
"""What to do, by one of: an error code of a registry, an HTTP status, `5xx` and the like; QUOTA
when its words speak of one; CERTIFICATE, PLAINTEXT or UNREACHABLE when there was no answer."""

_QUERY = re.compile(r"\?[^\s'\"]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Words:
    """Makes the errors of one registry.

    Attributes:
        registry: as images name it.
        hints: as `HINTS`; `{registry}` stands for its name.
    """

    registry: str
    hints: Mapping[str, str] = dataclasses.field(default_factory=lambda: HINTS)

    def refused(self, what: str, status: int, raw: bytes) -> errors.RegistryError:
        """An answer with an error status.

        It is final, `retryable` is false, when the registry itself says that the request is wrong;
        a 404 of something before it may pass.

        Args:
            what: path of the request, or another name for it.
            status: HTTP status.
            raw: the body, or the start of it.
        """
        codes, text = _said(raw)
        topics = ["QUOTA"] if re.search(r"\bquota\b|storage limit", text, re.IGNORECASE) else []
        failed = errors.RegistryError(
            f"registry {self.registry}: {what}: {status}{f' {text}' if text else ''}",
            status=status,
            denied=status in (401, 403) or bool(DENIED_CODES & set(codes)),
            hint=self._hint([*topics, *codes, f"{status}", f"{status // 100}xx"]),
        )
        failed.retryable = not (codes and 400 <= status < 500 and status != 429)
        return failed

    def unanswered(self, what: str, err: BaseException) -> errors.RegistryError:
        """There was no answer, or not all of it."""
        text = str(err) or ("it took too long" if isinstance(err, TimeoutError) else repr(err))
        topic = "UNREACHABLE"
        if "CERTIFICATE_VERIFY_FAILED" in text:
            topic = "CERTIFICATE"
        elif "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
            topic = "PLAINTEXT"
        return errors.RegistryError(
            f"registry {self.registry}: {what}: no answer: {without_queries(text)}",
            hint=self._hint([topic]),
        )

    def unusable(
        self, what: str, why: str, *, status: int = 0, hint: str | None = None
    ) -> errors.RegistryError:
        """An answer that must not be believed; asking again would change nothing."""
        made = errors.RegistryError(
            f"registry {self.registry}: {what}: {why}", status=status, hint=hint
        )
        made.retryable = False
        return made

    def _hint(self, topics: Iterable[str]) -> str | None:
        for topic in topics:
            if topic in self.hints:
                return self.hints[topic].format(registry=self.registry)
        return None


def absent(err: errors.RegistryError) -> bool:
    """Whether the registry itself said that it has no such thing."""
    return err.status == 404 and not err.retryable


def without_queries(text: str) -> str:
    """The queries of URLs left out: they may be signatures that let anybody read or write."""
    return _QUERY.sub("?…", text)


def _said(raw: bytes) -> tuple[list[str], str]:
    """Error codes and the text `CODE: message; …` of a body; other bodies are not shown.

    A proxy's page tells nothing, and whoever names an image could have any server's page shown.
    """
    try:
        decoded = msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [], ""
    listed = decoded.get("errors")
    items = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    if not items and isinstance(decoded.get("details"), str):  # Token servers.
        return [], _plain(decoded["details"])
    codes = [str(one.get("code") or "") for one in items]
    texts = [f"{c}: {one.get('message') or ''}" for c, one in zip(codes, items, strict=True)]
    return codes, _plain("; ".join(texts))


def _plain(text: object) -> str:
    """On one line, without control characters."""
    line = " ".join(str(text).split())
    return "".join(c for c in line if c.isprintable())[:LONGEST]
