"""`chrek operator`."""

from __future__ import annotations

import pathlib
import sys

import click


@click.command("operator")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=pathlib.Path),
    required=True,
    metavar="FILE",
    help="OperatorConfig, as the chart writes it.",
)
def command(config_path: pathlib.Path) -> None:
    """Reconcile checkpoints and inject pods (runs in the Deployment)."""
    from chrek.operator import main

    sys.exit(main.run(config_path))
