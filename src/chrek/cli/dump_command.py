"""`chrek dump`: capture a program that `chrek run` has started."""

from __future__ import annotations

import pathlib

import click

from chrek.cli import completing, run_command


@click.command("dump")
@click.argument("name", shell_complete=completing.programs)
@click.option(
    "--leave-running/--stop",
    default=True,
    show_default=True,
    help="Whether the program runs on, or ends with the capture.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    default=1800,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="It runs on uncaptured when this takes longer.",
)
@run_command.state_option
def command(name: str, leave_running: bool, timeout_seconds: int, state: pathlib.Path) -> None:
    """Capture a program that `chrek run` has started: its memory, files and GPU memory.

    It stands still meanwhile. Whatever fails, it runs on. What has begun is not called off: Ctrl-C
    ends only this command. Prints the UUID of the checkpoint, its bytes and the seconds.

    \b
    Example:
      $ sudo chrek dump web
    """  # noqa: D301 - click wants the character, not the text
    from chrek.standalone import dumping

    done = dumping.dump(
        state.absolute(), name, stop=not leave_running, timeout_seconds=timeout_seconds
    )
    click.echo(f"{done.uuid}  {done.bytes} bytes  {done.seconds:.2f} s")
