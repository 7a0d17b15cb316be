"""What is looked at before an installation or an upgrade: can this cluster hold the release?

The checks read, and some ask by a dry run; nothing is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chrek.checks import cluster as cluster_checks
from chrek.checks import nodes as node_checks
from chrek.checks import prewarm as prewarm_checks
from chrek.checks import releases as release_checks
from chrek.checks import report, server, settings, volume
from chrek.kube import workstation

Check = Callable[[workstation.Cluster, settings.ReleaseConfig], report.Outcome]

CHECKS: dict[str, Check] = {
    "kubernetes-version": cluster_checks.kubernetes_version,
    "namespaces": cluster_checks.namespaces,
    "releases": release_checks.releases,
    "identities": cluster_checks.identities,
}
"""In any case; the others depend on what the release has."""
Named = tuple[str, Callable[[], Sequence[report.Outcome]]]


def outcomes(
    cluster: workstation.Cluster,
    config: settings.ReleaseConfig,
    pod: dict[str, Any] | None,
    *,
    with_crds: bool,
    attempt: report.Attempt = report.plainly,
) -> list[report.Outcome]:
    """Run every check.

    Args:
        pod: the agent's, as the chart renders it; none when the release has no agent.
        with_crds: look whether the CRDs are there, and ask what they say to the checkpoints of the
            values; hooks apply them first.
        attempt: runs each check.
    """
    found: list[report.Outcome] = []
    for name, check in _checks(cluster, config, pod, with_crds=with_crds):
        found += attempt(name, check)
    return found


def prewarm(
    cluster: workstation.Cluster, config: settings.ReleaseConfig
) -> Sequence[report.Outcome]:
    """Whether the checkpoints of the values can be made; nothing when there are none."""
    if config.prewarm and config.operatorName:
        return [prewarm_checks.prewarm(cluster, config)]
    return []


def _checks(
    cluster: workstation.Cluster,
    config: settings.ReleaseConfig,
    pod: dict[str, Any] | None,
    *,
    with_crds: bool,
) -> Iterator[Named]:
    for name, check in CHECKS.items():
        yield name, functools.partial(_one, check, cluster, config)
    if with_crds:
        yield "crds", lambda: [cluster_checks.crds(cluster, config)]
        yield prewarm_checks.NAME, lambda: prewarm(cluster, config)
    yield "storage", lambda: _storage(cluster, config)
    if pod is not None:
        yield from _of_agent(cluster, pod, namespace=config.namespace)


def _one(
    check: Check, cluster: workstation.Cluster, config: settings.ReleaseConfig
) -> Sequence[report.Outcome]:
    return [check(cluster, config)]


def _storage(
    cluster: workstation.Cluster, config: settings.ReleaseConfig
) -> Sequence[report.Outcome]:
    """Whether there can be a store; nothing when it is on a server and no agent will ask it."""
    if isinstance(config.store, settings.Claim):
        return [volume.storage(cluster, config.store, namespace=config.namespace)]
    if config.agentName:
        return server.storage(cluster, config.store, namespace=config.namespace)
    return []


def _of_agent(
    cluster: workstation.Cluster, pod: dict[str, Any], *, namespace: str
) -> Iterator[Named]:
    """Whether the agent's pod can run, and where."""
    yield "runtime-class", lambda: node_checks.runtime_class(cluster, pod)
    yield "nodes", lambda: node_checks.nodes(cluster, pod)
    yield "pod-security", lambda: [cluster_checks.pod_security(cluster, pod, namespace=namespace)]
