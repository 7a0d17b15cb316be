"""What a registry's failures are called: its own words, and what to do."""

from __future__ import annotations

import msgspec

from chrek import errors

LONGEST = 256
DENIED_CODES = frozenset({"UNAUTHORIZED", "DENIED"})
HINTS = {
    401: "is there a pull secret for {registry}, and is it right?",
    403: "may the user of the pull secret pull this image?",
    404: "check the image's name and tag; some registries say so too when they want a pull secret",
    429: "it limits requests: a pull secret often has a higher limit",
}


def refused(registry: str, what: str, status: int, raw: bytes) -> errors.RegistryError:
    """An answer with an error status.

    Args:
        registry: as images name it.
        what: path of the request, or another name for it.
        status: HTTP status.
        raw: the body, or the start of it.
    """
    codes, text = _said(raw)
    hint = HINTS.get(status, "").format(registry=registry)
    return errors.RegistryError(
        f"registry {registry}: {what}: {status}{f' {text}' if text else ''}",
        status=status,
        denied=status in (401, 403) or bool(DENIED_CODES & set(codes)),
        hint=hint or ("try again later" if status >= 500 else None),
    )


def unanswered(registry: str, what: str, err: BaseException) -> errors.RegistryError:
    """There was no answer, or not all of it."""
    text = str(err) or ("it took too long" if isinstance(err, TimeoutError) else repr(err))
    hint = f"can pods of the release's namespace reach {registry}?"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        hint = f"the certificate of {registry} is of an authority that chrek's image does not know"
    elif "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        hint = "list it under dynamo-operator.imageLookup.plainHttpRegistries if it has no TLS"
    return errors.RegistryError(f"registry {registry}: {what}: no answer: {text}", hint=hint)


def unusable(registry: str, what: str, why: str) -> errors.RegistryError:
    """An answer that must not be believed; asking again would change nothing."""
    made = errors.RegistryError(f"registry {registry}: {what}: {why}")
    made.retryable = False
    return made


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
