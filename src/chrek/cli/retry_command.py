"""`chrek retry`: what failed, is suspect or was pruned is made again."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

import click

from chrek import cli, errors, names
from chrek.cli import completing, printing, reading

Object = dict[str, Any]

POLL_SECONDS = 1.0
UNNOTICED_SECONDS = 15.0


@click.command("retry")
@click.argument("reference", metavar="NAME|HASH", shell_complete=completing.checkpoints)
@click.option("--dry-run", is_flag=True, help="Say what would happen, change nothing.")
@click.option("--wait", is_flag=True, help="Wait until it is Ready or has failed again.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@reading.cluster_options()
@printing.output_option
def command(
    reference: str,
    dry_run: bool,
    wait: bool,
    timeout: float,
    namespace: str | None,
    context: str | None,
    output: str,
) -> None:
    """Have a checkpoint that failed, is suspect or was pruned made again.

    Sets the annotation chrek.nvidia.com/retry to the time. A checkpoint that shares the artifacts
    of an older one has that one made again. Where there is nothing to do, nothing is changed.

    \b
    Exit code:
      0    done, or there was nothing to do
      2    wrong usage
      4    there is no such checkpoint
      5    the kubeconfig cannot be used
      26   with --wait: it failed again, or is not Ready in time
      30   the API server does not answer or refuses: it takes the right to patch dynamocheckpoints
      130  with --wait: interrupted; it goes on

    \b
    Example:
      $ chrek retry 5941a4cb3c363457 -n my-team --wait
    """  # noqa: D301 - click wants the character, not the text
    if wait and dry_run:
        raise click.UsageError("--wait does not go with --dry-run.")
    reader = reading.connect(namespace, context)
    from chrek.cli import checkpoints, records

    items = reader.find(reading.CHECKPOINTS)
    asked = checkpoints.required(items, reference, reader.namespace)
    item = checkpoints.owner(items, asked)
    name, told = str(item["metadata"]["name"]), effects(item)
    value = ""
    if told and not dry_run:
        value = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        patch = {"metadata": {"annotations": {names.ANNOTATION_RETRY: value}}}
        reader.merge(reading.CHECKPOINTS, name, patch)
    if output != "table":
        found = records.Retry(namespace=reader.namespace, name=name, value=value, effects=told)
        printing.data(output, found, [checkpoints.label(name)] if told else [])
        if told and wait:
            _wait(reader, name, value, timeout, output)
        return
    if item is not asked:
        click.echo(f"{asked['metadata']['name']} shares the artifacts of {name}, which is older")
    for line in told:
        click.echo(f"{name}: {line}")
    if not told:
        click.echo(f"{name}: nothing to do: {_state(item)}")
    elif dry_run:
        click.echo("nothing was changed")
    elif wait:
        _wait(reader, name, value, timeout, output)
    else:
        option = f" -n {reader.namespace}"
        click.echo(f"asked for; see how it goes: {cli.program()} show {name}{option}")


def effects(item: Object) -> list[str]:
    """What a new value of the annotation does to a checkpoint, a sentence each.

    The rules are those of `chrek.operator.status`.
    """
    from chrek import state

    status = state.status_of(item)
    told = []
    for entry in status.get("captures") or []:
        variant, image = entry.get("variant", ""), entry.get("image", "")
        what = f"variant {variant} ({image})" if image else f"variant {variant}"
        if entry.get("reason") == names.Reason.PRUNED:
            told.append(f"{what}, whose artifact was pruned, is captured again")
        elif entry.get("phase") == names.Phase.FAILED:
            why = f"{entry.get('reason', '')}: {entry.get('message', '')}"
            told.append(f"{what} is captured again; it failed with {why}")
            lost = len(entry.get("lost") or [])
            if lost:
                told.append(f"the files of {lost} lost artifacts of it are deleted")
    told += [
        f"the suspect artifact {one.get('name')}/{one.get('uuid')} is deleted, and captured again "
        "if a pod or a template asks for it"
        for one in status.get("variants") or []
        if one.get("suspect")
    ]
    return told


def _state(item: Object) -> str:
    from chrek import state

    status = state.status_of(item)
    if not status.get("phase"):
        return "no operator has noticed it yet"
    message = status.get("message", "")
    return f"it is {status['phase']}: {message}" if message else f"it is {status['phase']}"


def _wait(reader: reading.Reader, name: str, value: str, timeout: float, output: str) -> None:
    """Wait until the operator has taken the annotation, then until it is made."""
    from chrek.cli import waiting

    def get() -> Object | None:
        return reader.get(reading.CHECKPOINTS, name)

    begin = time.monotonic()
    with waiting.interruptible(name, reader.namespace):
        noticed(get, value, timeout=timeout)
    left = max(0.0, timeout - (time.monotonic() - begin))
    shown = waiting.view(output)
    waiting.wait(get, name, reader.namespace, timeout=left, shown=shown)


def noticed(
    get: Callable[[], Object | None],
    value: str,
    *,
    timeout: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until a checkpoint's status says that the value was acted on.

    Raises:
        CheckpointError: it was deleted, or no operator acts.
    """
    from chrek import state

    begin = clock()
    while True:
        item = get()
        if item is None:
            raise errors.CheckpointError("the DynamoCheckpoint was deleted", hint="make it again")
        if state.status_of(item).get("retried") == value:
            return
        waited = clock() - begin
        if waited >= min(timeout, UNNOTICED_SECONDS):
            raise errors.CheckpointError(
                f"no operator has acted on it after {waited:.0f} s",
                hint=f"{cli.program()} doctor tells whether the operator runs; it goes on either "
                "way",
            )
        sleep(POLL_SECONDS)
