"""Before an upgrade or a rollback: the checks of an installation, the CRDs, captures in flight."""

from __future__ import annotations

from collections.abc import Sequence

from chrek.checks import captures, report
from chrek.hooks import crds, program


def prepare(context: program.Context) -> Sequence[report.Outcome]:
    """Check, apply the CRDs and, when nothing fails, wait for captures."""
    outcomes = crds.check_and_apply(context)
    if context.config.agentName and not report.failures(outcomes):
        outcomes.append(captures.ended(context.cluster, context.config))
    return outcomes


main = program.command(
    prepare,
    title="pre-upgrade",
    again="run the same helm command again for {release} -n {namespace}",
)
