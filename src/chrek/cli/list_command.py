"""`chrek list`: the checkpoints of a namespace, or of all."""

from __future__ import annotations

import datetime
from typing import Any

import click

from chrek import cli
from chrek.cli import printing, reading


@click.command("list")
@reading.cluster_options(everywhere=True)
@printing.output_option
def command(namespace: str | None, context: str | None, all_namespaces: bool, output: str) -> None:
    """List checkpoints: phase, size, when they were used last and by whom.

    \b
    Exit code:
      0   also when there are none
      2   wrong usage
      5   the kubeconfig cannot be used
      30  the API server does not answer, does not let you look, or knows no DynamoCheckpoints

    \b
    Example:
      $ chrek list -n my-team
      $ chrek list -A -o json
    """  # noqa: D301 - click wants the character, not the text
    reader = reading.connect(namespace, context, all_namespaces=all_namespaces)
    show(reader, output, datetime.datetime.now(datetime.UTC))


def show(reader: reading.Reader, output: str, now: datetime.datetime) -> None:
    """Print them; what could not be looked at is told on stderr."""
    from chrek.cli import checkpoints, records

    items = reader.find(reading.CHECKPOINTS)
    asking = ask(reader)
    rows = [checkpoints.row(item, asking) for item in items]
    rows.sort(key=lambda row: (row.namespace, row.name))
    if output != "table":
        names = [checkpoints.label(row.name) for row in rows]
        printing.data(output, records.Listing(checkpoints=rows), names)
    elif rows:
        start = 1 if reader.namespace else 0
        cells = [checkpoints.line_of(row, now)[start:] for row in rows]
        head, *lines = printing.table(checkpoints.HEADER[start:], cells)
        click.echo(head)
        for row, line in zip(rows, lines, strict=True):
            click.echo(printing.coloured(line, row.phase))
    else:
        click.echo(_nothing(reader.namespace), err=True)
    for note in reader.notes:
        click.echo(f"note: {note}", err=True)


def ask(reader: reading.Reader) -> Any:
    """Who asks for the checkpoints of a reader's namespace."""
    from chrek import names
    from chrek.cli import checkpoints

    pods = reader.look(reading.PODS, labels={names.LABEL_MANAGED: "true"})
    # The CRD of graphs may not be there.
    silent = len(reader.notes)
    graphs = reader.look(reading.GRAPHS) or []
    reader.notes[silent:] = [note for note in reader.notes[silent:] if "CRDs" not in note]
    return checkpoints.Asking(pods, graphs)


def _nothing(namespace: str) -> str:
    where = f"namespace {namespace} has" if namespace else "there are"
    option = f" -n {namespace}" if namespace else ""
    return (
        f"{where} no checkpoints; make one of a workload that runs: {cli.program()} checkpoint "
        f"deployment/NAME{option} --model MODEL --backend vllm"
    )
