"""`chrek prune`."""

from __future__ import annotations

import datetime
import pathlib
from typing import TYPE_CHECKING

import click

from chrek import names, quantity
from chrek.cli import printing, reading

if TYPE_CHECKING:
    from chrek.cli import records

_HEADER = ("NAMESPACE", "CHECKPOINT", "ARTIFACT", "SIZE", "LAST USE", "WHY")


@click.command("prune")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=pathlib.Path),
    metavar="FILE",
    help="AgentConfig, as the chart writes it. With --dry-run the OperatorConfig, by default that "
    "of the cluster.",
)
@reading.cluster_options(
    namespace="Of the checkpoints. With --dry-run by default all that the release serves, and that "
    "of the kubeconfig for HASH."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to wait for restores that read them; by default as long as one may take.",
)
@click.option(
    "--rekey",
    is_flag=True,
    help="Delete nothing; encrypt everything on the server of the AgentConfig with a new key of "
    "the store, after the Secret's key may have leaked.",
)
@click.option("--dry-run", is_flag=True, help="Delete nothing; print what would go, and why.")
@click.option(
    "--release-namespace",
    metavar="NAMESPACE",
    help="Where the release is, whose configuration --dry-run reads; by default --namespace, else "
    "that of the kubeconfig.",
)
@click.option(
    "--max-bytes", metavar="QUANTITY", help="Quota for --dry-run, such as 500Gi; 0: none."
)
@click.option("--unused-for", metavar="TIME", help="Time for --dry-run, such as 30d; 0: for ever.")
@printing.output_option
@click.argument("paths", nargs=-1, metavar="[HASH[/VARIANT[/UUID]]]...")
def command(
    config_path: pathlib.Path | None,
    namespace: str | None,
    context: str | None,
    timeout: float | None,
    rekey: bool,
    dry_run: bool,
    release_namespace: str | None,
    max_bytes: str | None,
    unused_for: str | None,
    output: str,
    paths: tuple[str, ...],
) -> None:
    """Delete artifacts that no pod is being restored from (runs in a Job).

    Prints a line for each artifact that it deleted. What is not there is no error.

    With --dry-run, from a workstation: what housekeeping would remove now, or what a deletion of
    HASH would, as the DynamoCheckpoints tell. The operator knows until when pods ran that have
    ended, and may keep more.

    With --rekey, in a pod of an agent: pods go on starting warm meanwhile, and what is interrupted
    is finished by the next call. At a registry, begin it while nothing is captured.

    \b
    Exit code:
      0   done; what is not there is no error
      2   wrong usage
      3   nothing was deleted: pods are being restored from it
      4   HASH or an option cannot be used, or there is no release in the namespace
      5   the configuration or the kubeconfig cannot be used
      24  the store cannot be read or written
      30  the API server does not answer or refuses, or knows no DynamoCheckpoints
      31  the registry does not answer or refuses

    \b
    Example:
      $ chrek prune --dry-run -n my-team
      $ chrek prune --dry-run --unused-for 30d -o json
      $ chrek prune --config /etc/chrek/agent.yaml --namespace my-team 5941a4cb3c363457
    """  # noqa: D301 - click wants the character, not the text
    if rekey:
        if config_path is None or namespace or paths or dry_run or timeout is not None:
            raise click.UsageError("--rekey needs --config, and is for a release's whole store")
        from chrek import rekeying

        rekeying.run(config_path)
        return
    if dry_run:
        reader, now = reading.connect(namespace, context), datetime.datetime.now(datetime.UTC)
        from chrek.cli import housekeeping

        if paths:
            found = housekeeping.deletion(reader, paths, now)
        else:
            question = housekeeping.Question(
                namespace, release_namespace, config_path, max_bytes, unused_for
            )
            found = housekeeping.planned(reader, question, now)
        if output == "table":
            show(found)
        else:
            printing.data(output, found, [one.path for one in found.removals])
        return
    if release_namespace or max_bytes or unused_for:
        raise click.UsageError("--release-namespace, --max-bytes and --unused-for need --dry-run")
    if context or output != "table":
        raise click.UsageError("--context and --output need --dry-run")
    if config_path is None or namespace is None or not paths:
        raise click.UsageError("--config, --namespace and HASH are required without --dry-run")
    from chrek import prune

    prune.run(config_path, namespace, paths, timeout=timeout)


def show(found: records.Pruning) -> None:
    """Print what would go and how much stays, for a person."""
    rows = [
        (
            one.namespace,
            one.checkpoint,
            one.path.rpartition("/")[0],
            quantity.human(one.bytes),
            one.last_used_at,
            one.why,
        )
        for one in found.removals
    ]
    if rows:
        click.echo("\n".join(printing.table(_HEADER, rows)))
    artifacts, size = printing.many(found.artifacts, "artifact"), quantity.human(found.bytes)
    if found.left_bytes is None:
        click.echo(
            f"{artifacts}, {size}, would be deleted, and what is there of these "
            f"paths that no {names.CHECKPOINT_KIND} lists"
        )
        return
    quota = f" of {quantity.human(found.max_bytes)}" if found.max_bytes else ""
    left = quantity.human(found.left_bytes)
    click.echo(f"{artifacts}, {size}, would go; {left}{quota} stay")
    for kept in found.kept:
        click.echo(f"  {kept.artifacts}, {quantity.human(kept.bytes)}, stay: {kept.why}")
    if found.over_bytes:
        over = quantity.human(found.over_bytes)
        click.echo(f"the quota is passed by {over}, and nothing more may go")
    if not found.max_bytes and not found.unused_seconds:
        click.echo("housekeeping is off: neither maxBytes nor unusedFor is set")
