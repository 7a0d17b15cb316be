"""Why a request to a bucket failed: read from what the client says, and told to the user.

obstore says it in prose: the server's answer, or how there was none, in the notation of its own
language. Whatever is not recognized there is a failure without a special hint. What a server says
may repeat headers of the request, such as a session token: only its code and its message are shown,
and the message only when it holds no part of the key.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html (codes)
"""

from __future__ import annotations

import dataclasses
import enum
import html
import re
from collections.abc import Sequence

from chrek import errors, names
from chrek.remote import uri

LONGEST = 256
"""Characters of a server's message that are shown."""
MISSING = "NoSuchKey"
_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_PASSING_CODES = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "XAmzContentSHA256Mismatch",
        "BadDigest",
        "IncompleteBody",
    }
)
_STATUS = re.compile(r"Server returned (?:non-2xx status code: (\d{3})|error response:)")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9._-]{1,64})\s*</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,4096})</Message>")
_REGION = re.compile(r"<Region>([a-z0-9-]{1,32})</Region>")
_METADATA = " http://169.254.169.254/"
_DEBUG = "\n\nDebug source:\n"


class Action(enum.StrEnum):
    """What is asked of a bucket: the permission that AWS calls for."""

    PUT = "s3:PutObject"
    GET = "s3:GetObject"
    LIST = "s3:ListBucket"
    DELETE = "s3:DeleteObject"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """What became of a request."""

    status: int = 0
    """HTTP status; 0 when there was no answer, or none that can be used."""
    code: str = ""
    """The server's own word."""
    message: str = ""
    """The server's own sentence, on one line; it may repeat what must not be shown."""
    region: str = ""
    """Where the server says that the bucket is."""
    why: str = ""
    """How there was no answer."""
    hint: str = ""
    passing: bool = False
    """The same request may succeed later."""
    damaged: bool = False
    """The object is not what it must be."""

    @property
    def short(self) -> str:
        """For logs."""
        return self.why or f"{self.status} {self.code}".rstrip()

    @property
    def denied(self) -> bool:
        """The key may be the reason."""
        return self.status in (401, 403) or self.code in _DENIED_CODES

    @property
    def missing(self) -> bool:
        """The server says that there is no such object; not any 404, which a proxy says as well."""
        return self.status == 404 and self.code == MISSING


@dataclasses.dataclass(frozen=True)
class _Silence:
    """How there can be no answer, as the client says it."""

    mark: str
    why: str
    hint: str
    passing: bool = False


_REACH = "can pods of the release's namespace reach {server}, and is it right?"
_SILENCES = (
    _Silence(
        "UnknownIssuer",
        "its certificate is of an authority that is not known",
        "give the authority's certificate in storage.s3.caBundle",
    ),
    _Silence(
        "NotValidForName",
        "its certificate is for another name",
        "use a name that is in the certificate, in storage.s3.uri or endpoint",
    ),
    _Silence(
        "InvalidCertificate(",
        "its certificate is not valid",
        "see when it expires and who made it, and the clock of the node",
    ),
    _Silence(
        "InvalidContentType",
        "it does not speak TLS",
        "set storage.s3.plainHttp to true if it is to have no TLS, or correct the port",
    ),
    _Silence(
        "Temporary failure in name resolution",
        "its name could not be looked up",
        "does the cluster's DNS work?",
        passing=True,
    ),
    _Silence("dns error", "its name is not known", "correct the name of the server"),
    _Silence("ConnectionRefused", "it refuses connections", _REACH, passing=True),
    _Silence("ConnectionReset", "the connection broke", _REACH, passing=True),
    _Silence("BrokenPipe", "the connection broke", _REACH, passing=True),
    _Silence("IncompleteMessage", "the connection ended without an answer", _REACH, passing=True),
    _Silence("UnexpectedEof", "the connection ended in mid-answer", _REACH, passing=True),
    _Silence("IncompleteBody", "the connection ended in mid-answer", _REACH, passing=True),
    _Silence("TimedOut", "it said nothing for too long", _REACH, passing=True),
    _Silence("kind: Timeout", "it said nothing for too long", _REACH, passing=True),
    _Silence("kind: Connect", "no connection", _REACH, passing=True),
    _Silence("HttpError", "the connection broke", _REACH, passing=True),
)
"""First match counts."""

_CLOCK = "the clocks of this node and of the server differ: synchronize them"
_REGION_HINT = "set storage.s3.region to the bucket's region"
_RENEW = "the session token is over: renew AWS_SESSION_TOKEN and the key in the Secret"
_ID = "the server does not know AWS_ACCESS_KEY_ID: correct the Secret of credentialsSecretRef"
_MISMATCH = (
    "AWS_SECRET_ACCESS_KEY is not that of AWS_ACCESS_KEY_ID, or something between changes requests"
)
_SLOW = "the server limits requests or is overloaded: try again later"
_HINTS = {
    "AccessDenied": "allow {action} on the bucket and everything below the prefix",
    "AuthorizationHeaderMalformed": _REGION_HINT,
    "ExpiredToken": _RENEW,
    "IllegalLocationConstraintException": _REGION_HINT,
    "InvalidAccessKeyId": _ID,
    "InvalidBucketName": "correct the bucket in storage.s3.uri",
    "InvalidToken": "AWS_SESSION_TOKEN does not belong to the key: correct it, or leave it out",
    "NoSuchBucket": "make the bucket, or correct storage.s3.uri",
    "NotImplemented": "this server lacks what chrek needs: use one with conditional writes",
    "PermanentRedirect": _REGION_HINT,
    "RequestTimeTooSkewed": _CLOCK,
    "SignatureDoesNotMatch": _MISMATCH,
    "SlowDown": _SLOW,
    "TemporaryRedirect": _REGION_HINT,
    "TokenRefreshRequired": _RENEW,
    "XAdminUserNotFound": _ID,
    "QuotaExceeded": "the bucket's quota is used up: raise it, or delete checkpoints",
    "XMinioStorageFull": "the server's disks are full: make room",
}
_STATUS_HINTS = {
    301: _REGION_HINT,
    307: _REGION_HINT,
    401: "correct the Secret of credentialsSecretRef",
    403: "allow {action} on the bucket and everything below the prefix",
    404: "is {server} an S3 server, and storage.s3.uri right?",
    405: "is {server} an S3 server, and storage.s3.uri right?",
    413: "something between limits the size of requests, such as an ingress: allow 64 MiB",
    429: _SLOW,
    501: "this server lacks what chrek needs: use one with conditional writes",
    503: _SLOW,
    507: "the server's disks are full: make room",
}
_DENIED_CODES = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "XAdminUserNotFound",
    }
)


def read(err: BaseException) -> Failure:
    """What an exception of the client means."""
    if isinstance(err, TimeoutError):
        return Failure(why="it took too long", hint=_REACH, passing=True)
    if isinstance(err, ConnectionError):
        return Failure(why=str(err), hint=_REACH, passing=True)
    text, _, debug = str(err).partition(_DEBUG)
    if _METADATA in text:
        why = "no credentials were found, and no metadata server gives any"
        hint = "name a Secret in credentialsSecretRef, or give the agents' account an identity"
        return Failure(why=why, hint=hint)
    if answered := _STATUS.search(text):
        return _answered(int(answered[1] or 503), text[answered.end() :])
    if "Received redirect without LOCATION" in text:
        return Failure(status=301, code="PermanentRedirect")
    for one in _SILENCES:
        if one.mark in debug:
            return Failure(why=one.why, hint=one.hint, passing=one.passing)
    return _nonsense(text)


def explain(
    failure: Failure,
    place: uri.BucketPlace,
    *,
    action: Action,
    name: str,
    hidden: Sequence[str] | None,
) -> errors.ChrekError:
    """The error for the user: an ArtifactError when the object is not there or too short.

    Args:
        failure: what became of the request.
        place: whose bucket.
        action: what was asked.
        name: of the object, or what listed names start with.
        hidden: what no message may show; None when that is not known, so that only the server's
            code is shown.
    """
    server = place.endpoint or "AWS"
    path = "/".join(filter(None, (place.prefix, name))) or "/"
    why = failure.why
    if failure.status:
        said = failure.message
        shown = hidden is not None and not any(one in said for one in hidden)
        words = ": ".join(filter(None, (failure.code, said if shown else "")))
        why = f"{failure.status} {words}".rstrip()
    text = f"bucket {place.bucket} at {server}: {action.name.lower()} {path}: {why}"
    if failure.missing:
        hint, missing = "it was deleted: make the checkpoint again", names.Reason.ARTIFACT_MISSING
        return errors.ArtifactError(text, hint=hint, reason=missing)
    if failure.status == 416 or failure.damaged:
        return errors.ArtifactError(text, hint="it is damaged: make the checkpoint again")
    reason = names.Reason.STORE_FAILED
    if failure.denied:
        reason = names.Reason.STORE_DENIED
    elif not failure.status:
        reason = names.Reason.STORE_UNREACHABLE
    made = errors.StoreError(text, hint=_hint(failure, action, server), reason=reason)
    made.retryable = failure.passing
    return made


def _hint(failure: Failure, action: Action, server: str) -> str:
    hint = failure.hint or _HINTS.get(failure.code) or _STATUS_HINTS.get(failure.status, "")
    if hint is _REGION_HINT and failure.region:
        hint = f"set storage.s3.region to {failure.region}"
    if not hint:
        hint = "try again later" if failure.passing else "see what the server says about it"
    return hint.format(action=str(action), server=server)


def _answered(status: int, body: str) -> Failure:
    code = found[1] if (found := _CODE.search(body)) else ""
    message = html.unescape(found[1]) if (found := _MESSAGE.search(body)) else ""
    line = "".join(c for c in " ".join(message.split()) if c.isprintable())
    return Failure(
        status=status,
        code=code,
        message=line[:LONGEST],
        region=found[1] if (found := _REGION.search(body)) else "",
        passing=status in _PASSING_STATUS or code in _PASSING_CODES,
    )


def _nonsense(text: str) -> Failure:
    if "invalid path" in text:
        why = "it holds a name that has two slashes in a row or another part that cannot be read"
        return Failure(why=why, hint="remove that object, or use another prefix")
    if "when range requested" in text or "Requested" in text:
        why = "it sent other bytes of the object than it was asked for"
        return Failure(why=why, hint="is there a cache or a proxy in front of {server}?")
    if "External AWS credential provider" in text:
        # The files of the Secret were there a moment ago: they are being replaced.
        return Failure(why="the key could not be read", hint="check the Secret", passing=True)
    why = "its answer cannot be used"
    return Failure(why=why, hint="is {server} an S3 server, and storage.s3.uri right?")
