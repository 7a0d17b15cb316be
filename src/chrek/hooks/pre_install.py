"""Before an installation: can this cluster hold the release? Then the CRDs.

Nothing of the release exists yet. The checks read, and some ask by a dry run; the CRDs are all that
is changed, when no check fails.
"""

from __future__ import annotations

from chrek.hooks import crds, program

main = program.command(
    crds.check_and_apply,
    title="pre-install",
    again="run helm uninstall {release} -n {namespace} and install again",
)
