"""`chrek show`: one checkpoint in full."""

from __future__ import annotations

import datetime
import shutil
import sys
from typing import TYPE_CHECKING

import click

from chrek.cli import completing, printing, reading, timeline

if TYPE_CHECKING:
    from chrek.cli import records


@click.command("show")
@click.argument("reference", metavar="NAME|HASH", shell_complete=completing.checkpoints)
@click.option("--timeline", "bars", is_flag=True, help="Draw the steps of each capture as bars.")
@reading.cluster_options()
@printing.output_option
def command(
    reference: str, bars: bool, namespace: str | None, context: str | None, output: str
) -> None:
    """Show one checkpoint in full: its artifacts, captures and users.

    \b
    Exit code:
      0   shown, whatever its phase is
      2   wrong usage
      4   there is no such checkpoint
      5   the kubeconfig cannot be used
      30  the API server does not answer, does not let you look, or knows no DynamoCheckpoints

    \b
    Example:
      $ chrek show 5941a4cb3c363457 -n my-team --timeline
    """  # noqa: D301 - click wants the character, not the text
    reader = reading.connect(namespace, context)
    from chrek.cli import checkpoints, list_command

    items = reader.find(reading.CHECKPOINTS)
    item = checkpoints.required(items, reference, reader.namespace)
    found = checkpoints.detail(item, items, list_command.ask(reader))
    if output != "table":
        printing.data(output, found, [checkpoints.label(found.checkpoint.name)])
    else:
        show(found, datetime.datetime.now(datetime.UTC), bars=bars)
    for note in reader.notes:
        click.echo(f"note: {note}", err=True)


def show(found: records.Detail, now: datetime.datetime, *, bars: bool = False) -> None:
    """Print a checkpoint for a person."""
    from chrek.cli import checkpoints

    row, screen = found.checkpoint, printing.Screen()
    phase = row.phase or "without a phase yet: has an operator noticed it?"
    screen.heading(f"{row.name} in namespace {row.namespace}: {phase}", row.phase)
    because = ": ".join(text for text in (row.reason, row.message) if text)
    screen.field("why", because)
    if row.phase != "Ready":
        screen.field("means", found.meaning)
        screen.field("do", found.action)
    screen.field("deleting", "yes: its artifacts go with the last of its identity" * found.deleting)
    screen.field("hash", row.hash)
    identity = {k: v for k, v in found.identity.items() if v not in (None, "", 0, {})}
    screen.field("identity", ", ".join(f"{key} {_value(value)}" for key, value in identity.items()))
    screen.field("captured from", _source(found))
    if found.shares_with:
        screen.field("shares with", f"{found.shares_with}, which is older and has the artifacts")
    screen.field("stored", " ".join(filter(None, (found.storage_type, found.location))))
    screen.field("on deletion", f"{found.deletion_policy} the artifacts")
    screen.field("created", printing.ago(row.created_at, now))
    screen.field("last used", printing.ago(row.last_used_at, now) or "never")
    screen.field("users", _users(row))
    for one in found.artifacts:
        screen.line()
        _artifact(screen, one, now)
        if bars:
            for line in _bars(one):
                screen.line(f"  {line}")
    for capture in found.captures:
        screen.line()
        screen.heading(f"capture of variant {capture.variant}: {capture.phase}", capture.phase)
        screen.field("  why", f"{capture.reason}: {capture.message}")
        screen.field("  image", capture.image)
        screen.field("  job", capture.job)
        screen.field("  pods", ", ".join(capture.pods))
    if not found.artifacts and not found.captures:
        screen.field("artifacts", checkpoints.NONE)
    screen.show()


def _artifact(screen: printing.Screen, one: records.Artifact, now: datetime.datetime) -> None:
    from chrek.cli import checkpoints

    state = "suspect, not used" if one.suspect else "used for new pods"
    screen.heading(f"artifact {one.variant}/{one.uuid}: {state}")
    screen.field("  image", one.image)
    screen.field("  GPUs", one.gpu)
    screen.field("  size", checkpoints.size(one))
    node = f" on node {one.node}" if one.node else ""
    screen.field("  captured", f"{printing.ago(one.created_at, now)}{node}")
    screen.field("  last restored", printing.ago(one.last_restored_at, now) or "never")
    if one.failures:
        screen.field("  failures", f"in {one.failures} pods the restored worker died or hung")
    screen.field("  digest", one.digest)
    if one.steps:
        total = timeline.total(one.steps)
        screen.field("  steps", f"{timeline.sentence(one.steps)}; together {total:.2f} s")


def _bars(one: records.Artifact) -> list[str]:
    width = min(100, shutil.get_terminal_size().columns) - 2
    blocks = timeline.can_show_blocks(sys.stdout.encoding)
    return timeline.bars(one.steps, width=width, blocks=blocks) or ["no steps were noted"]


def _source(found: records.Detail) -> str:
    if found.capture_source == "worker":
        return "worker: a serving pod, which is frozen for the capture"
    return "job: a pod of its own"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {one}" for key, one in value.items()) + "}"
    return str(value)


def _users(row: records.Checkpoint) -> str:
    if row.users is None:
        return "? (you may not list pods)"
    shown = row.users.pods[:6]
    more = len(row.users.pods) - len(shown)
    told = [f"pod/{name}" for name in shown] + [f"{more} more pods"] * bool(more)
    told += [f"dgd/{name}" for name in row.users.graphs]
    return ", ".join(told) or "nobody"
