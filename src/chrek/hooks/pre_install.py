"""Before an installation: can this cluster hold the release?

Nothing of the release exists yet. The checks read, and one asks by a dry run; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from chrek.checks import before, report
from chrek.hooks import program


def check(context: program.Context) -> Sequence[report.Outcome]:
    """Run every check."""
    return before.outcomes(context.cluster, context.config, context.agent_pod(), with_crds=True)


main = program.command(
    check,
    title="pre-install",
    again="run helm uninstall {release} -n {namespace} and install again",
)
