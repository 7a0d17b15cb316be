"""What is said of a bucket, of a real server, when something is wrong with it."""

from __future__ import annotations

import pathlib
import random

import pytest

from chrek import config, errors
from chrek.remote import bucket, connection
from fakes import bad_s3
from store import s3_server

pytestmark = pytest.mark.system
AT_ONCE = connection.Limits(deadline_seconds=0.1, silence_seconds=2, connect_seconds=1)


async def refusal(settings: config.S3) -> errors.ChrekError:
    """What preflight says."""
    with pytest.raises(errors.StoreError) as caught:
        await bucket.Bucket(settings, limits=AT_ONCE).check()
    return caught.value


async def test_preflight_leaves_nothing(
    s3: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    await one.check()
    assert s3.objects(home) == []


async def test_a_server_without_conditional_writes_is_refused(
    s3: s3_server.Server, home: str, behind: bucket.Bucket, bad: bad_s3.Proxy
) -> None:
    bad.fail(method="PUT", unconditional=True)
    with pytest.raises(errors.StoreError, match="ignores conditional writes"):
        await behind.check()
    assert s3.objects(home) == []


@pytest.mark.parametrize(
    ("method", "part", "permission"),
    [
        ("PUT", "", "s3:PutObject"),
        ("GET", "/checks/", "s3:GetObject"),
        ("GET", "list-type", "s3:ListBucket"),
        ("DELETE", "", "s3:DeleteObject"),
    ],
)
async def test_preflight_names_the_permission_that_is_missing(
    behind: bucket.Bucket, bad: bad_s3.Proxy, method: str, part: str, permission: str
) -> None:
    bad.fail(method=method, part=part, status=403, code="AccessDenied", message="Access Denied.")
    with pytest.raises(errors.StoreError) as caught:
        await behind.check()
    assert permission in str(caught.value.hint)
    assert "403 AccessDenied: Access Denied." in caught.value.message


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (400, "ExpiredToken", "renew AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "synchronize"),
        (301, "PermanentRedirect", "set storage.s3.region"),
        (404, "", "an S3 server"),
    ],
)
async def test_preflight_explains_what_the_server_answers(
    s3: s3_server.Server, bad: bad_s3.Proxy, home: str, status: int, code: str, hint: str
) -> None:
    bad.fail(status=status, code=code)
    err = await refusal(s3.settings(home, host=bad.host))
    assert hint in str(err.hint)
    assert f"bucket {home} at http://{bad.host}" in err.message


@pytest.mark.parametrize(
    ("change", "code", "hint"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "404 XAdminUserNotFound", "AWS_ACCESS_KEY_ID"),
        (
            {"AWS_SECRET_ACCESS_KEY": "wr0ng"},
            "403 SignatureDoesNotMatch",
            "AWS_SECRET_ACCESS_KEY",
        ),
        ({"AWS_SESSION_TOKEN": "t0k3n"}, "400 InvalidToken", "AWS_SESSION_TOKEN"),
        ({"AWS_REGION": "eu-west-1"}, "400 AuthorizationHeaderMalformed", "region to us-east-1"),
    ],
)
async def test_preflight_explains_what_is_wrong_with_the_secret(
    s3: s3_server.Server, home: str, change: dict[str, str], code: str, hint: str
) -> None:
    settings = s3.settings(home, credentials=s3.secret(f"wrong-{home}", **change))
    err = await refusal(settings)
    assert code in err.message
    assert hint in str(err.hint)
    for text in (s3.secret_access_key, s3.access_key_id, "wr0ng", "t0k3n"):
        assert text not in str(err)


async def test_preflight_explains_a_bucket_that_is_missing(s3: s3_server.Server) -> None:
    err = await refusal(s3.settings("missing"))
    assert f"bucket missing at {s3.url}: put checks/" in err.message
    assert "404 NoSuchBucket" in err.message
    assert "make the bucket" in str(err.hint)


@pytest.mark.parametrize(
    ("host", "why"),
    [("127.0.0.1:1", "refuses connections"), ("missing.invalid:9000", "name is not known")],
)
async def test_preflight_explains_a_server_that_is_not_there(
    s3: s3_server.Server, host: str, why: str
) -> None:
    err = await refusal(s3.settings("artifacts", host=host))
    assert f"bucket artifacts at http://{host}" in err.message
    assert why in err.message


async def test_a_secret_that_is_corrected_is_used_at_once(s3: s3_server.Server, home: str) -> None:
    path = s3.secret(f"corrected-{home}", AWS_SECRET_ACCESS_KEY="wr0ng")
    one = bucket.Bucket(s3.settings(home, credentials=path), limits=s3_server.QUICK)
    with pytest.raises(errors.StoreError):
        await one.check()
    s3.secret(f"corrected-{home}")
    await one.check()


async def test_tls(s3: s3_server.Server, tmp_path: pathlib.Path) -> None:
    with s3_server.running(tmp_path / "tls", tls=True) as safe:
        safe.make_bucket("artifacts")
        settings = safe.settings("artifacts/p")
        one = bucket.Bucket(settings, limits=s3_server.QUICK)
        await one.check()
        data = random.randbytes(1 << 20)
        pack = await one.put_pack("", data)
        assert await one.read_pack("", pack.name, 0, len(data)) == data
        unknown = config.S3(uri=settings.uri, credentialsPath=settings.credentialsPath)
        err = await refusal(unknown)
        assert "its certificate is of an authority that is not known" in err.message
        assert "storage.s3.caBundle" in str(err.hint)
        assert not err.retryable
    err = await refusal(config.S3(uri=f"s3://{s3.host}/x00", credentialsPath=s3.secret()))
    assert "it does not speak TLS" in err.message
    assert "plainHttp" in str(err.hint)
