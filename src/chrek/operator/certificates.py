"""The webhook's certificates: an own CA and a serving certificate, in one Secret.

Each is renewed at two thirds of its life. A new CA is added to the bundle before anything is served
that it signed, and the old one stays in the bundle until it expires: no moment exists in which the
API server meets a certificate that it cannot check, whichever replica answers.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

CA_LIFE = datetime.timedelta(days=730)
SERVING_LIFE = datetime.timedelta(days=180)
SKEW = datetime.timedelta(hours=1)

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """Everything that the Secret holds, as PEM.

    Attributes:
        authorities: CA certificates that clients shall trust, the signing one first.
        authority_key: key of the signing CA.
        certificate: serving certificate.
        key: its key.
    """

    authorities: bytes
    authority_key: bytes
    certificate: bytes
    key: bytes

    def data(self) -> dict[str, str]:
        """The Secret's `data`."""
        return {
            "ca.crt": base64.b64encode(self.authorities).decode(),
            "ca.key": base64.b64encode(self.authority_key).decode(),
            "tls.crt": base64.b64encode(self.certificate).decode(),
            "tls.key": base64.b64encode(self.key).decode(),
        }


def from_data(data: Mapping[str, str] | None) -> Bundle | None:
    """The bundle in a Secret's `data`, None when it is not one."""
    try:
        found = {k: base64.b64decode((data or {})[k]) for k in ("ca.crt", "ca.key")}
        found |= {k: base64.b64decode((data or {})[k]) for k in ("tls.crt", "tls.key")}
        bundle = Bundle(found["ca.crt"], found["ca.key"], found["tls.crt"], found["tls.key"])
        _check(bundle)
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return None
    return bundle


def service_names(service: str, namespace: str) -> list[str]:
    """DNS names by which the API server calls the webhook."""
    return [
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}.svc.cluster.local",
        f"{service}.{namespace}",
    ]


def renewed(
    bundle: Bundle | None, dns_names: Sequence[str], *, now: datetime.datetime
) -> Bundle | None:
    """The bundle to use from now on, None when the present one is good.

    Args:
        bundle: the present one.
        dns_names: names that the serving certificate must have.
        now: the time, in UTC.
    """
    if bundle is None:
        key, certificate = _authority(now)
        return _served([certificate], key, dns_names, now)
    authorities = x509.load_pem_x509_certificates(bundle.authorities)
    kept = [authority for authority in authorities if authority.not_valid_after_utc > now]
    if not kept or kept[0] != authorities[0] or _due(kept[0], now):
        key, certificate = _authority(now)
        return _served([certificate, *kept[:2]], key, dns_names, now)
    serving = x509.load_pem_x509_certificate(bundle.certificate)
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if _due(serving, now) or set(names.get_values_for_type(x509.DNSName)) != set(dns_names):
        return _served(kept, _key(bundle.authority_key), dns_names, now)
    return None


def _check(bundle: Bundle) -> None:
    """Whether the keys belong to the certificates and the CA signed the serving one."""
    authority = x509.load_pem_x509_certificates(bundle.authorities)[0]
    serving = x509.load_pem_x509_certificate(bundle.certificate)
    for key, certificate in (
        (bundle.authority_key, authority),
        (bundle.key, serving),
    ):
        if _key(key).public_key() != certificate.public_key():
            raise ValueError("key and certificate do not belong together")
    serving.verify_directly_issued_by(authority)
    serving.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def _due(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now < start or now >= start + (end - start) * 2 / 3


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic curve key")
    return key


def _authority(now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, "chrek webhook CA")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    public = key.public_key()
    certificate = (
        _builder(name, name, public, now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _served(
    authorities: Sequence[x509.Certificate],
    authority_key: ec.EllipticCurvePrivateKey,
    dns_names: Sequence[str],
    now: datetime.datetime,
) -> Bundle:
    """A bundle with a fresh serving certificate of the first authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, "chrek webhook")])
    public = authority_key.public_key()
    certificate = (
        _builder(subject, authorities[0].subject, key.public_key(), now, SERVING_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names]),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Bundle(
        authorities=b"".join(authority.public_bytes(pem) for authority in authorities),
        authority_key=_pem(authority_key),
        certificate=certificate.public_bytes(pem),
        key=_pem(key),
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now - SKEW + life)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
