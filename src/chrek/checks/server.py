"""Checks of the server that will hold the store, and of what opens it.

Of Secrets only names of keys are told. Whether the server takes the credentials is for the agents
to find out, which ask it from where they will need it. Whether it answers at all is looked at from
here as well, and is a warning: a NetworkPolicy or a proxy may be for agents alone.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Sequence

from chrek import config, errors
from chrek.checks import report, settings
from chrek.kube import workstation
from chrek.remote import accesskey, uri

NEEDED = {
    "s3": (accesskey.ID, accesskey.SECRET),
    "oci": (".dockerconfigjson",),
}
"""Kind of store -> keys that its Secret of credentials must have."""
CREATED_BY = {
    "s3": f"generic {{name}} --from-literal={accesskey.ID}=... "
    f"--from-literal={accesskey.SECRET}=...",
    "oci": "docker-registry {name} --docker-server=... --docker-username=... --docker-password=...",
}
ENCRYPTION_KEY = "key"
CERTIFICATES_KEY = "ca.crt"
VALUES = "dynamo-operator.checkpoint.storage"
TIMEOUT_SECONDS = 5.0


def storage(
    cluster: workstation.Cluster, server: settings.Server, *, namespace: str
) -> Sequence[report.Outcome]:
    """What the values name exists, and the server answers."""
    trust = ssl.create_default_context()
    outcomes = [
        credentials(cluster, server, namespace=namespace),
        *certificates(cluster, server, trust, namespace=namespace),
        *encryption(cluster, server, namespace=namespace),
    ]
    try:
        url = address(server)
    except errors.ConfigError as err:
        return [*outcomes, report.failed("server", err.message, err.hint or "correct the values")]
    # Who cannot be verified for want of a certificate is not asked.
    if not url or report.failures(outcomes):
        return outcomes
    return [*outcomes, answer(url, server, trust)]


def address(server: settings.Server) -> str:
    """URL of the server; empty where its Secret or AWS says it.

    Raises:
        ConfigError: the values cannot be used.
    """
    if server.type == "oci":
        scheme = "http" if server.plainHttp else "https"
        return f"{scheme}://{uri.repository_place(server.uri).registry}"
    wanted = config.S3(uri=server.uri, endpoint=server.endpoint, plainHttp=server.plainHttp)
    return uri.bucket_place(wanted).endpoint


def credentials(
    cluster: workstation.Cluster, server: settings.Server, *, namespace: str
) -> report.Outcome:
    """The Secret with the credentials has what such a server needs."""
    name = "credentials"
    if not server.credentialsSecret:
        whose = {"s3": "those of the agents' own account", "oci": "none"}
        return report.ok(name, whose[server.type])
    return _secret(
        cluster,
        name,
        server.credentialsSecret,
        namespace=namespace,
        needed=NEEDED[server.type],
        create=CREATED_BY[server.type],
        value=f"{server.type}.credentialsSecretRef",
    )


def encryption(
    cluster: workstation.Cluster, server: settings.Server, *, namespace: str
) -> Sequence[report.Outcome]:
    """The Secret with the key exists; nothing when nothing is to be encrypted."""
    if not server.keySecret:
        return []
    found = _secret(
        cluster,
        "encryption",
        server.keySecret,
        namespace=namespace,
        needed=(ENCRYPTION_KEY,),
        create='generic {name} --from-literal=key="$(head -c 32 /dev/urandom | base64)"',
        value="encryption.keySecretRef",
    )
    return [found]


def certificates(
    cluster: workstation.Cluster,
    server: settings.Server,
    trust: ssl.SSLContext,
    *,
    namespace: str,
) -> Sequence[report.Outcome]:
    """The ConfigMap holds certificates, which `trust` gets; nothing when the values name none."""
    if not server.caConfigMap:
        return []
    name = "certificates"
    where = f"ConfigMap {namespace}/{server.caConfigMap}"
    hint = (
        f"run kubectl create configmap {server.caConfigMap} -n {namespace} "
        f"--from-file={CERTIFICATES_KEY}, or correct {VALUES}.{server.type}.caBundle"
    )
    found = cluster.get(workstation.path("v1", "configmaps", namespace, server.caConfigMap))
    if found is None:
        return [report.failed(name, f"{where}: not found", hint)]
    text = (found.get("data") or {}).get(CERTIFICATES_KEY)
    if not text:
        return [report.failed(name, f"{where} has no {CERTIFICATES_KEY}", hint)]
    try:
        # Bundles have names of authorities as comments, in any language.
        trust.load_verify_locations(cadata=text.encode("ascii", "replace").decode())
    except (ssl.SSLError, ValueError):
        text = f"{where}: {CERTIFICATES_KEY} cannot be read as certificates in PEM"
        return [report.failed(name, text, hint)]
    return [report.ok(name, where)]


def answer(url: str, server: settings.Server, trust: ssl.SSLContext) -> report.Outcome:
    """Whether anything at the server's address speaks HTTP; what it says does not matter."""
    name = "server"
    try:
        status = _asked(url, "/v2/" if server.type == "oci" else "/", trust)
    except (OSError, http.client.HTTPException) as err:
        return report.warning(
            name,
            f"{url} does not answer here: {str(err) or type(err).__name__}",
            f"correct {VALUES}.{server.type}, unless only agents can reach it",
        )
    return report.ok(name, f"{url} answers (HTTP {status})")


def _asked(url: str, path: str, trust: ssl.SSLContext) -> int:
    scheme, _, host = url.partition("://")
    connection = (
        http.client.HTTPSConnection(host, timeout=TIMEOUT_SECONDS, context=trust)
        if scheme == "https"
        else http.client.HTTPConnection(host, timeout=TIMEOUT_SECONDS)
    )
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def _secret(
    cluster: workstation.Cluster,
    name: str,
    secret: str,
    *,
    namespace: str,
    needed: Sequence[str],
    create: str,
    value: str,
) -> report.Outcome:
    """Whether a Secret has these keys, none of them empty."""
    where = f"Secret {namespace}/{secret}"
    found = cluster.get(workstation.path("v1", "secrets", namespace, secret))
    if found is None:
        return report.failed(
            name,
            f"{where}: not found",
            f"run kubectl create secret {create.format(name=secret)} -n {namespace}, "
            f"or correct {VALUES}.{value}",
        )
    data = found.get("data") or {}
    missing = [key for key in needed if not data.get(key)]
    there = ", ".join(sorted(key for key in data if data[key])) or "nothing"
    if missing:
        return report.failed(
            name,
            f"{where} has no {' and no '.join(missing)}; it has: {there}",
            f"add it to the Secret, or correct {VALUES}.{value}",
        )
    return report.ok(name, f"{where}: {', '.join(needed)}")
