"""Before an upgrade or a rollback: the checks of an installation, the CRDs, captures in flight.

Helm installs the files of crds/ once and never touches them again; this applies the CRDs of the
chart that is coming. Those that another chart manages stay as they are. Then what the new CRDs say
to the checkpoints of the values is asked, and captures in flight are waited for.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence

import yaml

from chrek import crd, errors
from chrek.checks import before, captures, report, settings
from chrek.checks import cluster as cluster_checks
from chrek.hooks import program
from chrek.kube import workstation

MANAGER = "chrek-crds"
SETTLE_SECONDS = 3.0
"""How long an API server may go by a CRD that has just been replaced."""


def check_and_apply(context: program.Context) -> Sequence[report.Outcome]:
    """Run every check and, when none fails, apply the CRDs and wait for captures."""
    cluster, config = context.cluster, context.config
    outcomes = before.outcomes(cluster, config, context.agent_pod(), with_crds=False)
    if report.failures(outcomes):
        return outcomes
    files = sorted(program.CRDS.glob("*.yaml"))
    outcomes += [apply(cluster, path) for path in files]
    if report.failures(outcomes):
        return outcomes
    outcomes += prewarm(cluster, config)
    if config.agentName and not report.failures(outcomes):
        outcomes.append(captures.ended(cluster, config))
    return outcomes


def prewarm(
    cluster: workstation.Cluster,
    config: settings.ReleaseConfig,
    *,
    settle_seconds: float = SETTLE_SECONDS,
) -> Sequence[report.Outcome]:
    """The check of the checkpoints in the values, by the CRDs that were applied."""
    deadline = time.monotonic() + settle_seconds
    while True:
        found = before.prewarm(cluster, config)
        if not report.failures(found) or time.monotonic() >= deadline:
            return found
        time.sleep(0.5)


def apply(cluster: workstation.Cluster, path: pathlib.Path) -> report.Outcome:
    """Apply one CRD, server-side; idempotent."""
    wanted = yaml.safe_load(path.read_text())
    name = wanted["metadata"]["name"]
    url = cluster_checks.crd_path(name)
    found = cluster.get(url)
    if found is not None and crd.is_foreign(found):
        return report.warning(
            name,
            f"managed by {cluster_checks.owner(found)}, left as it is",
            "nothing; if fields of chrek are missing in it, upgrade what manages it",
        )
    try:
        cluster.apply(url, wanted, manager=MANAGER)
    except errors.ApiError as err:
        if err.status in (0, 500):
            raise
        return report.failed(name, err.message, f"run kubectl apply --server-side -f {path.name}")
    return report.ok(name, "applied")


main = program.command(
    check_and_apply,
    title="pre-upgrade",
    again="run the same helm command again for {release} -n {namespace}",
)
