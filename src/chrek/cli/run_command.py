"""`chrek run`: run a program of this machine so that it can be captured, and start it warm."""

from __future__ import annotations

import os
import pathlib
import sys

import click

from chrek.cli import completing

STATE = "/var/lib/chrek/standalone"
STORE = "/var/lib/chrek/checkpoints"
state_option = click.option(
    "--state",
    default=STATE,
    show_default=True,
    type=click.Path(path_type=pathlib.Path),
    help="Where what programs change is kept, a directory for each name.",
)


def say(text: str) -> None:
    """A line for the person who started a program, whose own output is on stdout."""
    click.echo(f"chrek: {text}", err=True)


@click.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option(
    "--name",
    shell_complete=completing.programs,
    help="By default made of the command and the directory.",
)
@click.option(
    "--store",
    default=STORE,
    show_default=True,
    type=click.Path(path_type=pathlib.Path, file_okay=False),
    help="Directory of the checkpoints, laid out like the volume of a cluster.",
)
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="PATH",
    type=click.Path(path_type=pathlib.Path, exists=True),
    help="A file or directory of this machine that the program writes in place; not captured. "
    "Can be given again.",
)
@click.option(
    "--own-network",
    is_flag=True,
    help="A network with nothing but a loopback device, instead of this machine's.",
)
@state_option
@click.argument(
    "command",
    nargs=-1,
    required=True,
    metavar="-- COMMAND...",
    shell_complete=completing.files,
)
def command(
    name: str | None,
    store: pathlib.Path,
    volumes: tuple[pathlib.Path, ...],
    own_network: bool,
    state: pathlib.Path,
    command: tuple[str, ...],
) -> None:
    """Run a program of this machine, restored from its checkpoint when it has one that fits.

    Needs no Kubernetes, and root. The program has namespaces of its own and sees this machine's
    files; what it changes of the root file system stays in --state, until it is started again. The
    network is this machine's: when it is restored, its ports must be free.

    Ends with the program's exit code. Whether the start was warm or cold, and why, is on stderr.

    \b
    Example:
      $ sudo chrek run --name web -- python3 server.py
    """  # noqa: D301 - click wants the character, not the text
    from chrek.standalone import records, supervisor

    cwd = os.getcwd()
    records.check_root()
    run = records.Run(
        name=records.check_name(name or records.default_name(command, cwd)),
        command=[*command],
        cwd=cwd,
        environment=dict(os.environ),
        volumes=sorted({str(path.resolve()) for path in volumes}),
        store=str(store.absolute()),
        own_network=own_network,
    )
    if not name:
        say(f"This program is called {run.name}")
    sys.exit(supervisor.start(run, state.absolute(), say))
