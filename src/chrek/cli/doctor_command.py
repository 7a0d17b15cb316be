"""`chrek doctor`: the checks of hooks and agents, at any time and from anywhere.

The Kubernetes client is imported when the command runs; its help works without.
"""

from __future__ import annotations

import collections
import json
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from chrek import errors

if TYPE_CHECKING:
    from chrek.cli import diagnosis, releases

FAILED_CHECKS = errors.ChrekError.exit_code
"""As that of hooks."""


@click.command("doctor")
@click.option("-n", "--namespace", help="Of the release; by default that of the kubeconfig.")
@click.option("--release", metavar="NAME", help="As helm calls it; by default all that are there.")
@click.option(
    "--context", metavar="NAME", help="Of the kubeconfig; by default the one that is in use."
)
@click.option(
    "--manifests",
    metavar="FILE",
    help="Before an installation: what `helm template` or `helm install --dry-run` prints; - is "
    "standard input.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: one object for each release.",
)
def command(
    namespace: str | None,
    release: str | None,
    context: str | None,
    manifests: str | None,
    output: str,
) -> None:
    """Check a cluster and the releases of chrek in it, and say what to do.

    Makes the checks that hooks make at an installation, and asks each agent for those of its node.
    Looks and asks by dry runs; changes nothing. What you have no right to look at is a warning.

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

    # It takes a second or two, so that help and wrong usage are answered before.
    from chrek.cli import diagnosis, releases
    from chrek.kube import workstation

    # It would tell of each attempt to connect; the error tells of the last one.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    failed = False
    try:
        if manifests is not None:
            where = "standard input" if manifests == "-" else manifests
            found = releases.rendered(_read(manifests), where, release)
        cluster = workstation.connect(context=context)
        if manifests is None:
            namespace = namespace or workstation.default_namespace(context)
            found = releases.installed(cluster, namespace, release)
        look = diagnosis.of_installed if manifests is None else diagnosis.of_rendered
        for number, one in enumerate(found):
            rows = look(cluster, one)
            if output == "json":
                _print_json(one, rows)
            else:
                if number:
                    click.echo()
                _print_table(one, rows)
            failed = failed or bool(diagnosis.failures(rows))
    except errors.ApiError as err:
        raise _explained(err) from err
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
    click.echo(f"\ndoctor: {diagnosis.verdict(rows, again='run chrek doctor again')}")


def _print_json(release: releases.Release, rows: Sequence[diagnosis.Row]) -> None:
    from chrek.checks import report

    counts = collections.Counter(row.outcome.status for row in rows)
    document = {
        "release": release.name,
        "namespace": release.namespace,
        "checks": [
            {
                "group": row.group,
                "name": row.outcome.name,
                "status": row.outcome.status,
                "detail": row.outcome.detail,
                "hint": row.outcome.hint,
            }
            for row in rows
        ],
        "failed": counts[report.Status.FAILED],
        "warnings": counts[report.Status.WARNING],
    }
    click.echo(json.dumps(document, indent=2))


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


def _explained(err: errors.ApiError) -> errors.ApiError:
    """The error, with what a person at a workstation can do."""
    hints = {
        0: "see whether `kubectl version` gets an answer; KUBECONFIG and --context say which "
        "cluster is asked",
        401: "log in again: the API server does not know the user of the kubeconfig",
    }
    hint = hints.get(err.status)
    return errors.ApiError(err.message, status=err.status, hint=hint) if hint else err
