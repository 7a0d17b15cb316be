"""`chrek agent`."""

from __future__ import annotations

import pathlib
import sys

import click

from chrek import log


@click.command("agent")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=pathlib.Path),
    required=True,
    metavar="FILE",
    help="AgentConfig, as the chart writes it.",
)
@click.option(
    "--log-level",
    type=click.Choice(log.LEVELS),
    help="Instead of logLevel in the configuration.",
)
def command(config_path: pathlib.Path, log_level: str | None) -> None:
    """Serve this node: capture and restore its pods (runs in the DaemonSet).

    \b
    Exit code:
      0   SIGTERM ended it
      2   wrong usage
      5   the configuration cannot be used
      30  the API server does not answer or refuses

    \b
    Example:
      $ chrek agent --config /etc/chrek/agent.yaml --log-level debug
    """  # noqa: D301 - click wants the character, not the text
    from chrek.agent import main

    sys.exit(main.run(config_path, log_level or ""))
