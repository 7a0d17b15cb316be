"""Before an installation: can this cluster hold the release?

Nothing of the release exists yet. The checks read, and one asks by a dry run; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chrek.hooks import cluster_checks, program, report, server_checks, settings, storage_checks
from chrek.kube import workstation

Check = Callable[[workstation.Cluster, settings.HooksConfig], report.Outcome]

CHECKS: tuple[Check, ...] = (
    cluster_checks.kubernetes_version,
    cluster_checks.namespaces,
    cluster_checks.crds,
    cluster_checks.identities,
)


def check(context: program.Context) -> Sequence[report.Outcome]:
    """Run every check."""
    outcomes = [found(context.cluster, context.config) for found in CHECKS]
    return [*outcomes, *storage_outcomes(context), *pod_outcome(context)]


def storage_outcomes(context: program.Context) -> Sequence[report.Outcome]:
    """Whether there can be a store; nothing when it is on a server and no agent will ask it."""
    cluster, config = context.cluster, context.config
    if isinstance(config.store, settings.Claim):
        return [storage_checks.storage(cluster, config.store, namespace=config.namespace)]
    if config.agentName:
        return server_checks.storage(cluster, config.store, namespace=config.namespace)
    return []


def pod_outcome(context: program.Context) -> Sequence[report.Outcome]:
    """Whether the namespace admits the agent; nothing when the release has none."""
    pod = settings.load_pod(context.directory / "agent-pod.yaml")
    if pod is None:
        return []
    return [cluster_checks.pod_security(context.cluster, pod, namespace=context.config.namespace)]


main = program.command(
    check,
    title="pre-install",
    again="run helm uninstall {release} -n {namespace} and install again",
)
