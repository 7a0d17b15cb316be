"""A real S3 server, versitygw, over a temporary folder.

    with s3_server.running(tmp_path) as server:
        server.make_bucket("artifacts")
        one = bucket.Bucket(server.settings("artifacts/prefix"))

Buckets are folders and objects files below `data`, where a test may look at them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import pathlib
import sys
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chrek import config
from chrek.remote import connection
from store import daemon

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from devcluster import cache, tools

ACCESS_KEY_ID = "chrek-tests"
SECRET_ACCESS_KEY = "not-known-to-anybody-else"
QUICK = connection.Limits(
    deadline_seconds=5, silence_seconds=2, connect_seconds=1, pause_seconds=0.02
)
"""For clients that meet failures."""
DAY = datetime.timedelta(days=1)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs."""

    process: daemon.Daemon
    folder: pathlib.Path
    data: pathlib.Path
    access_key_id: str
    secret_access_key: str
    tls: bool

    @property
    def host(self) -> str:
        """`127.0.0.1:port`."""
        return self.process.address

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.host}"

    @property
    def authority(self) -> pathlib.Path:
        """The certificate that clients must know, in PEM."""
        return self.folder / "authority.pem"

    @property
    def argv(self) -> list[str]:
        """Its command line."""
        program = tools.s3_server(cache.Cache.from_environment())
        found = [str(program), f"--port={self.host}", "--quiet"]
        if self.tls:
            pair = (self.folder / "server.pem", self.folder / "server.key")
            found += [f"--cert={pair[0]}", f"--key={pair[1]}"]
        return [*found, "posix", str(self.data)]

    def read_only(self) -> contextlib.AbstractContextManager[None]:
        """While inside, nobody may write."""
        program, *rest = self.argv
        return self.process.replaced([program, "--readonly", *rest])

    def make_bucket(self, name: str) -> None:
        (self.data / name).mkdir()

    def objects(self, bucket: str) -> list[str]:
        """The names of all objects in a bucket."""
        base = self.data / bucket
        return sorted(str(one.relative_to(base)) for one in base.rglob("*") if one.is_file())

    def secret(self, name: str = "secret", **changes: str) -> str:
        """The path of a mounted Secret with the server's credentials; empty values are left out."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        key = {"AWS_ACCESS_KEY_ID": self.access_key_id}
        key["AWS_SECRET_ACCESS_KEY"] = self.secret_access_key
        for file, text in {**key, **changes}.items():
            one = path / file
            if not text:
                one.unlink(missing_ok=True)
            # Whoever reads it now must not find it empty.
            elif not one.exists() or one.read_text() != text:
                one.write_text(text)
        return str(path)

    def settings(self, place: str, *, host: str = "", credentials: str = "") -> config.S3:
        """The configuration for `bucket/prefix`.

        Args:
            place: bucket and prefix.
            host: another than the server's own, such as a proxy's.
            credentials: path of another Secret.
        """
        return config.S3(
            uri=f"s3://{host or self.host}/{place}",
            plainHttp=not self.tls,
            caBundlePath=str(self.authority) if self.tls else "",
            credentialsPath=credentials or self.secret(),
        )


@contextlib.contextmanager
def running(
    folder: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    access_key_id: str = ACCESS_KEY_ID,
    secret_access_key: str = SECRET_ACCESS_KEY,
    tls: bool = False,
) -> Iterator[Server]:
    """Start a server, and end it.

    Args:
        folder: for its log and certificates; made if it is not there.
        data: where it keeps buckets; None: in `folder`.
        access_key_id: of its only user.
        secret_access_key: the same.
        tls: speak HTTPS, with a certificate for 127.0.0.1 and localhost of an authority of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = data or folder / "data"
    data.mkdir(exist_ok=True)
    if tls:
        _make_certificates(folder)
    key = {"ROOT_ACCESS_KEY_ID": access_key_id, "ROOT_SECRET_ACCESS_KEY": secret_access_key}
    process = daemon.Daemon(folder / "log", key)
    server = Server(process, folder, data, access_key_id, secret_access_key, tls)
    with process.running(server.argv):
        yield server


def _make_certificates(folder: pathlib.Path) -> None:
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "S3 server of the tests")])
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    root = (
        _certificate(issuer, issuer, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority, hashes.SHA256())
    )
    leaf = (
        _certificate(subject, issuer, server)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority, hashes.SHA256())
    )
    for name, one in (("authority.pem", root), ("server.pem", leaf)):
        (folder / name).write_bytes(one.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        server.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )
