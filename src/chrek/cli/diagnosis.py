"""What `chrek doctor` finds out about a release: the checks of hooks and agents, run by a person.

A person may not look everywhere. What they have no right for is a warning; other checks go on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from chrek import errors
from chrek.checks import after, agents, before, report, rollout, settings
from chrek.checks import cluster as cluster_checks
from chrek.cli import releases
from chrek.kube import workstation

Object = dict[str, Any]

CLUSTER = "cluster"
RELEASE = "release"
NODES = "nodes"
NODE = "node "
"""Groups of rows; the last one is followed by the name of a node."""
AGENT = "agent"
"""The row of a node that says how its agent is."""
AGENTS = "agents"
"""The row of the release that says it of all of them together."""
PREFLIGHT = "preflight"
"""The row of an agent that cannot be read."""
NOT_ALLOWED = "not allowed to look"
AGENT_SECONDS = 10.0
PARALLEL = 16
"""Agents that are asked at once: all of them by way of the API server."""

_DENIED = re.compile(
    r'cannot (?P<verb>[a-z]+) (?:resource|path) "(?P<what>[^"]+)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<namespace>[^"]+)")?'
)
"""How an API server says which right is missing.

Source: pkg/endpoints/handlers/responsewriters/errors.go of https://github.com/kubernetes/apiserver
"""


_QUOTING = ("pod-security", "prewarm", "webhook")
"""Checks by dry runs, whose outcome is what the API server says."""
_IN_IT = ("namespaces", "pod-security")
"""Checks that a namespace must exist for."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The outcome of a check.

    Attributes:
        group: what was looked at: the cluster, the release, all nodes or one of them.
        outcome: what was found.
    """

    group: str
    outcome: report.Outcome


def of_installed(cluster: workstation.Cluster, release: releases.Release) -> list[Row]:
    """Everything about a release that is there.

    Raises:
        ApiError: nothing can be asked.
    """
    config = release.config
    if config is None:
        return _unreadable(release)
    found = before.outcomes(cluster, config, release.pod, with_crds=True, attempt=_attempt)
    rows = [Row(CLUSTER, outcome) for outcome in found]
    reader = _reader(cluster.impatient(AGENT_SECONDS, parallel=PARALLEL), config)
    found = after.look(cluster, config, reader=reader, parallel=PARALLEL, attempt=_attempt)
    if any(outcome.name == AGENTS and denied(outcome) for outcome in found):
        seen = _agents_by_pods(cluster, config, reader)
        found = [*seen, *(o for o in found if not seen or o.name != AGENTS)]
    return [*rows, *_grouped([_read_through_api(outcome) for outcome in found])]


def of_rendered(cluster: workstation.Cluster, release: releases.Release) -> list[Row]:
    """Whether the cluster can hold a release that is not there, or another version of it.

    Raises:
        ApiError: nothing can be asked.
    """
    config = release.config
    if config is None:
        return _unreadable(release)
    # A hook applies those that are missing, and Helm makes a namespace where it is told to.
    known = [n for n in config.crds if not _missing(cluster, cluster_checks.crd_path(n))]
    made = workstation.path("v1", "namespaces", name=config.namespace)
    new = _missing(cluster, made)
    asked = msgspec.structs.replace(config, crds=known)
    found = before.outcomes(cluster, asked, release.pod, with_crds=True, attempt=_attempt)
    if not known:
        later = report.ok("crds", "not there yet; helm install brings them")
        found = [later if o.name == later.name else o for o in found]
    if new:
        found = [*_of_new_namespace(cluster, config), *(o for o in found if o.name not in _IN_IT)]
    return [Row(CLUSTER, outcome) for outcome in found]


def _of_new_namespace(
    cluster: workstation.Cluster, config: settings.ReleaseConfig
) -> Iterator[report.Outcome]:
    """What is to be said while the release's namespace is not there."""
    yield report.warning(
        "namespace",
        f"{config.namespace} is not there yet, so that nobody can tell what it admits",
        f"run kubectl create namespace {config.namespace} and look again, or leave it to "
        "helm install --create-namespace, whose hook asks it",
    )
    others = [name for name in config.watchNamespaces if name != config.namespace]
    if others:
        rest = msgspec.structs.replace(config, watchNamespaces=others)
        yield from _attempt("namespaces", lambda: [cluster_checks.namespaces(cluster, rest)])


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, list[report.Outcome]]]:
    """Headings and what stands below them, for a person; many nodes share one heading."""
    nodes = {row.group: None for row in rows if row.group.startswith(NODE)}
    many = len(nodes) > agents.FULL_TABLES
    found: dict[str, list[report.Outcome]] = {CLUSTER: [], RELEASE: []}
    for row in rows:
        if many and row.group in nodes:
            node, check = row.group.removeprefix(NODE), row.outcome.name
            name = node if check == AGENT else f"{node}/{check}"
            found.setdefault(NODES, []).append(dataclasses.replace(row.outcome, name=name))
        else:
            found.setdefault(row.group, []).append(row.outcome)
    yield from ((heading, outcomes) for heading, outcomes in found.items() if outcomes)


def failures(rows: Iterable[Row]) -> list[report.Outcome]:
    return report.failures(row.outcome for row in rows)


def verdict(rows: Sequence[Row], *, again: str) -> str:
    """The last line: what to do next."""
    found = [_named(row) for row in rows]
    unseen = sum(map(denied, found))
    if report.failures(found) or not unseen:
        return report.verdict(found, again=again)
    warned = sum(outcome.status is report.Status.WARNING for outcome in found)
    return (
        f"none of {len(found)} checks failed, {warned} with a warning; {unseen} of them could not "
        "be made for want of rights"
    )


def denied(outcome: report.Outcome) -> bool:
    """Whether a check could not be made for want of rights."""
    return outcome.detail.startswith(NOT_ALLOWED)


def _named(row: Row) -> report.Outcome:
    """The outcome, with the node in its name."""
    if not row.group.startswith(NODE):
        return row.outcome
    name = f"{row.group.removeprefix(NODE)}/{row.outcome.name}"
    return dataclasses.replace(row.outcome, name=name)


def _unreadable(release: releases.Release) -> list[Row]:
    return [Row(RELEASE, release.problem)] if release.problem else []


def _attempt(name: str, check: Callable[[], Sequence[report.Outcome]]) -> Sequence[report.Outcome]:
    """Run a check; that the API server refuses to answer is an outcome as well.

    Raises:
        ApiError: nothing can be asked: there is no answer, or nobody knows who asks.
    """
    try:
        found = check()
    except errors.ApiError as err:
        if err.status in (0, 401):
            raise
        if err.status == 403:
            return [_denied(name, err.message)]
        return [report.failed(name, err.message, "look again; if it stays, see the API server")]
    return [_own(outcome) for outcome in found]


def _own(outcome: report.Outcome) -> report.Outcome:
    """The outcome of a check that quotes what the API server said to a question of ours."""
    # Elsewhere a message may speak of rights that the release's own accounts lack.
    quotes = outcome.name in _QUOTING and _DENIED.search(outcome.detail)
    return _denied(outcome.name, outcome.detail) if quotes else outcome


def _read_through_api(outcome: report.Outcome) -> report.Outcome:
    """What is said of an agent that could not be read; hooks ask in another way."""
    unread = outcome.name.rpartition("/")[2] == PREFLIGHT
    if not unread or outcome.status is not report.Status.WARNING:
        return outcome
    if _DENIED.search(outcome.detail):
        return _denied(outcome.name, outcome.detail)
    hint = (
        "if a NetworkPolicy or a mesh keeps the API server from agents, let it connect to their "
        f"port {agents.PORT_NAME} (networkPolicy.metricsFrom); pods start warm all the same"
    )
    return dataclasses.replace(outcome, hint=hint)


def _denied(name: str, message: str) -> report.Outcome:
    """The outcome of a check that was not allowed: it names the right that is missing."""
    match = _DENIED.search(message)
    if match is None:
        return report.warning(name, f"{NOT_ALLOWED}: {message}", "ask who refuses it")
    what, group, namespace = match["what"], match["group"], match["namespace"]
    resource, _, part = what.partition("/") if not what.startswith("/") else (what, "", "")
    full = f"{resource}.{group}" if group else resource
    right = f"{match['verb']} {full}{f'/{part}' if part else ''}"
    where = f" in namespace {namespace}" if namespace else ""
    options = f"{f' --subresource={part}' if part else ''}{f' -n {namespace}' if namespace else ''}"
    return report.warning(
        name,
        f"{NOT_ALLOWED}: the right to {right}{where} is missing",
        f"have it granted, or ask who has it; kubectl auth can-i {match['verb']} {full}{options}",
    )


def _missing(cluster: workstation.Cluster, path: str) -> bool:
    """Whether an object is not there for certain."""
    try:
        return cluster.get(path) is None
    except errors.ApiError as err:
        if err.status in (0, 401):
            raise
        return False


def _reader(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> agents.Reader:
    """Asks agents through the API server: a workstation seldom reaches addresses of pods."""

    def read(pod: Object) -> bytes:
        path = workstation.path("v1", "pods", config.namespace, pod["metadata"]["name"])
        port = agents.port(pod, config.agentHttpPort)
        return cluster.request("GET", f"{path}:{port}/proxy{agents.PATH}")

    return read


def _agents_by_pods(
    cluster: workstation.Cluster, config: settings.ReleaseConfig, reader: agents.Reader
) -> list[report.Outcome]:
    """How the agents are, for who may look at pods but not at nodes; nothing if not even there."""
    path = workstation.path("v1", "pods", config.namespace)
    try:
        pods = cluster.find(path, labels=config.agentLabels)
    except errors.ApiError as err:
        if err.status in (0, 401):
            raise
        return []
    nodes = [_node(pod) for pod in pods if pod["spec"].get("nodeName")]
    running = [node.pod for node in nodes if agents.runs(node.pod)]
    answers = agents.read(running, reader, parallel=PARALLEL)
    return rollout.agents(sorted(nodes, key=lambda n: n.name), config, answers) if nodes else []


def _node(pod: Object) -> rollout.Node:
    """What can be told of a node by its agent's pod."""
    ready = workstation.is_true(pod, "Ready")
    return rollout.Node(
        name=str(pod["spec"]["nodeName"]),
        healthy=True,
        cordoned=False,
        pod=pod,
        ready=ready,
        problem="" if ready else rollout.NOT_YET,
    )


def _grouped(found: Sequence[report.Outcome]) -> Iterator[Row]:
    """Rows of what is said of nodes and of the release.

    Before the one line for all agents stand the nodes, and then what many of them have in common.
    """
    names = [outcome.name for outcome in found]
    of_nodes = names.index(AGENTS) if AGENTS in names else 0
    for number, outcome in enumerate(found):
        node, slash, check = outcome.name.partition("/")
        if outcome.name.startswith(NODE):
            yield Row(outcome.name, dataclasses.replace(outcome, name=AGENT))
        elif slash:
            yield Row(f"{NODE}{node}", dataclasses.replace(outcome, name=check))
        else:
            yield Row(NODES if number < of_nodes else RELEASE, outcome)
