"""`chrek prune`."""

from __future__ import annotations

import pathlib

import click


@click.command("prune")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=pathlib.Path),
    required=True,
    metavar="FILE",
    help="AgentConfig, as the chart writes it.",
)
@click.option("--namespace", required=True, help="Of the checkpoints.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to wait for restores that read them; by default as long as one may take.",
)
@click.argument("paths", nargs=-1, required=True, metavar="HASH[/VARIANT[/UUID]]...")
def command(
    config_path: pathlib.Path, namespace: str, timeout: float | None, paths: tuple[str, ...]
) -> None:
    """Delete artifacts that no pod is being restored from (runs in a Job).

    Prints a line for each artifact that it deleted. What is not there is no error.
    """
    from chrek import prune

    prune.run(config_path, namespace, paths, timeout=timeout)
