"""The Kubernetes API for programs that run once: hooks, command line and tests.

A thin layer over the official client (https://github.com/kubernetes-client/python), which knows
kubeconfig files and their credential plugins. Objects are plain dictionaries. Importing the client
takes a second or two, so that agent and operator use `chrek.kube.client` instead.
"""

from __future__ import annotations

import copy
import decimal
import json
import os
import pathlib
import urllib.parse
from collections.abc import Generator, Mapping
from typing import Any

import urllib3.exceptions
from kubernetes import client, config, utils

from chrek import errors

TIMEOUT_SECONDS = (5, 30)
"""To connect, and to be answered."""

_POD_NAMESPACE = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Object = dict[str, Any]


def path(group_version: str, plural: str, namespace: str = "", name: str = "") -> str:
    """The path of a collection or of an object, such as `/apis/apps/v1/namespaces/a/daemonsets`."""
    parts = [f"apis/{group_version}" if "/" in group_version else f"api/{group_version}"]
    if namespace:
        parts += ["namespaces", urllib.parse.quote(namespace, safe="")]
    parts.append(plural)
    if name:
        parts.append(urllib.parse.quote(name, safe=""))
    return "/" + "/".join(parts)


def condition(item: Object, kind: str) -> Object:
    """A condition in the status of an object, such as Ready of a pod; empty when it has none."""
    conditions = (item.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def is_true(item: Object, kind: str) -> bool:
    """Whether an object has a condition that is true."""
    return condition(item, kind).get("status") == "True"


def quantity(text: str) -> decimal.Decimal:
    """The number that a Kubernetes quantity such as `100Gi` stands for.

    Raises:
        InputError: it is none.
    """
    try:
        return decimal.Decimal(utils.parse_quantity(text))
    except ValueError as err:
        raise errors.InputError(f"{text!r} is no quantity", hint="write it like 100Gi") from err


class Cluster:
    """A connection to one API server; threads may share it."""

    def __init__(
        self,
        configuration: client.Configuration,
        *,
        timeout_seconds: tuple[float, float] = TIMEOUT_SECONDS,
    ) -> None:
        self._api = client.ApiClient(configuration)
        self._timeout_seconds = timeout_seconds

    def impatient(self, seconds: float, *, parallel: int) -> Cluster:
        """Another connection to it, for questions that may have no answer.

        Args:
            seconds: to be answered; nothing is asked twice.
            parallel: how many threads will use it.
        """
        configuration = copy.deepcopy(self._api.configuration)
        configuration.retries = 0
        configuration.connection_pool_maxsize = parallel
        return Cluster(configuration, timeout_seconds=(TIMEOUT_SECONDS[0], seconds))

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Ask the API server.

        Raises:
            ApiError: it refused (with its status and message) or did not answer.
        """
        response = self._send(
            method, path, query, body, content_type, timeout_seconds=self._timeout_seconds
        )
        return bytes(response.data)

    def watch(
        self,
        path: str,
        *,
        fields: Mapping[str, str],
        resource_version: str,
        seconds: int,
    ) -> Generator[tuple[str, Object]]:
        """What happens to objects from a version on: `(ADDED | MODIFIED | DELETED, object)`.

        It ends after so many seconds, or before where the server or the network wants it so: then
        look, and watch again.

        Args:
            path: of the collection.
            fields: that the objects have.
            resource_version: of the last object that was seen.
            seconds: to watch at most.

        Raises:
            ApiError: status 410 when the server no longer knows the version; it refused, or did
                not answer.
        """
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
            "fieldSelector": _selector(fields),
        }
        connect, answer = self._timeout_seconds
        response = self._send("GET", path, query, timeout_seconds=(connect, seconds + answer))
        rest = b""
        try:
            for chunk in response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                for event in map(_object, filter(None, lines)):
                    item = event["object"]
                    if event["type"] == "ERROR":
                        raise errors.ApiError(
                            f"watch {path}: {item.get('message', 'failed')}",
                            status=int(item.get("code") or 0),
                        )
                    yield event["type"], item
        except (urllib3.exceptions.HTTPError, OSError):
            return
        finally:
            # Its connection still has the rest of the stream.
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        *,
        timeout_seconds: tuple[float, float],
    ) -> Any:
        """The answer of urllib3, which may still be on its way."""
        try:
            return self._api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json, */*", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=timeout_seconds,
            )
        except client.ApiException as err:
            raise errors.ApiError(
                f"{method} {path}: {_message(err)}", status=int(err.status or 0)
            ) from err
        except (urllib3.exceptions.HTTPError, OSError) as err:
            raise errors.ApiError(
                f"{method} {path}: no answer from {self._api.configuration.host}: {err}",
                hint="check the address and the network between here and the API server",
            ) from err

    def get(self, path: str) -> Object | None:
        """An object; `None` when there is none."""
        try:
            return _object(self.request("GET", path))
        except errors.ApiError as err:
            if err.status == 404:
                return None
            raise

    def find(
        self,
        path: str,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """The objects of a collection that carry these labels and have these fields."""
        query = {}
        for kind, wanted in (("labelSelector", labels), ("fieldSelector", fields)):
            if wanted:
                query[kind] = _selector(wanted)
        items: list[Object] = _object(self.request("GET", path, query=query)).get("items") or []
        return items

    def create(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Create an object in a collection, or only ask whether the server would."""
        query = {"dryRun": "All"} if dry_run else {}
        return _object(self.request("POST", path, query=query, body=body))

    def apply(self, path: str, body: Object, *, manager: str, dry_run: bool = False) -> Object:
        """Server-side apply: make the fields of `body` so, and drop those applied earlier."""
        query = {"fieldManager": manager, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        # JSON is YAML; servers before 1.32 know no other media type for it.
        kind = "application/apply-patch+yaml"
        return _object(self.request("PATCH", path, query=query, body=body, content_type=kind))

    def merge(self, path: str, patch: Object) -> Object:
        """Merge a patch (RFC 7386) into an object."""
        kind = "application/merge-patch+json"
        return _object(self.request("PATCH", path, body=patch, content_type=kind))

    def delete(self, path: str) -> bool:
        """Delete an object with what it owns.

        Returns:
            Whether there was one.
        """
        try:
            self.request("DELETE", path, body={"propagationPolicy": "Background"})
        except errors.ApiError as err:
            if err.status == 404:
                return False
            raise
        return True

    def log(self, namespace: str, pod: str, *, container: str, lines: int = 50) -> str:
        """The last lines that a container wrote; empty when there are none yet."""
        query = {"container": container, "tailLines": str(lines)}
        return self._log(namespace, pod, query)

    def log_start(self, namespace: str, pod: str, *, container: str, most_bytes: int) -> str:
        """The first lines that a container wrote; empty when there are none yet."""
        query = {"container": container, "limitBytes": str(most_bytes)}
        return self._log(namespace, pod, query)

    def _log(self, namespace: str, pod: str, query: Mapping[str, str]) -> str:
        try:
            data = self.request("GET", path("v1", "pods", namespace, pod) + "/log", query=query)
        except errors.ApiError as err:
            if err.status in (400, 404):
                return ""
            raise
        return data.decode(errors="replace")


def connect(kubeconfig: pathlib.Path | None = None, *, context: str | None = None) -> Cluster:
    """Connect as the pod's service account, or as kubectl does.

    Precedence: the file given, the files of KUBECONFIG, the service account when in a pod, then
    ~/.kube/config.

    Args:
        kubeconfig: a file.
        context: of the kubeconfig files; by default their current one.

    Raises:
        ConfigError: there is no usable configuration.
    """
    configuration = client.Configuration()
    try:
        if _in_pod() and kubeconfig is None and context is None:
            config.load_incluster_config(client_configuration=configuration)
        else:
            # The client reads KUBECONFIG once, when it is imported.
            files = os.fspath(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")
            config.load_kube_config(files, context=context, client_configuration=configuration)
    except (config.ConfigException, OSError) as err:
        hint = "set KUBECONFIG to a kubeconfig file"
        if context is not None:
            hint += ", and name one of its contexts: kubectl config get-contexts"
        raise errors.ConfigError(f"cannot tell how to reach a cluster: {err}", hint=hint) from err
    return Cluster(configuration)


def default_namespace(context: str | None = None) -> str:
    """The namespace that kubectl would use: the pod's own, or that of the kubeconfig's context.

    Args:
        context: of the kubeconfig files; by default their current one.
    """
    if _in_pod() and context is None:
        return _POD_NAMESPACE.read_text().strip()
    try:
        every, current = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))
    except (config.ConfigException, OSError):
        return "default"
    chosen = next((one for one in every if one["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")


def _in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


def _object(data: bytes) -> Object:
    found: Object = json.loads(data)
    return found


def _selector(wanted: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in wanted.items())


def _message(err: client.ApiException) -> str:
    """What the server says, without the client's wrapping."""
    try:
        status = json.loads(err.body or "")
        return f"{status['message']} ({err.status})"
    except (ValueError, KeyError, TypeError):
        return f"{err.reason} ({err.status})"
