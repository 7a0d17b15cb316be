"""What commands ask the API server, and what they say when it refuses.

Importing this loads no Kubernetes client: that is done by `connect`, after help and wrong usage.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from chrek import errors, names
from chrek.cli import completing

if TYPE_CHECKING:
    from chrek.kube import workstation

Object = dict[str, Any]

CHECKPOINTS = (names.API_VERSION, names.CHECKPOINT_PLURAL)
GRAPHS = (names.API_VERSION, names.GRAPH_PLURAL)
PODS = ("v1", "pods")
CONFIG_MAPS = ("v1", "configmaps")
EVENTS = ("v1", "events")
WEBHOOKS = ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations")
OURS = {"app.kubernetes.io/part-of": "chrek"}
"""Labels of what the chart makes."""
LOG_BYTES = 64 << 10
"""Of the beginning of a log: chrek-init's line comes before those of the worker."""


def cluster_options(
    *, namespace: str = "By default that of the kubeconfig.", everywhere: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`-n`, `--context` and, where it makes sense, `-A`.

    Args:
        namespace: help of `-n`.
        everywhere: whether there is `-A`.
    """
    made = [
        click.option("-n", "--namespace", shell_complete=completing.namespaces, help=namespace),
        click.option(
            "--context",
            metavar="NAME",
            shell_complete=completing.contexts,
            help="Of the kubeconfig; by default the one in use.",
        ),
    ]
    if everywhere:
        made.append(click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces."))

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(made):
            command = option(command)
        return command

    return decorate


class Reader:
    """Reads objects of a namespace, or of all.

    Attributes:
        namespace: empty for all.
        notes: what could not be read, a sentence each.
    """

    def __init__(self, cluster: workstation.Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.notes: list[str] = []

    def of(self, namespace: str) -> Reader:
        """One of another namespace; an empty one stands for all."""
        return Reader(self.cluster, namespace)

    def find(
        self,
        kind: tuple[str, str],
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """The objects of a kind; of a cluster's kind all.

        Raises:
            ApiError: says which right is missing, or that chrek's CRDs are.
        """
        from chrek.kube import workstation

        version, plural = kind
        namespace = "" if kind == WEBHOOKS else self.namespace
        with self._asked("list", kind, namespace):
            path = workstation.path(version, plural, namespace)
            return self.cluster.find(path, labels=labels, fields=fields)

    def look(
        self,
        kind: tuple[str, str],
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object] | None:
        """The same of what is not needed: None, and a note, where it may not be looked at."""
        try:
            return self.find(kind, labels=labels, fields=fields)
        except errors.ApiError as err:
            self._noted(err)
            return None

    def get(self, kind: tuple[str, str], name: str) -> Object | None:
        """An object of the namespace, None when there is none."""
        from chrek.kube import workstation

        with self._asked("get", kind, self.namespace):
            return self.cluster.get(workstation.path(*kind, self.namespace, name))

    def create(self, kind: tuple[str, str], body: Object) -> Object:
        """Create an object in the namespace."""
        from chrek.kube import workstation

        with self._asked("create", kind, self.namespace):
            return self.cluster.create(workstation.path(*kind, self.namespace), body)

    def merge(self, kind: tuple[str, str], name: str, patch: Object) -> Object:
        """Merge a patch into an object of the namespace."""
        from chrek.kube import workstation

        with self._asked("patch", kind, self.namespace):
            return self.cluster.merge(workstation.path(*kind, self.namespace, name), patch)

    def version(self) -> str:
        """Of Kubernetes, such as `v1.34.4`; empty where it is not told."""
        try:
            return str((self.cluster.get("/version") or {}).get("gitVersion", ""))
        except errors.ApiError:
            return ""

    def log(self, pod: str, container: str) -> str:
        """The first lines of a container's log; empty, and a note, where one may not read them."""
        kind = (PODS[0], "pods/log")
        try:
            with self._asked("get", kind, self.namespace):
                return self.cluster.log_start(
                    self.namespace, pod, container=container, most_bytes=LOG_BYTES
                )
        except errors.ApiError as err:
            self._noted(err)
            return ""

    def _noted(self, err: errors.ApiError) -> None:
        if err.status not in (403, 404):
            raise err
        if err.message not in self.notes:
            self.notes.append(err.message)

    @contextlib.contextmanager
    def _asked(self, verb: str, kind: tuple[str, str], namespace: str) -> Iterator[None]:
        try:
            yield
        except errors.ApiError as err:
            raise explained(err, verb, kind, namespace) from err


def connect(namespace: str | None, context: str | None, *, all_namespaces: bool = False) -> Reader:
    """Connect as kubectl does.

    Raises:
        ConfigError: there is no usable kubeconfig.
        UsageError: both one namespace and all are asked for.
    """
    if all_namespaces and namespace:
        raise click.UsageError("Give either --namespace or --all-namespaces.")

    # It takes a second or two, so that help and wrong usage are answered before.
    from chrek.kube import workstation

    # It would tell of each attempt to connect; the error tells of the last one.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    cluster = workstation.connect(context=context)
    where = "" if all_namespaces else namespace or workstation.default_namespace(context)
    return Reader(cluster, where)


def explained(
    err: errors.ApiError, verb: str, kind: tuple[str, str], namespace: str
) -> errors.ApiError:
    """The error, with what a person at a workstation can do."""
    version, plural = kind
    group = version.partition("/")[0] if "/" in version else ""
    resource = f"{plural}.{group}" if group else plural
    where = f" in namespace {namespace}" if namespace else " in all namespaces"
    if kind == WEBHOOKS:
        where = ""
    option = f" -n {namespace}" if namespace else " -A"
    what = resource.replace("pods/log", "pods --subresource=log")
    if err.status == 403:
        return errors.ApiError(
            f"you may not {verb} {resource}{where}",
            status=403,
            hint="ask for this right, or name another namespace with -n; to see whether you have "
            f"it: kubectl auth can-i {verb} {what}{option if where else ''}",
        )
    # A list and a creation need no object; a creation does need the namespace.
    asked = group == names.GROUP and verb in ("list", "create")
    if err.status == 404 and asked and 'namespaces "' not in err.message:
        return errors.ApiError(
            "chrek's CRDs are not installed in this cluster",
            status=404,
            hint="install chrek: helm install chrek charts/chrek --namespace NAMESPACE",
        )
    return unanswered(err)


def unanswered(err: errors.ApiError) -> errors.ApiError:
    """The error, with what to do when nobody answers or the user is not known; else as it is."""
    hints = {
        0: "see whether `kubectl version` gets an answer; KUBECONFIG and --context say which "
        "cluster is asked",
        401: "log in again: the API server does not know the user of the kubeconfig",
    }
    hint = hints.get(err.status) or err.hint
    return errors.ApiError(err.message, status=err.status, hint=hint)
