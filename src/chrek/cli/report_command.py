"""`chrek report`: checkpoints, starts and timelines as one HTML file."""

from __future__ import annotations

import datetime
import os
import pathlib
from typing import TYPE_CHECKING

import click

import chrek
from chrek import cli, names
from chrek.cli import completing, reading, streams

if TYPE_CHECKING:
    from chrek.cli import page_data

_AGENT_FIELDS = {
    "involvedObject.kind": "Pod",
    "reportingComponent": "nvidia.com/chrek-agent",
}


@click.command("report")
@reading.cluster_options(everywhere=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=completing.files,
    default="chrek-report.html",
    show_default=True,
    help="Where the page is written; - is standard output.",
)
@click.option(
    "--bench",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
    help="Also draw results of scripts/bench, such as docs/bench.",
)
def command(
    namespace: str | None,
    context: str | None,
    all_namespaces: bool,
    output: str,
    bench: pathlib.Path | None,
) -> None:
    """Write one HTML file: checkpoints, who uses them, warm and cold starts, timelines.

    The file stands alone: it loads nothing and runs no script, so it can be mailed, archived or
    printed. It names models, pods and nodes.

    \b
    Exit code:
      0   written, also when there are no checkpoints
      2   wrong usage
      4   the file cannot be written, or the benchmarks cannot be read
      5   the kubeconfig cannot be used
      30  the API server does not answer, does not let you look, or knows no DynamoCheckpoints

    \b
    Example:
      $ chrek report -n my-team -o report.html
      $ chrek report -A --bench docs/bench
    """  # noqa: D301 - click wants the character, not the text
    from chrek.cli import page, page_bench, page_data

    benches = page_bench.read(bench) if bench else []
    reader = reading.connect(namespace, context, all_namespaces=all_namespaces)
    found = gather(reader, datetime.datetime.now(datetime.UTC), context)
    text = page.render(found, benches)
    # What is no text at all, such as half a surrogate pair, was replaced before.
    data = text.encode()
    if output == "-":
        click.echo(data, nl=False)
    else:
        with streams.reserved(pathlib.Path(output)) as write:
            write(data)
        counts = page_data.count(found.starts)
        starts = sum(counts[word] for word in page_data.STARTED)
        click.echo(f"{output}: {len(found.rows)} checkpoints, {starts} starts")
    for note in found.notes:
        click.echo(f"note: {note}", err=True)


def gather(
    reader: reading.Reader, now: datetime.datetime, context: str | None = None
) -> page_data.Report:
    """Read what is shown; what may not be read is a note."""
    from chrek.cli import checkpoints, page_data
    from chrek.kube import glance

    items = reader.find(reading.CHECKPOINTS)
    pods = reader.look(reading.PODS, labels={names.LABEL_MANAGED: "true"})
    events = reader.look(reading.EVENTS, fields=_AGENT_FIELDS)
    graphs = reader.look(reading.GRAPHS)
    # DynamoCheckpoints could be listed: only the CRD of graphs may not be there.
    notes = [note for note in reader.notes if "CRDs" not in note]
    rows, artifacts = page_data.checkpoint_rows(items, checkpoints.Asking(pods, graphs or ()))
    return page_data.Report(
        facts={
            "Cluster": context or glance.read(os.environ).current or "the one this runs in",
            "Kubernetes": reader.version(),
            "Namespace": reader.namespace or "all",
            "Time": f"{now.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
            "chrek": chrek.__version__,
        },
        namespace=reader.namespace,
        now=now,
        rows=rows,
        artifacts=artifacts,
        starts=page_data.starts(pods or (), events or (), items),
        pods_known=pods is not None,
        notes=notes,
        program=cli.program(),
    )
