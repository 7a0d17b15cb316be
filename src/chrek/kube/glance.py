"""Names of objects in a fraction of a second, for the completion of command lines.

Importing the official client takes longer than a person waits for a key, and `chrek.kube.client`
needs an event loop. This one asks once, over the standard library, for the metadata of objects
alone. It knows certificates and tokens; `plain` says when a kubeconfig needs more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Any

import yaml

from chrek import errors
from chrek.kube import credentials

MOST = 1000
"""Names in one answer: nobody reads more."""
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json"

Object = dict[str, Any]

_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""What a kubeconfig names relative to itself."""
_CLUSTER = {
    *("server", "certificate-authority", "certificate-authority-data"),
    *("insecure-skip-tls-verify", "disable-compression", "extensions"),
}
_USER = {
    *("client-certificate", "client-certificate-data", "client-key", "client-key-data"),
    *("token", "tokenFile", "extensions"),
}
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@dataclasses.dataclass
class Config:
    """Kubeconfig files together: what stands in an earlier one counts, as kubectl has it."""

    current: str = ""
    contexts: dict[str, Object] = dataclasses.field(default_factory=dict)
    clusters: dict[str, Object] = dataclasses.field(default_factory=dict)
    users: dict[str, Object] = dataclasses.field(default_factory=dict)

    def context(self, name: str | None) -> Object:
        """A context, by default the one in use; empty when there is none."""
        return self.contexts.get(name or self.current, {})


def read(environ: Mapping[str, str]) -> Config:
    """The files of KUBECONFIG, or ~/.kube/config; those that cannot be read are left out."""
    named = [one for one in environ.get("KUBECONFIG", "").split(os.pathsep) if one]
    config = Config()
    for file in named or [os.path.expanduser("~/.kube/config")]:
        # One that is no kubeconfig is as good as none.
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
            _add(config, pathlib.Path(file))
    return config


def _add(config: Config, file: pathlib.Path) -> None:
    # The loader in C is ten times as fast, and some kubeconfigs have hundreds of clusters.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    raw = yaml.load(file.read_text(), Loader=loader)  # noqa: S506 - safe, both
    config.current = config.current or str(raw.get("current-context") or "")
    for kind, known in (
        ("context", config.contexts),
        ("cluster", config.clusters),
        ("user", config.users),
    ):
        for entry in raw.get(f"{kind}s") or []:
            found = dict(entry.get(kind) or {})
            for key in _FILES:
                if found.get(key):
                    found[key] = str(file.parent / found[key])
            known.setdefault(str(entry.get("name")), found)


def plain(
    config: Config, context: str | None, environ: Mapping[str, str]
) -> credentials.Credentials | None:
    """Where the API server is and who asks; None where this needs the official client.

    That is so for credential plugins, proxies, and whatever else a kubeconfig may say.

    Raises:
        ConfigError: there is no such context, or it cannot be used.
    """
    if context is None and not environ.get("KUBECONFIG") and "KUBERNETES_SERVICE_HOST" in environ:
        return credentials.in_cluster(environ)
    chosen = config.context(context)
    cluster, user = (
        known.get(str(chosen.get(kind)))
        for kind, known in (("cluster", config.clusters), ("user", config.users))
    )
    if cluster is None or user is None:
        raise errors.ConfigError(f"no kubeconfig has a usable context {context or config.current}")
    if cluster.keys() - _CLUSTER or user.keys() - _USER or any(map(environ.get, _PROXIES)):
        return None
    server = str(cluster.get("server", "")).rstrip("/")
    token_file = user.get("tokenFile")
    try:
        secure = server.startswith("https")
        tls = credentials.tls_context(cluster, user, pathlib.Path("/")) if secure else None
    except (OSError, ValueError) as err:
        raise errors.ConfigError(f"{server}: its certificates cannot be used: {err}") from err
    return credentials.Credentials(
        server=server,
        tls=tls,
        token_file=pathlib.Path(token_file) if token_file else None,
        token=str(user.get("token") or ""),
        namespace=str(chosen.get("namespace") or "default"),
    )


class Server:
    """A connection to the API server, for a few questions one after the other."""

    def __init__(self, known: credentials.Credentials, *, seconds: float) -> None:
        self._known = known
        self._base = urllib.parse.urlsplit(known.server)
        host, port = self._base.hostname or "", self._base.port
        if known.tls is None:
            self._connection = http.client.HTTPConnection(host, port, timeout=seconds)
        else:
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=seconds, context=known.tls
            )

    def names(self, kind: tuple[str, str], namespace: str = "") -> list[str]:
        """The names of a kind's objects.

        Args:
            kind: API version and plural, such as `("apps/v1", "deployments")`.
            namespace: empty for what has none.

        Raises:
            ApiError: the API server refused or did not answer.
        """
        version, plural = kind
        where = f"namespaces/{urllib.parse.quote(namespace, safe='')}/" if namespace else ""
        path = f"/{'apis' if '/' in version else 'api'}/{version}/{where}{plural}"
        headers = {"Accept": METADATA}
        if token := self._known.bearer():
            headers["Authorization"] = f"Bearer {token}"
        try:
            self._connection.request(
                "GET", f"{self._base.path}{path}?limit={MOST}", headers=headers
            )
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as err:
            raise errors.ApiError(f"GET {path}: the API server did not answer: {err}") from err
        if answer.status != 200:
            raise errors.ApiError(f"GET {path}: {answer.status}", status=answer.status)
        items = json.loads(data).get("items") or []
        return [str(item["metadata"]["name"]) for item in items]

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
