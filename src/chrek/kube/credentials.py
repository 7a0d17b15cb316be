"""Where the API server is and how to prove who we are.

In a cluster: the service account's token and CA, as the kubelet mounts them (the token is rotated,
so its file is read again every minute). For development and tests: a kubeconfig file named by
KUBECONFIG, with a client certificate or a token. Credential plugins are refused: an agent must not
run programs to authenticate.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
import ssl
import time
from collections.abc import Mapping
from typing import Any

import yaml

from chrek import errors

SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS = 60.0


@dataclasses.dataclass(slots=True)
class Credentials:
    """How to reach the API server.

    Attributes:
        server: URL without a trailing slash.
        tls: context with the server's CA and, if there is one, the client certificate.
        token_file: file with a bearer token, read again every minute.
        token: bearer token, when there is no file.
        namespace: the namespace that the credentials belong to.
    """

    server: str
    tls: ssl.SSLContext | None
    token_file: pathlib.Path | None = None
    token: str = ""
    namespace: str = "default"
    _read_at: float = -TOKEN_SECONDS

    def bearer(self) -> str:
        """The token to send, empty when a client certificate is enough."""
        if self.token_file and time.monotonic() - self._read_at >= TOKEN_SECONDS:
            try:
                self.token = self.token_file.read_text().strip()
            except OSError as err:
                if not self.token:
                    raise errors.ApiError(f"{self.token_file}: {err.strerror}") from err
            self._read_at = time.monotonic()
        return self.token


def credentials(environ: Mapping[str, str] | None = None) -> Credentials:
    """Credentials of this process: KUBECONFIG when it is set, else the service account.

    Raises:
        ConfigError: neither is there, or the kubeconfig cannot be used.
    """
    environ = os.environ if environ is None else environ
    if environ.get("KUBECONFIG"):
        return from_kubeconfig(pathlib.Path(environ["KUBECONFIG"].split(os.pathsep)[0]))
    return in_cluster(environ)


def in_cluster(
    environ: Mapping[str, str], *, directory: pathlib.Path = SERVICE_ACCOUNT
) -> Credentials:
    """Credentials of a pod's service account."""
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    port = environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise errors.ConfigError(
            "no API server: neither KUBECONFIG nor KUBERNETES_SERVICE_HOST is set",
            hint="set KUBECONFIG to a kubeconfig file, or run in a pod",
        )
    try:
        tls = lenient(ssl.create_default_context(cafile=os.fspath(directory / "ca.crt")))
        namespace = (directory / "namespace").read_text().strip()
    except OSError as err:
        raise errors.ConfigError(
            f"{directory}: {err.strerror}", hint="is automountServiceAccountToken false?"
        ) from err
    return Credentials(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        tls=tls,
        token_file=directory / "token",
        namespace=namespace,
    )


def from_kubeconfig(file: pathlib.Path) -> Credentials:
    """Credentials of the current context of a kubeconfig file."""
    try:
        raw = yaml.safe_load(file.read_text())
        context = _named(raw, "contexts", "context", raw["current-context"])
        cluster = _named(raw, "clusters", "cluster", context["cluster"])
        user = _named(raw, "users", "user", context["user"])
        tls = (
            tls_context(cluster, user, file.parent)
            if cluster["server"].startswith("https")
            else None
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, ssl.SSLError) as err:
        raise errors.ConfigError(f"{file}: cannot be used as a kubeconfig: {err!r}") from err
    if "exec" in user or "auth-provider" in user:
        raise errors.ConfigError(
            f"{file}: user {context['user']!r} authenticates with a plugin",
            hint="use a kubeconfig with a client certificate or a token",
        )
    token_file = user.get("tokenFile")
    return Credentials(
        server=cluster["server"].rstrip("/"),
        tls=tls,
        token_file=file.parent / token_file if token_file else None,
        token=user.get("token", ""),
        namespace=context.get("namespace", "default"),
    )


def _named(raw: Mapping[str, Any], plural: str, singular: str, name: str) -> dict[str, Any]:
    for entry in raw[plural]:
        if entry["name"] == name:
            found: dict[str, Any] = entry[singular]
            return found
    raise KeyError(f"{singular} {name!r}")


def tls_context(
    cluster: Mapping[str, Any], user: Mapping[str, Any], base: pathlib.Path
) -> ssl.SSLContext:
    """How a kubeconfig's cluster and user are known to each other; `base` is its folder."""
    ca = _pem(cluster, "certificate-authority", base)
    tls = lenient(ssl.create_default_context(cadata=ca.decode() if ca else None))
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = _pem(user, "client-certificate", base), _pem(user, "client-key", base)
    if certificate and key:
        load_certificate(tls, certificate + b"\n" + key)
    return tls


def lenient(tls: ssl.SSLContext) -> ssl.SSLContext:
    """Accept clusters' certificate authorities as every other Kubernetes client does.

    Python 3.13 refuses those without a key usage or an authority key identifier, which many
    clusters have, older ones of the large clouds among them. Names and signatures are verified.
    """
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return tls


def load_certificate(tls: ssl.SSLContext, pem: bytes) -> None:
    """Give a context its own certificate and key; connections made from now on use it.

    The ssl module reads them from files only: this one is in memory and nobody else's.
    """
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        tls.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _pem(section: Mapping[str, Any], key: str, base: pathlib.Path) -> bytes:
    if section.get(f"{key}-data"):
        return base64.b64decode(section[f"{key}-data"])
    return (base / section[key]).read_bytes() if section.get(key) else b""
