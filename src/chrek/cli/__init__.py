"""The `chrek` command: every program of the image starts here.

Subcommands are imported when they are called, so that the agent loads only the agent and
`chrek hash` loads no Kubernetes client. This is the one place that turns a `ChrekError` into text
and an exit code.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import click

import chrek
from chrek import errors

if TYPE_CHECKING:
    from click import shell_completion

_COMMANDS = {
    "agent": "Serve this node: capture and restore its pods (runs in the DaemonSet).",
    "bench": "Measure how fast a workload's pods start, cold and warm.",
    "checkpoint": "Make a checkpoint of a workload that runs: its own pods are what is captured.",
    "completion": "Print what has a shell complete commands, options and names.",
    "copy": "Copy checkpoints from one store into another.",
    "diff": "Say what differs between a pod and what checkpoints captured.",
    "doctor": "Check a cluster and the releases of chrek in it, and say what to do.",
    "dump": "Capture a program that `chrek run` has started: its memory, files and GPU memory.",
    "explain": "Say why a pod started warm or cold, and what to do.",
    "export": "Write a checkpoint into a tar file.",
    "hash": "Print the identity hash of checkpoints and deployments in YAML files.",
    "import": "Take a checkpoint out of a file of `chrek export` into a store.",
    "list": "List checkpoints: phase, size, when they were used last and by whom.",
    "operator": "Reconcile checkpoints and inject pods (runs in the Deployment).",
    "prune": "Delete artifacts that no pod is being restored from (runs in a Job).",
    "report": "Write one HTML file: checkpoints, who uses them, warm and cold starts, timelines.",
    "restore": "Start a program of `chrek run` again from its newest checkpoint, or not at all.",
    "retry": "Have a checkpoint that failed, is suspect or was pruned made again.",
    "run": "Run a program of this machine, restored from its checkpoint when it has one that fits.",
    "show": "Show one checkpoint in full: its artifacts, captures and users.",
    "verify": "Read artifacts of a store and compare every byte with the manifest.",
}
"""Name -> help line. The command is `command` in `chrek.cli.<name>_command`."""
_COMPLETE = "_CHREK_COMPLETE"
"""By this variable a shell asks what may stand on a command line."""


class _LazyGroup(click.Group):
    """A group that knows its subcommands' names and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"chrek.cli.{cmd_name}_command").command
        assert isinstance(command, click.Command)  # noqa: S101 - our own table, for mypy
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Click would import every command for its help line.
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[shell_completion.CompletionItem]:
        # Click would import every command here as well.
        from click import shell_completion

        found = [
            shell_completion.CompletionItem(name, help=line)
            for name, line in sorted(_COMMANDS.items())
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if _COMPLETE in os.environ:
            from chrek.cli import shells

            shells.prepare()
        kwargs.setdefault("complete_var", _COMPLETE)
        if program() != "chrek":
            kwargs.setdefault("prog_name", program())
        try:
            return super().main(*args, **kwargs)
        except errors.ChrekError as err:
            report(err)
            sys.exit(err.exit_code)


def program() -> str:
    """What the command was called as, for usage lines and for commands to copy."""
    # kubectl starts what PATH has of this name.
    name = pathlib.Path(sys.argv[0]).name if sys.argv else ""
    return "kubectl chrek" if name.startswith("kubectl-chrek") else "chrek"


def report(err: errors.ChrekError) -> None:
    """Say on stderr what failed and what to do."""
    click.echo(f"error: {err.message}", err=True)
    if err.hint:
        click.echo(f"  hint: {err.hint}", err=True)


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(chrek.__version__, prog_name="chrek", message="%(prog)s %(version)s")
def main() -> None:
    """Make LLM inference pods start warm: capture a ready worker once, restore it in new pods."""
