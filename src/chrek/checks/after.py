"""What is looked at after an installation or an upgrade: does the release work?"""

from __future__ import annotations

import time

from chrek.checks import report, rollout, settings
from chrek.kube import workstation

POLL_SECONDS = 1.0


def wait(
    cluster: workstation.Cluster,
    config: settings.ReleaseConfig,
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
    cluster: workstation.Cluster, config: settings.ReleaseConfig
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
