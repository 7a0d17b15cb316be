"""`chrek doctor`: the checks of hooks and agents, at any time and from anywhere.

The Kubernetes client is imported when the command runs; its help works without.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from chrek import cli, errors
from chrek.cli import completing, printing, reading

if TYPE_CHECKING:
    from chrek.cli import diagnosis, records, releases

FAILED_CHECKS = errors.ChrekError.exit_code
"""As that of hooks."""


@click.command("doctor")
@reading.cluster_options(namespace="Of the release; by default that of the kubeconfig.")
@click.option("--release", metavar="NAME", help="As helm calls it; by default all that are there.")
@click.option(
    "--manifests",
    metavar="FILE",
    shell_complete=completing.files,
    help="Before an installation: what `helm template` or `helm install --dry-run` prints; - is "
    "standard input.",
)
@printing.output_option
def command(
    namespace: str | None,
    context: str | None,
    release: str | None,
    manifests: str | None,
    output: str,
) -> None:
    """Check a cluster and the releases of chrek in it, and say what to do.

    Makes the checks that hooks make at an installation, and asks each agent for those of its node.
    Looks and asks by dry runs; changes nothing. What you have no right to look at is a warning.
    -o name prints the checks that failed, each as GROUP/NAME.

    \b
    Exit code:
      0   no check failed; there may be warnings
      2   wrong usage
      3   a check failed
      4   there is no such release, or FILE has none
      5   the kubeconfig cannot be used
      30  the API server does not answer, or lets you look at nothing

    \b
    Example:
      $ chrek doctor -n my-team
      $ helm template chrek charts/chrek -n my-team -f values.yaml | chrek doctor --manifests -
    """  # noqa: D301 - click wants the character, not the text
    if manifests is not None and namespace is not None:
        raise click.UsageError("--manifests says which namespace; give it to helm: -n NAMESPACE")

    from chrek.cli import records, releases

    if manifests is None:
        reader = reading.connect(namespace, context)
        found = releases.installed(reader, release)
    else:
        where = "standard input" if manifests == "-" else manifests
        found = releases.rendered(_read(manifests), where, release)
        reader = reading.connect(None, context)

    # It takes a second or two, so that help and wrong usage are answered before.
    from chrek.cli import diagnosis

    look = diagnosis.of_installed if manifests is None else diagnosis.of_rendered
    made = []
    for number, one in enumerate(found):
        try:
            rows = look(reader.cluster, one)
        except errors.ApiError as err:
            raise reading.unanswered(err) from err
        made.append(_record(one, rows))
        if output == "table":
            if number:
                click.echo()
            _print_table(one, rows)
    failed = [check for one in made for check in one.checks if check.status == "fail"]
    if output != "table":
        wrong = [f"{check.group}/{check.name}" for check in failed]
        printing.data(output, records.Diagnosis(releases=made), wrong)
    if failed:
        sys.exit(FAILED_CHECKS)


def _print_table(release: releases.Release, rows: Sequence[diagnosis.Row]) -> None:
    """A table for each thing that was looked at, and a last line with what to do."""
    from chrek.checks import report
    from chrek.cli import diagnosis

    click.echo(f"release {release.name} in namespace {release.namespace}")
    for heading, found in diagnosis.tables(rows):
        click.echo(f"\n{heading}")
        for line in report.lines(found):
            click.echo(f"  {line}")
    click.echo(f"\ndoctor: {diagnosis.verdict(rows, again=f'run {cli.program()} doctor again')}")


def _record(release: releases.Release, rows: Sequence[diagnosis.Row]) -> records.Release:
    from chrek.checks import report
    from chrek.cli import records

    counts = collections.Counter(row.outcome.status for row in rows)
    return records.Release(
        release=release.name,
        namespace=release.namespace,
        checks=[
            records.Check(
                group=row.group,
                name=row.outcome.name,
                status=row.outcome.status.value,
                detail=row.outcome.detail,
                hint=row.outcome.hint or "",
            )
            for row in rows
        ],
        failed=counts[report.Status.FAILED],
        warnings=counts[report.Status.WARNING],
    )


def _read(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read()
        with open(file, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or err
        raise errors.InputError(
            f"{file}: cannot be read: {reason}", hint="give a file, or - for standard input"
        ) from err
