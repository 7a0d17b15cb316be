"""`chrek prune`."""

from __future__ import annotations

import datetime
import pathlib

import click


@click.command("prune")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=pathlib.Path),
    metavar="FILE",
    help="AgentConfig, as the chart writes it. With --dry-run the OperatorConfig, by default that "
    "of the cluster.",
)
@click.option(
    "--namespace",
    help="Of the checkpoints. With --dry-run by default all that the release serves, and that of "
    "the kubeconfig for HASH.",
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
@click.argument("paths", nargs=-1, metavar="[HASH[/VARIANT[/UUID]]]...")
def command(
    config_path: pathlib.Path | None,
    namespace: str | None,
    timeout: float | None,
    rekey: bool,
    dry_run: bool,
    release_namespace: str | None,
    max_bytes: str | None,
    unused_for: str | None,
    paths: tuple[str, ...],
) -> None:
    """Delete artifacts that no pod is being restored from (runs in a Job).

    Prints a line for each artifact that it deleted. What is not there is no error.

    With --dry-run, from a workstation: what housekeeping would remove now, or what a deletion of
    HASH would, as the DynamoCheckpoints tell. The operator knows until when pods ran that have
    ended, and may keep more.

    With --rekey, in a pod of an agent: pods go on starting warm meanwhile, and what is interrupted
    is finished by the next call. At a registry, begin it while nothing is captured.
    """
    if rekey:
        if config_path is None or namespace or paths or dry_run or timeout is not None:
            raise click.UsageError("--rekey needs --config, and is for a release's whole store")
        from chrek import rekeying

        rekeying.run(config_path)
        return
    if dry_run:
        from chrek.cli import housekeeping
        from chrek.kube import workstation

        cluster, now = workstation.connect(), datetime.datetime.now(datetime.UTC)
        if paths:
            where = namespace or workstation.default_namespace()
            housekeeping.show_deletion(cluster, where, paths, now)
            return
        question = housekeeping.Question(
            namespace, release_namespace, config_path, max_bytes, unused_for
        )
        housekeeping.show(cluster, question, now)
        return
    if release_namespace or max_bytes or unused_for:
        raise click.UsageError("--release-namespace, --max-bytes and --unused-for need --dry-run")
    if config_path is None or namespace is None or not paths:
        raise click.UsageError("--config, --namespace and HASH are required without --dry-run")
    from chrek import prune

    prune.run(config_path, namespace, paths, timeout=timeout)
