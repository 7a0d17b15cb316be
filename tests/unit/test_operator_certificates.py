"""The webhook's certificates over the years, checked by a TLS handshake."""

import datetime
import ssl

import pytest
from cryptography import x509

from chrek.kube import credentials
from chrek.operator import certificates

NAMES = certificates.service_names("chrek-webhook", "ns")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def after(days, bundle):
    return certificates.renewed(bundle, NAMES, now=START + days * DAY)


def authorities(bundle):
    return x509.load_pem_x509_certificates(bundle.authorities)


def handshake(bundle, trusted, name=NAMES[0]):
    """A TLS handshake in memory between the webhook and the API server."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    credentials.load_certificate(server, bundle.certificate + bundle.key)
    client = ssl.create_default_context(cadata=trusted.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    return not ends


@pytest.fixture(scope="module")
def first():
    return certificates.renewed(None, NAMES, now=datetime.datetime.now(datetime.UTC))


@pytest.fixture(scope="module")
def old():
    return certificates.renewed(None, NAMES, now=START)


@pytest.mark.parametrize("name", NAMES)
def test_the_api_server_trusts_it(first, name):
    assert handshake(first, first.authorities, name)


def test_another_name_is_not_trusted(first):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(first, first.authorities, "evil.ns.svc")


def test_a_secret_holds_it(first):
    assert certificates.from_data(first.data()) == first


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: {},
        lambda data: {**data, "tls.crt": ""},
        lambda data: {**data, "tls.key": "bm90IGEga2V5"},
        lambda data: {**data, "tls.key": data["ca.key"]},
        lambda data: {**data, "ca.crt": data["tls.crt"]},
        lambda data: {k: v for k, v in data.items() if k != "ca.key"},
        lambda data: {**data, "ca.key": "%%%"},
    ],
)
def test_a_damaged_secret_is_no_bundle(first, damage):
    assert certificates.from_data(damage(first.data())) is None


def test_nothing_is_renewed_before_its_time(old):
    assert after(0, old) is None
    assert after(119, old) is None


def test_the_serving_certificate_is_renewed_at_two_thirds(old):
    newer = after(121, old)
    assert newer.authorities == old.authorities
    assert newer.certificate != old.certificate
    assert certificates.from_data(newer.data()) == newer
    assert after(121, newer) is None


def test_a_new_authority_overlaps_with_the_old_one(old):
    newer = after(490, old)
    assert len(authorities(newer)) == 2
    assert authorities(newer)[1] == authorities(old)[0]
    assert after(490, newer) is None
    gone = after(731, newer)
    assert authorities(gone)[0] == authorities(newer)[0]
    assert len(authorities(gone)) == 1, "an expired authority is not trusted any longer"


def test_replicas_with_the_old_certificate_stay_trusted_while_another_renews(first):
    now = datetime.datetime.now(datetime.UTC)
    newer = certificates.renewed(None, NAMES, now=now)
    both = newer.authorities + first.authorities
    assert handshake(first, both)
    assert handshake(newer, both)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(newer, first.authorities)


def test_another_service_name_needs_another_certificate(old):
    names = certificates.service_names("renamed", "ns")
    newer = certificates.renewed(old, names, now=START)
    assert newer.authorities == old.authorities
    assert newer.certificate != old.certificate


def test_everything_expired_while_the_operator_was_down(old):
    newer = after(4000, old)
    assert len(authorities(newer)) == 1
    assert authorities(newer) != authorities(old)
