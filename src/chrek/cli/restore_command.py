"""`chrek restore`: start a program of this machine from its checkpoint, or not at all."""

from __future__ import annotations

import pathlib
import sys

import click

from chrek.cli import completing, run_command


@click.command("restore")
@click.argument("name", shell_complete=completing.programs)
@run_command.state_option
def command(name: str, state: pathlib.Path) -> None:
    """Start a program of `chrek run` again from its newest checkpoint, or not at all.

    As `chrek run` with the same command, environment and directory as the last time, but for a cold
    start: when it cannot be restored, this ends with the Reason.

    \b
    Example:
      $ sudo chrek restore web
    """  # noqa: D301 - click wants the character, not the text
    from chrek import errors
    from chrek.standalone import records, supervisor

    records.check_root()
    run = records.load(state.absolute(), name)
    try:
        code = supervisor.start(run, state.absolute(), run_command.say, only_warm=True)
    except errors.ChrekError as err:
        err.message = f"{name} was not restored: {err.reason}: {err.message}"
        raise
    sys.exit(code)
