"""What is looked at before an installation or an upgrade: can this cluster hold the release?

The checks read, and one asks by a dry run; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chrek.checks import cluster as cluster_checks
from chrek.checks import report, server, settings, volume
from chrek.kube import workstation

Check = Callable[[workstation.Cluster, settings.ReleaseConfig], report.Outcome]

CHECKS: tuple[Check, ...] = (
    cluster_checks.kubernetes_version,
    cluster_checks.namespaces,
    cluster_checks.identities,
)
"""In any case; the others depend on what the release has."""


def outcomes(
    cluster: workstation.Cluster,
    config: settings.ReleaseConfig,
    pod: dict[str, Any] | None,
    *,
    with_crds: bool,
) -> list[report.Outcome]:
    """Run every check.

    Args:
        pod: the agent's, as the chart renders it; none when the release has no agent.
        with_crds: look whether the CRDs are there; before an upgrade they are applied instead.
    """
    found = [check(cluster, config) for check in CHECKS]
    if with_crds:
        found.append(cluster_checks.crds(cluster, config))
    found += _storage(cluster, config)
    if pod is not None:
        found.append(cluster_checks.pod_security(cluster, pod, namespace=config.namespace))
    return found


def _storage(
    cluster: workstation.Cluster, config: settings.ReleaseConfig
) -> Sequence[report.Outcome]:
    """Whether there can be a store; nothing when it is on a server and no agent will ask it."""
    if isinstance(config.store, settings.Claim):
        return [volume.storage(cluster, config.store, namespace=config.namespace)]
    if config.agentName:
        return server.storage(cluster, config.store, namespace=config.namespace)
    return []
