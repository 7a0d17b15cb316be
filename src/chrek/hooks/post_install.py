"""After an installation, an upgrade or a rollback: wait until the release works.

Fails when the operator or its webhook does not come up, when no agent is ready, or when more nodes
than `hooks.maxUnavailableNodes` are without one; every node is a line either way. Then the hashes
of the identities in the values are written to a ConfigMap. Idempotent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from chrek import identity
from chrek.hooks import program, report, rollout, settings
from chrek.kube import workstation

MANAGER = "chrek-identities"
POLL_SECONDS = 1.0


def wait_and_write(context: program.Context) -> Sequence[report.Outcome]:
    """Wait for the release, then write the identities."""
    outcomes = wait(context.cluster, context.config)
    return [*outcomes, *write_identities(context.cluster, context.config)]


def wait(
    cluster: workstation.Cluster,
    config: settings.HooksConfig,
    *,
    poll_seconds: float = POLL_SECONDS,
) -> list[report.Outcome]:
    """Look until everything is ready or the time is over."""
    deadline = time.monotonic() + config.timeoutSeconds
    while True:
        outcomes, settled = look(cluster, config)
        if settled or time.monotonic() >= deadline:
            return outcomes
        time.sleep(poll_seconds)


def look(
    cluster: workstation.Cluster, config: settings.HooksConfig
) -> tuple[list[report.Outcome], bool]:
    """How the release is now, and whether nothing more is to be waited for."""
    outcomes: list[report.Outcome] = []
    settled = True
    if config.agentName:
        nodes = rollout.nodes(cluster, config)
        outcomes += rollout.agents(nodes, config)
        # A node that is NotReady may stay so; one that is Ready gets its time.
        settled = nodes is not None and all(node.ready or not node.healthy for node in nodes)
    if config.operatorName:
        outcomes += [rollout.operator(cluster, config), rollout.webhook(cluster, config)]
    return outcomes, settled and not report.failures(outcomes)


def write_identities(
    cluster: workstation.Cluster, config: settings.HooksConfig
) -> list[report.Outcome]:
    """Fill the chart's ConfigMap: hash -> the text that was hashed."""
    if not config.identities:
        return []
    parsed = [
        identity.parse(raw, f"dynamo-operator.checkpoint.identities[{index}]")
        for index, raw in enumerate(config.identities)
    ]
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": config.identitiesName, "namespace": config.namespace},
        "data": {found.hash(): found.canonical() for found in parsed},
    }
    path = workstation.path("v1", "configmaps", config.namespace, config.identitiesName)
    cluster.apply(path, body, manager=MANAGER)
    return [report.ok("identities", f"{found.hash()} {found.canonical()}") for found in parsed]


main = program.command(
    wait_and_write,
    title="post-install",
    again="run helm upgrade {release} -n {namespace} again",
)
