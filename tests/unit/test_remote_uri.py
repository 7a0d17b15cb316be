"""Where a store is, as users write it."""

from __future__ import annotations

import string

import hypothesis
import pytest
from hypothesis import strategies

from chrek import config, errors
from chrek.remote import uri

ENDPOINT = "https://s3.example.com"

GOOD_BUCKETS = [
    # uri, endpoint, plainHttp -> endpoint, bucket, prefix
    ("s3://artifacts", "", False, ("", "artifacts", "")),
    ("s3://artifacts/", "", False, ("", "artifacts", "")),
    ("s3://artifacts/a/b_c.D-1", "", False, ("", "artifacts", "a/b_c.D-1")),
    ("s3://artifacts/a/", "", False, ("", "artifacts", "a")),
    ("s3://minio.example.com/b00/p", "", False, ("https://minio.example.com", "b00", "p")),
    ("s3://Minio.Example.com/b00", "", False, ("https://minio.example.com", "b00", "")),
    ("s3://minio:9000/b00/p", "", True, ("http://minio:9000", "b00", "p")),
    ("s3://minio:9000/b00/p", "", False, ("https://minio:9000", "b00", "p")),
    ("s3://10.0.0.1:9000/b00", "", True, ("http://10.0.0.1:9000", "b00", "")),
    ("s3://[fd00::1]:9000/b00", "", True, ("http://[fd00::1]:9000", "b00", "")),
    ("s3://[fd00::1]/b00", "", False, ("https://[fd00::1]", "b00", "")),
    ("s3://minio.example.com/a.b/p", "", False, ("https://minio.example.com", "a.b", "p")),
    ("s3://artifacts/p", ENDPOINT, False, (ENDPOINT, "artifacts", "p")),
    ("s3://a.dotted.bucket/p", ENDPOINT, False, (ENDPOINT, "a.dotted.bucket", "p")),
    ("s3://artifacts", f"{ENDPOINT}/", False, (ENDPOINT, "artifacts", "")),
    ("s3://artifacts", "http://minio:9000", True, ("http://minio:9000", "artifacts", "")),
    ("s3://artifacts/" + "p" * 512, "", False, ("", "artifacts", "p" * 512)),
]

BAD_BUCKETS = [
    # uri, endpoint, plainHttp, what the message and the hint must say
    ("", "", False, "it is empty", "s3://bucket/prefix"),
    ("artifacts/prefix", "", False, "does not start with s3://", "s3://bucket/prefix"),
    ("s3:/artifacts", "", False, "does not start with s3://", "s3://bucket/prefix"),
    ("s3:artifacts", "", False, "does not start with s3://", "s3://bucket/prefix"),
    ("S3://artifacts", "", False, "does not start with s3://", "s3://bucket/prefix"),
    ("https://artifacts.s3.amazonaws.com", "", False, "does not start with s3://", "s3://bucket"),
    ("oci://registry/repository", "", False, "does not start with s3://", "s3://bucket/prefix"),
    ("s3://", "", False, "nothing follows the scheme", "s3://bucket/prefix"),
    ("s3:///", "", False, "nothing follows the scheme", "s3://bucket/prefix"),
    ("s3:///artifacts", "", False, "two slashes", "s3://bucket/prefix"),
    ("s3://artifacts//prefix", "", False, "two slashes", "s3://bucket/prefix"),
    ("s3://artifacts/prefix//", "", False, "two slashes", "s3://bucket/prefix"),
    ("s3://artifacts?region=x", "", False, "it has a '?'", "settings of their own"),
    ("s3://artifacts/p#x", "", False, "it has a '#'", "settings of their own"),
    ("s3://artifacts/a b", "", False, "a space", "letters, digits"),
    ("s3://artifacts/a%20b", "", False, "an escape", "letters, digits"),
    ("s3://artifacts/a\\b", "", False, "another character", "letters, digits"),
    ("s3://artifacts/a\nb", "", False, "another character", "letters, digits"),
    ("s3://artifacts/präfix", "", False, "another character", "letters, digits"),
    ("s3://artifacts/a+b", "", False, "'a+b' cannot be a part of the prefix", "letters, digits"),
    ("s3://artifacts/..", "", False, "'..' cannot be a part", "not `.` or `..` alone"),
    ("s3://artifacts/./p", "", False, "'.' cannot be a part", "not `.` or `..` alone"),
    ("s3://artifacts/" + "p" * 513, "", False, "has 513 characters", "at most 512"),
    ("s3://ab", "", False, "'ab' is no name of a bucket", "3 to 63"),
    ("s3://" + "b" * 64, "", False, "is no name of a bucket", "3 to 63"),
    ("s3://Artifacts", "", False, "'Artifacts' is no name of a bucket", "small letters"),
    ("s3://arti_facts", "", False, "'arti_facts' is no name of a bucket", "small letters"),
    ("s3://-artifacts", "", False, "'-artifacts' is no name of a bucket", "at both ends"),
    ("s3://10.0.0.1", ENDPOINT, False, "'10.0.0.1' is no name of a bucket", "small letters"),
    ("s3://a..b/p", ENDPOINT, False, "'a..b' is no name of a bucket", "small letters"),
    ("s3://my.bucket", "", False, "no bucket follows", "a bucket with a dot needs it"),
    ("s3://minio:9000", "", False, "no bucket follows", "set endpoint"),
    ("s3://my.bucket/P", "", False, "'P' is no name of a bucket", "a bucket with a dot needs it"),
    ("s3://minio:0/b00", "", False, "'0' is no port", "from 1 to 65535"),
    ("s3://minio:65536/b00", "", False, "'65536' is no port", "from 1 to 65535"),
    ("s3://minio:x/b00", "", False, "'x' is no port", "from 1 to 65535"),
    ("s3://minio:/b00", "", False, "'' is no port", "from 1 to 65535"),
    ("s3://-x.example.com/b00", "", False, "'-x.example.com' is no host", "host:port"),
    ("s3://fd00::1/b00", "", False, "is no host", "IPv6 in brackets"),
    ("s3://[fd00::1/b00", "", False, "is no host", "IPv6 in brackets"),
    ("s3://artifacts", "", True, "AWS is meant", "set endpoint, or leave plainHttp out"),
    ("s3://artifacts", "s3.example.com", False, "no http: or https: URL", "https://host"),
    ("s3://artifacts", "ftp://s3.example.com", False, "no http: or https: URL", "https://host"),
    ("s3://artifacts", "https://", False, "'' is no host", "host:port"),
    ("s3://artifacts", f"{ENDPOINT}/bucket", False, "'bucket'", "the prefix in uri"),
    ("s3://artifacts", f"{ENDPOINT}?x", False, "it has a '?'", "leave out"),
    ("s3://artifacts", "http://s3.example.com", False, "unencrypted", "set plainHttp: true"),
    ("s3://artifacts", ENDPOINT, True, "plainHttp is set", "leave plainHttp out"),
    ("s3://minio:9000/b00", ENDPOINT, False, "a bucket is expected", "leave out endpoint"),
    ("s3://s3.example.com/b00", ENDPOINT, False, "a bucket is expected", "leave out endpoint"),
]

GOOD_REPOSITORIES = [
    ("oci://registry.example.com/checkpoints", ("registry.example.com", "checkpoints")),
    ("oci://Registry.example.com:5000/a/b-c/", ("registry.example.com:5000", "a/b-c")),
    ("oci://registry/checkpoints", ("registry", "checkpoints")),
    ("oci://localhost/x/y", ("localhost", "x/y")),
    ("oci://[::1]:5000/x", ("[::1]:5000", "x")),
    ("oci://docker.io/me/checkpoints", ("docker.io", "me/checkpoints")),
]

BAD_REPOSITORIES = [
    ("", "it is empty", "oci://registry/repository"),
    ("registry.example.com/x", "does not start with oci://", "oci://registry/repository"),
    ("docker://registry/x", "does not start with oci://", "oci://registry/repository"),
    ("oci://", "nothing follows", "oci://registry/repository"),
    ("oci://registry", "no repository follows 'registry'", "oci://registry/repository"),
    ("oci://registry//x", "two slashes", "oci://registry/repository"),
    ("oci://registry/x:latest", "a tag or a digest", "oci://registry/repository"),
    ("oci://registry/x@sha256:" + "0" * 64, "a tag or a digest", "oci://registry/repository"),
    ("oci://registry/X", "'X' is no repository", "small letters"),
    ("oci://registry/a/../b", "is no repository", "small letters"),
    ("oci://registry/a?b", "it has a '?'", "leave out"),
    ("oci://regi_stry/x", "'regi_stry' is no host", "host:port"),
    ("oci://registry:70000/x", "'70000' is no port", "from 1 to 65535"),
    ("oci://docker.io/checkpoints", "without an owner", "oci://docker.io/<owner>/checkpoints"),
    ("oci://registry/" + "a" * 300, "longer than 255", "oci://registry/repository"),
]

CREDENTIALS = [
    "s3://AKIA:hunter2@artifacts/p",
    "https://AKIA:hunter2@s3.example.com/artifacts",
    "AKIA:hunter2@artifacts",
    "s3://artifacts?key=hunter2",
    "s3://artifacts#hunter2",
]


def settings(text, endpoint="", plain=False):
    return config.S3(uri=text, endpoint=endpoint, plainHttp=plain)


def refusal(one, *args, **kwargs):
    with pytest.raises(errors.ConfigError) as caught:
        one(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize(("text", "endpoint", "plain", "expected"), GOOD_BUCKETS)
def test_a_bucket_is_found(text, endpoint, plain, expected):
    place = uri.bucket_place(settings(text, endpoint, plain))
    assert (place.endpoint, place.bucket, place.prefix) == expected


@pytest.mark.parametrize(("text", "endpoint", "plain", "why", "hint"), BAD_BUCKETS)
def test_a_bad_bucket_is_refused_with_a_reason(text, endpoint, plain, why, hint):
    err = refusal(uri.bucket_place, settings(text, endpoint, plain), default_endpoint="")
    assert why in err.message
    assert hint in err.hint
    assert err.message.startswith("storage.s3.")


@pytest.mark.parametrize(("text", "expected"), GOOD_REPOSITORIES)
def test_a_repository_is_found(text, expected):
    place = uri.repository_place(text)
    assert (place.registry, place.repository) == expected


@pytest.mark.parametrize(("text", "why", "hint"), BAD_REPOSITORIES)
def test_a_bad_repository_is_refused_with_a_reason(text, why, hint):
    err = refusal(uri.repository_place, text)
    assert why in err.message
    assert hint in err.hint
    assert err.message.startswith("storage.oci.uri ")


@pytest.mark.parametrize("text", CREDENTIALS)
def test_no_message_shows_credentials(text):
    for err in (
        refusal(uri.bucket_place, settings(text)),
        refusal(uri.bucket_place, settings("s3://artifacts", text)),
        refusal(uri.repository_place, text.replace("s3://", "oci://")),
    ):
        assert "hunter2" not in str(err)


def test_the_secrets_endpoint_counts_last():
    other = "https://other.example.com"
    for text, endpoint, expected in (
        ("s3://artifacts/p", "", other),
        ("s3://artifacts/p", ENDPOINT, ENDPOINT),
        ("s3://minio.example.com/artifacts/p", "", "https://minio.example.com"),
    ):
        place = uri.bucket_place(settings(text, endpoint), default_endpoint=other)
        assert (place.endpoint, place.bucket, place.prefix) == (expected, "artifacts", "p")


def test_a_wrong_endpoint_of_the_secret_is_named():
    err = refusal(uri.bucket_place, settings("s3://artifacts"), default_endpoint="minio")
    assert err.message.startswith("AWS_ENDPOINT_URL of the Secret 'minio'")


def test_plain_http_is_taken_on_trust_while_the_endpoint_is_not_known():
    assert uri.bucket_place(settings("s3://artifacts", plain=True)).endpoint == ""


@hypothesis.given(strategies.text(string.printable + "äß\u2028", max_size=80))
def test_whatever_is_accepted_can_be_put_into_a_url(text):
    try:
        place = uri.bucket_place(settings(f"s3://{text}"))
    except errors.ConfigError:
        return
    allowed = set(string.ascii_letters + string.digits + "._-/")
    assert set(place.bucket + place.prefix) <= allowed
    assert set(place.endpoint) <= allowed | set(":[]")
    assert not {"", ".", ".."} & set(f"{place.bucket}/{place.prefix or 'x'}".split("/"))
