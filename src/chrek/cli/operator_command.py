"""`chrek operator`."""

from __future__ import annotations

import pathlib
import sys

import click

from chrek import log


@click.command("operator")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=pathlib.Path),
    required=True,
    metavar="FILE",
    help="OperatorConfig, as the chart writes it.",
)
@click.option(
    "--log-level",
    type=click.Choice(log.LEVELS),
    help="Instead of logLevel in the configuration.",
)
def command(config_path: pathlib.Path, log_level: str | None) -> None:
    """Reconcile checkpoints and inject pods (runs in the Deployment).

    \b
    Exit code:
      0   SIGTERM ended it
      2   wrong usage
      5   the configuration cannot be used
      30  the API server does not answer or refuses

    \b
    Example:
      $ chrek operator --config /etc/chrek/operator.yaml --log-level debug
    """  # noqa: D301 - click wants the character, not the text
    from chrek.operator import main

    sys.exit(main.run(config_path, log_level or ""))
