"""`chrek diff`: a pod, or a checkpoint, held against what checkpoints capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from chrek import cli, errors, names
from chrek.cli import completing, printing, reading

if TYPE_CHECKING:
    from chrek.cli import differences, records

Object = dict[str, Any]

KINDS = ("dckpt", "dynamocheckpoint", "dynamocheckpoints", "checkpoint")
"""How a checkpoint is told from a pod of the same name."""


@click.command("diff")
@click.argument("subject", metavar="POD|CHECKPOINT", shell_complete=completing.pods_or_checkpoints)
@click.argument(
    "others", metavar="[CHECKPOINT]...", nargs=-1, shell_complete=completing.checkpoints
)
@reading.cluster_options()
@printing.output_option
def command(
    subject: str, others: tuple[str, ...], namespace: str | None, context: str | None, output: str
) -> None:
    """Say what differs between a pod and what checkpoints captured.

    The first argument is a pod, KIND/NAME of a workload, whose newest pod counts, or a checkpoint;
    dckpt/NAME is always a checkpoint. Others are checkpoints by name or hash; without them it is
    the one that the pod asks for.

    Compared is what objects tell: image, command, env, user, GPUs, mounts, resources. What only the
    node knows, an agent compares when the pod starts: chrek explain POD. Values of env are never
    printed.

    \b
    Exit code:
      0   nothing differs that would keep the pod from being restored
      2   wrong usage
      4   there is no such pod or checkpoint, or the pod asks for none
      5   the kubeconfig cannot be used
      22  something differs
      23  it is not clear which container of the pod is the worker
      30  the API server does not answer, does not let you look, or knows no DynamoCheckpoints

    \b
    Example:
      $ chrek diff deployment/my-llm -n my-team
      $ chrek diff my-llm-0 5941a4cb3c363457 -n my-team
    """  # noqa: D301 - click wants the character, not the text
    reader = reading.connect(namespace, context)
    from chrek.cli import checkpoints, records

    items = reader.find(reading.CHECKPOINTS)
    label, side, pod = _subject(reader, items, subject)
    found = []
    for reference in others or [_asked(label, pod, items)]:
        item = checkpoints.required(items, reference, reader.namespace)
        found.append(compared(label, side, item))
    if output == "table":
        _show(found)
    else:
        wanted = [checkpoints.label(one.checkpoint) for one in found]
        printing.data(output, records.Comparisons(comparisons=found), wanted)
    if any(difference.reason for one in found for difference in one.differences):
        raise SystemExit(errors.CompatibilityError.exit_code)


def _subject(
    reader: reading.Reader, items: list[Object], text: str
) -> tuple[str, differences.Side, Object | None]:
    """What it is called, what it has, and the pod if it is one."""
    from chrek.cli import checkpoints, differences, pods

    kind, _, name = text.rpartition("/")
    if kind.lower().partition(".")[0] not in KINDS:
        try:
            label, found = pods.find(reader, text)
        except errors.InputError:
            if kind or checkpoints.find(items, text) is None:
                raise
        else:
            shown = f"pod/{found[0]['metadata']['name']}"
            label = shown if label == shown else f"{label} ({shown})"
            return label, differences.of_pod(found[0]), found[0]
        name = text
    item = checkpoints.required(items, name, reader.namespace)
    side = differences.of_checkpoint(item)
    if side is None:
        raise errors.InputError(
            f"{names.CHECKPOINT_KIND} {name} has no pod template: it captures serving pods",
            hint="name one of its pods as the first argument",
        )
    return f"dckpt/{item['metadata']['name']}", side, None


def _asked(label: str, pod: Object | None, items: list[Object]) -> str:
    """The checkpoint that a pod asks for."""
    from chrek.cli import unmanaged

    if pod is None:
        raise click.UsageError("Name a checkpoint to compare it with.")
    reference, item = unmanaged.asked_for(pod, items)
    if item is not None:
        return str(item["metadata"]["name"])
    if not reference:
        raise errors.InputError(
            f"{label} asks for no checkpoint", hint=f"name one; {cli.program()} list shows them"
        )
    return reference


def compared(label: str, side: differences.Side, item: Object) -> records.Comparison:
    """A container held against one checkpoint."""
    from chrek import state
    from chrek.cli import differences, records

    captured = differences.of_checkpoint(item)
    variants = [
        records.VariantFit(
            variant=str(one.get("name", "")),
            image=str(one.get("image", "")),
            fits=bool(side.variant) and side.variant in (one.get("name"), one.get("wantedAs")),
            suspect=bool(one.get("suspect")),
        )
        for one in state.status_of(item).get("variants") or []
    ]
    if captured is not None:
        found = differences.compare(captured, side)
    else:
        found = _by_image(variants, side)
    return records.Comparison(
        subject=label,
        checkpoint=str(item["metadata"]["name"]),
        captured="template" if captured else "image",
        variants=variants,
        differences=found,
    )


def _by_image(
    variants: list[records.VariantFit], side: differences.Side
) -> list[records.Difference]:
    """Of a serving pod that was captured no more is known than its image."""
    from chrek.cli import records

    if not variants or any(one.fits for one in variants):
        return []
    images = sorted({one.image for one in variants})
    reason = str(names.Reason.NO_VARIANT)
    if side.image not in images:
        text = f"captured {', '.join(images)}, here {side.image}"
        return [records.Difference(what="image", detail=text, reason=reason)]
    text = "no artifact of this image has this command and GPU request"
    return [records.Difference(what="command or GPUs", detail=text, reason=reason)]


def _show(found: list[records.Comparison]) -> None:
    for number, one in enumerate(found):
        if number:
            click.echo()
        hinders = sum(bool(difference.reason) for difference in one.differences)
        plural = "difference that matters" if hinders == 1 else "differences that matter"
        word = f"{hinders} {plural}" if hinders else ""
        click.echo(f"{one.subject} and dckpt/{one.checkpoint}: {word or 'nothing that matters'}")
        rows = [(d.what, d.reason or "-", d.detail) for d in one.differences]
        if rows:
            for line in printing.table(("WHAT", "REASON", "DIFFERENCE"), rows):
                click.echo(f"  {line}")
        for variant in one.variants:
            fits = "fits" if variant.fits else "is of another image, command or GPU request"
            suspect = ", suspect: not used" if variant.suspect else ""
            click.echo(f"  artifact {variant.variant} ({variant.image}) {fits}{suspect}")
        if not one.variants:
            click.echo("  it has no artifact yet")
