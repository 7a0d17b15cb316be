"""The CRDs of the chart: applied by hooks, before an installation as well as before an upgrade.

Helm's own way, files in crds/, does not do: Helm 3 never upgrades them, and Helm 4 and Flux write
over those that another chart has installed. These stay as they are.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence

import yaml

from chrek import crd, errors, names
from chrek.checks import before, report, settings
from chrek.checks import cluster as cluster_checks
from chrek.hooks import program
from chrek.kube import workstation

MANAGER = "chrek-crds"
SETTLE_SECONDS = 3.0
"""How long an API server may go by a CRD that has just been replaced."""


def check_and_apply(context: program.Context) -> list[report.Outcome]:
    """Run every check; when none fails, apply the CRDs, and ask by them for the checkpoints."""
    cluster, config = context.cluster, context.config
    outcomes = before.outcomes(cluster, config, context.agent_pod(), with_crds=False)
    if report.failures(outcomes):
        return outcomes
    files = sorted(program.CRDS.glob("*.yaml"))
    outcomes += [apply(cluster, path) for path in files]
    if report.failures(outcomes):
        return outcomes
    return [*outcomes, *prewarm(cluster, config)]


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
        settled = all(outcome.status is report.Status.OK for outcome in found)
        if settled or time.monotonic() >= deadline:
            return found
        time.sleep(0.5)


def apply(cluster: workstation.Cluster, path: pathlib.Path) -> report.Outcome:
    """Apply one CRD, server-side; idempotent."""
    wanted = yaml.safe_load(path.read_text())
    name = wanted["metadata"]["name"]
    url = cluster_checks.crd_path(name)
    found = cluster.get(url)
    if found is not None and crd.is_foreign(found):
        if not cluster_checks.serves(found):
            text = f"version {names.VERSION} is not served"
            return report.failed(name, text, cluster_checks.serving_hint(found))
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
