"""What the client's prose means, and what the user is told."""

from __future__ import annotations

import pytest

from chrek import errors, names
from chrek.remote import failure, uri

PLACE = uri.BucketPlace("https://minio:9000", "artifacts", "pre/fix")
AWS = uri.BucketPlace("", "artifacts", "")
TRANSPORT = """Generic S3 error: Error performing PUT https://minio:9000/artifacts/x in 1ms - \
HTTP error: error sending request

Debug source:
Generic {{
    source: RetryError(
        inner: Http(
            HttpError {{
                kind: {kind},
                source: reqwest::Error {{
                    kind: Request,
                    source: {source},
                }},
            }},
        ),
    ),
}}"""
"""As obstore 0.12.1 says that there was no answer."""

SILENCES = [
    # kind, source, what is said, whether it is tried again
    ("Connect", "InvalidCertificate(UnknownIssuer)", "authority that is not known", False),
    ("Connect", "InvalidCertificate(NotValidForNameContext {})", "for another name", False),
    ("Connect", "InvalidCertificate(ExpiredContext {})", "certificate is not valid", False),
    ("Connect", "InvalidMessage(InvalidContentType)", "does not speak TLS", False),
    ("Connect", '"dns error", "Name or service not known"', "name is not known", False),
    (
        "Connect",
        '"dns error", "Temporary failure in name resolution"',
        "name could not be looked up",
        True,
    ),
    ("Connect", "kind: ConnectionRefused", "refuses connections", True),
    ("Interrupted", "kind: ConnectionReset", "the connection broke", True),
    ("Request", "hyper::Error(IncompleteMessage)", "ended without an answer", True),
    ("Timeout", "TimedOut", "said nothing for too long", True),
    ("Connect", "something new", "no connection", True),
    ("Unknown", "something new", "the connection broke", True),
]


class ClientError(Exception):
    """Stands for obstore's own."""


def answer(status, body, words="Said"):
    text = f"Generic S3 error: Error performing PUT https://minio:9000/artifacts/x in 1ms - \
Server returned non-2xx status code: {status} {words}: {body}"
    return ClientError(f"{text}\n\nDebug source:\nGeneric {{ kind: Connect TimedOut }}")


def xml(code, message="no", more=""):
    return f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"


def told(failed, place=PLACE, action=failure.Action.PUT, hidden=()):
    return failure.explain(failed, place, action=action, name="packs/ab/x", hidden=hidden)


@pytest.mark.parametrize(("kind", "source", "why", "passing"), SILENCES)
def test_no_answer_is_explained(kind, source, why, passing):
    failed = failure.read(ClientError(TRANSPORT.format(kind=kind, source=source)))
    assert (failed.status, failed.passing) == (0, passing)
    err = told(failed)
    assert err.message.startswith("bucket artifacts at https://minio:9000: put pre/fix/packs/ab/x:")
    assert why in err.message
    assert err.hint
    assert "{" not in str(err)
    assert err.retryable is passing
    assert err.reason == names.Reason.STORE_UNREACHABLE


@pytest.mark.parametrize(
    ("status", "code", "hint", "passing"),
    [
        (403, "AccessDenied", "allow s3:PutObject on the bucket", False),
        (403, "InvalidAccessKeyId", "does not know AWS_ACCESS_KEY_ID", False),
        (404, "XAdminUserNotFound", "does not know AWS_ACCESS_KEY_ID", False),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY is not that of", False),
        (403, "RequestTimeTooSkewed", "clocks of this node and of the server differ", False),
        (400, "ExpiredToken", "renew AWS_SESSION_TOKEN", False),
        (400, "InvalidToken", "does not belong to the key", False),
        (404, "NoSuchBucket", "make the bucket", False),
        (404, "", "is https://minio:9000 an S3 server", False),
        (400, "AuthorizationHeaderMalformed", "set storage.s3.region", False),
        (301, "PermanentRedirect", "set storage.s3.region", False),
        (400, "IllegalLocationConstraintException", "set storage.s3.region", False),
        (501, "NotImplemented", "conditional writes", False),
        (413, "", "allow 64 MiB", False),
        (507, "XMinioStorageFull", "disks are full", False),
        (429, "", "limits requests", True),
        (503, "SlowDown", "limits requests", True),
        (500, "InternalError", "try again later", True),
        (502, "", "try again later", True),
        (504, "", "try again later", True),
        (409, "OperationAborted", "try again later", True),
        (400, "RequestTimeout", "try again later", True),
        (418, "Teapot", "see what the server says", False),
    ],
)
def test_answers_are_explained(status, code, hint, passing):
    failed = failure.read(answer(status, xml(code, "Because.") if code else "<html>no</html>"))
    assert (failed.status, failed.code, failed.passing) == (status, code, passing)
    err = told(failed)
    assert isinstance(err, errors.StoreError)
    assert f": {status}{f' {code}: Because.' if code else ''}" in err.message
    assert hint in err.hint
    assert err.retryable is passing


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        (failure.Action.PUT, "s3:PutObject"),
        (failure.Action.GET, "s3:GetObject"),
        (failure.Action.LIST, "s3:ListBucket"),
        (failure.Action.DELETE, "s3:DeleteObject"),
    ],
)
def test_the_permission_that_is_missing_is_named(action, permission):
    err = told(failure.read(answer(403, xml("AccessDenied"))), action=action)
    assert permission in err.hint
    assert f" {action.name.lower()} pre/fix/packs/ab/x:" in err.message
    assert err.reason == names.Reason.STORE_DENIED


def test_the_region_that_the_server_names_is_told():
    body = xml("AuthorizationHeaderMalformed", more="<Region>eu-central-1</Region>")
    assert "set storage.s3.region to eu-central-1" in told(failure.read(answer(400, body))).hint


def test_aws_is_called_so():
    err = told(failure.read(answer(403, xml("AccessDenied"))), AWS)
    assert err.message.startswith("bucket artifacts at AWS: put packs/ab/x: 403 AccessDenied")


def test_only_the_servers_own_word_for_a_missing_object_says_that_it_is_missing():
    err = told(failure.read(answer(404, xml("NoSuchKey"))), action=failure.Action.GET)
    assert isinstance(err, errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_MISSING
    for body in ("", "<html>404</html>", xml("NoSuchBucket"), xml("Other")):
        assert isinstance(told(failure.read(answer(404, body))), errors.StoreError)


def test_a_range_beyond_the_end_is_a_damaged_artifact():
    err = told(failure.read(answer(416, xml("InvalidRange"))))
    assert isinstance(err, errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_CORRUPT


def test_nothing_of_the_request_is_shown():
    more = "<CanonicalRequest>x-amz-security-token:t0k3n</CanonicalRequest>"
    failed = failure.read(answer(403, xml("SignatureDoesNotMatch", "Signatures differ.", more)))
    assert "t0k3n" not in str(told(failed))
    assert "Signatures differ." in told(failed).message


@pytest.mark.parametrize("hidden", [["AKIA", "t0k3n"], None])
def test_a_message_that_repeats_the_key_is_not_shown(hidden):
    failed = failure.read(answer(403, xml("AccessDenied", "with t0k3n")))
    err = told(failed, hidden=hidden)
    assert "t0k3n" not in str(err)
    assert "403 AccessDenied" in err.message


def test_messages_are_short_plain_and_on_one_line():
    failed = failure.read(
        answer(403, xml("AccessDenied", "a\n\tb\x1b[31m &#34;c&#34; " + "d" * 999))
    )
    message = told(failed).message
    assert 'a b[31m "c" ddd' in message
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("code", ["x" * 65, "a b", "t0k3n+/=", ""])
def test_what_is_no_code_is_not_shown_as_one(code):
    failed = failure.read(answer(403, f"<Error><Code>{code}</Code></Error>"))
    assert failed.code == ""
    assert told(failed).message.endswith(": 403")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'Encountered object with invalid path: Path "a//b" contained empty',
            "two slashes in a row",
        ),
        ("Generic S3 error: Received non-partial response when range requested", "other bytes"),
        ("Generic S3 error: Requested 0..1, got 5..6", "other bytes"),
        ("Generic S3 error: Got invalid list response: x", "cannot be used"),
        ("entirely new", "cannot be used"),
    ],
)
def test_nonsense_is_not_believed_nor_asked_for_again(text, why):
    failed = failure.read(ClientError(f"{text}\n\nDebug source:\nGeneric {{ }}"))
    assert why in failed.why
    assert not failed.passing
    assert failed.short == failed.why


def test_no_credentials_anywhere():
    text = (
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1ms - \
Server returned non-2xx status code: 403 Forbidden: "
    )
    err = told(failure.read(ClientError(text)))
    assert "no credentials were found" in err.message
    assert "credentialsSecretRef" in err.hint


def test_our_own_limits():
    assert failure.read(TimeoutError()).passing
    assert failure.read(ConnectionResetError("cut")).passing
    assert "too long" in told(failure.read(TimeoutError())).message
