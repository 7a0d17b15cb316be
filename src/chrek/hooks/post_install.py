"""After an installation, an upgrade or a rollback: wait until the release works.

Fails when the operator or its webhook does not come up, when no agent is ready, or when more nodes
than `hooks.maxUnavailableNodes` are without one; every node is a line either way, with what its
agent says of it. Then the hashes of the identities in the values are written to a ConfigMap, and
the DynamoCheckpoints of the values are made. Idempotent.
"""

from __future__ import annotations

from collections.abc import Sequence

from chrek import identity
from chrek.checks import after, report, settings
from chrek.hooks import prewarm, program
from chrek.kube import workstation

MANAGER = "chrek-identities"


def wait_and_write(context: program.Context) -> Sequence[report.Outcome]:
    """Wait for the release, then write the identities and the checkpoints."""
    cluster, config = context.cluster, context.config
    outcomes = after.wait(cluster, config)
    return [*outcomes, *write_identities(cluster, config), *prewarm.write(cluster, config)]


def write_identities(
    cluster: workstation.Cluster, config: settings.ReleaseConfig
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
