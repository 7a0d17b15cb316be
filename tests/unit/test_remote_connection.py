"""How a bucket is reached."""

from __future__ import annotations

import datetime

import pytest

from chrek import config, errors
from chrek.remote import connection

LIMITS = connection.Limits(
    deadline_seconds=10, silence_seconds=3, connect_seconds=1, bytes_per_second=1 << 20
)
PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.mkdir()
    (path / "AWS_ACCESS_KEY_ID").write_text("me")
    (path / "AWS_SECRET_ACCESS_KEY").write_text("hunter2")
    return path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


def options(*, reads=True, **settings):
    one = connection.Connection.of(config.S3(**{"uri": "s3://artifacts/p", **settings}))
    return one.store_options(LIMITS, reads=reads)


def test_aws_is_asked_by_the_buckets_own_name():
    found = options(region="eu-central-1")
    assert found["endpoint"] == "https://artifacts.s3.eu-central-1.amazonaws.com"
    assert found["virtual_hosted_style_request"] is True
    assert found["client_options"]["allow_http"] is False
    assert found["prefix"] == "p"
    assert "credential_provider" not in found
    assert options(region="cn-north-1")["endpoint"].endswith(".cn-north-1.amazonaws.com.cn")


def test_another_server_is_asked_by_path():
    found = options(uri="s3://minio:9000/artifacts", plainHttp=True)
    assert found["endpoint"] == "http://minio:9000"
    assert found["virtual_hosted_style_request"] is False
    assert found["client_options"]["allow_http"] is True
    assert found["prefix"] is None
    assert found["region"] == "us-east-1"


def test_regions_have_an_order(secret, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "in-environment")
    assert options()["region"] == "in-environment"
    assert options(credentialsPath=str(secret))["region"] == "in-environment"
    (secret / "AWS_REGION").write_text("in-secret")
    assert options(credentialsPath=str(secret))["region"] == "in-secret"
    assert options(credentialsPath=str(secret), region="said")["region"] == "said"


@pytest.mark.parametrize("region", ["EU", "a.evil.example.com/", "x" * 33])
def test_a_region_cannot_lead_elsewhere(region):
    with pytest.raises(errors.ConfigError, match="is no region"):
        options(region=region)


def test_the_environments_endpoint_counts_only_without_a_secret(secret, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://environment.example.com")
    assert options()["endpoint"] == "https://environment.example.com"
    for name in ("endpoint", "aws_endpoint_url_s3"):
        found = options(credentialsPath=str(secret))[name]
        assert found == "https://artifacts.s3.us-east-1.amazonaws.com"
    (secret / "AWS_ENDPOINT_URL").write_text("https://secret.example.com")
    assert options(credentialsPath=str(secret))["endpoint"] == "https://secret.example.com"


def test_a_secret_without_a_key_is_refused_at_once(secret):
    (secret / "AWS_SECRET_ACCESS_KEY").unlink()
    with pytest.raises(errors.ConfigError, match="there is no AWS_SECRET_ACCESS_KEY"):
        options(credentialsPath=str(secret))


def test_authorities_are_read(tmp_path):
    path = tmp_path / "ca.crt"
    with pytest.raises(errors.ConfigError, match=r"ca\.crt: No such file"):
        options(caBundlePath=str(path))
    path.write_text("no certificate")
    with pytest.raises(errors.ConfigError, match=r"ca\.crt: it holds no certificate"):
        options(caBundlePath=str(path))
    path.write_text(PEM)
    assert options(caBundlePath=str(path))["client_options"]["root_certificate"] == PEM.encode()
    assert "root_certificate" not in options()["client_options"]


def test_only_reads_are_repeated_by_the_client_and_limited_by_silence():
    def seconds(value):
        return datetime.timedelta(seconds=value)

    reads, writes = options(reads=True), options(reads=False)
    assert reads["retry_config"]["max_retries"] == connection.REPEATS
    assert writes["retry_config"]["max_retries"] == 0
    assert reads["client_options"]["read_timeout"] == seconds(3)
    assert "read_timeout" not in writes["client_options"]
    for one in (reads, writes):
        assert one["retry_config"]["backoff"]["init_backoff"] == seconds(0.25)
        assert one["client_options"]["connect_timeout"] == seconds(1)
        assert one["client_options"]["timeout"] == seconds(1 + 3 + 64)


def test_the_longest_time_grows_with_what_is_moved():
    assert LIMITS.seconds(0) == 4
    assert LIMITS.seconds(10 << 20) == 14
    assert LIMITS.within(5).deadline_seconds == 5
    assert LIMITS.within(50).deadline_seconds == 10
    usual = connection.Limits()
    for attempt, longest in ((0, 0.5), (1, 1), (5, 16), (99, 16)):
        assert {longest / 2 <= usual.pause(attempt) <= longest for _ in range(50)} == {True}
    assert usual.seconds(connection.LARGEST_BYTES) > 500, "a 64 MiB pack over a slow line"
