"""`chrek explain`: why was this pod cold?"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from chrek.cli import completing, printing, reading, timeline

if TYPE_CHECKING:
    from chrek.cli import records

Object = dict[str, Any]

_HEADINGS = {
    "restored": "was restored: it started warm",
    "cold": "started cold",
    "failed": "was being restored, and that failed: its container starts again, cold",
    "unhealthy": "was restored, and the restored worker was not well: its next start is cold",
    "skipped": "was not managed, because it cannot be",
    "unmanaged": "is not managed by chrek",
    "source": "is captured for a checkpoint",
    "pending": "has not started yet",
    "unknown": "was prepared for a warm start, and nobody says how it started",
}


@click.command("explain")
@click.argument("reference", metavar="POD|KIND/NAME", shell_complete=completing.pods)
@click.option("--all-pods", is_flag=True, help="Of a workload: every pod, not the newest alone.")
@reading.cluster_options()
@printing.output_option
def command(
    reference: str, all_pods: bool, namespace: str | None, context: str | None, output: str
) -> None:
    """Say why a pod started warm or cold, and what to do.

    KIND is deployment (deploy), statefulset (sts) or job: then it is about the newest pod. For a
    pod that chrek has nothing to do with, it says what is missing, with the command that mends it.

    Reads the pod, DynamoCheckpoints and, as far as you may, Events, logs and webhooks; what you may
    not read is a note.

    \b
    Exit code:
      0   explained, whether it was warm or cold
      2   wrong usage
      4   there is no such pod or workload, or it has no pods
      5   the kubeconfig cannot be used
      30  the API server does not answer, or does not let you look

    \b
    Example:
      $ chrek explain deployment/my-llm -n my-team
      $ chrek explain my-llm-7d4b9c6f5-x2x9q -o json
    """  # noqa: D301 - click wants the character, not the text
    reader = reading.connect(namespace, context)
    from chrek.cli import explanation, pods, records

    label, found = pods.find(reader, reference)
    chosen = found if all_pods else found[:1]
    gathered = gather(reader, chosen)
    told = [explanation.told(pod) for pod in found[len(chosen) :]]
    others = [
        records.Other(name=pod["metadata"]["name"], outcome=one.outcome, reason=one.reason)
        for pod, one in zip(found[len(chosen) :], told, strict=True)
    ]
    document = records.Explanation(
        workload=label, pods=[explanation.explain(one) for one in gathered], others=others
    )
    if output != "table":
        printing.data(output, document, [f"pod/{one.name}" for one in document.pods])
        return
    now = datetime.datetime.now(datetime.UTC)
    for number, one in enumerate(document.pods):
        if number:
            click.echo()
        show(one, now)
    for line in _others(others):
        click.echo(line)


def gather(reader: reading.Reader, pods: list[Object]) -> list[Any]:
    """Read what explains these pods."""
    from chrek import names
    from chrek.cli import checkpoints, explanation, unmanaged

    items = reader.look(reading.CHECKPOINTS) or []
    asking = checkpoints.Asking(reader.look(reading.PODS, labels={names.LABEL_MANAGED: "true"}), ())
    webhooks = reader.look(reading.WEBHOOKS, labels=reading.OURS)
    releases = None if webhooks is None else unmanaged.releases(webhooks)
    gathered = []
    for pod in pods:
        events = _events(reader, pod)
        log = ""
        if explanation.needs_log(pod, events):
            container = unmanaged.container_of(pod).get("name", "")
            log = reader.log(pod["metadata"]["name"], container)
        seen = explanation.Seen(
            pod=pod,
            items=items,
            asking=asking,
            events=events,
            log=log,
            releases=releases,
            graph=_graph(reader, pod),
            notes=list(reader.notes),
        )
        gathered.append(seen)
    return gathered


def _events(reader: reading.Reader, pod: Object) -> list[Object] | None:
    uid, name = pod["metadata"].get("uid", ""), pod["metadata"]["name"]
    fields = {"involvedObject.kind": "Pod", "involvedObject.name": name}
    found = reader.look(reading.EVENTS, fields=fields)
    if found is None:
        return None
    about = [(one, one.get("involvedObject") or one.get("regarding") or {}) for one in found]
    return [
        one
        for one, subject in about
        if subject.get("name") == name and (not uid or subject.get("uid") in (uid, None, ""))
    ]


def _graph(reader: reading.Reader, pod: Object) -> Mapping[str, Any] | None:
    from chrek import errors, names

    name = (pod["metadata"].get("labels") or {}).get(names.LABEL_GRAPH)
    if not name:
        return None
    try:
        return reader.get(reading.GRAPHS, name)
    except errors.ApiError as err:
        reader.notes.append(err.message)
        return None


def show(one: records.Start, now: datetime.datetime) -> None:
    """Print a pod's story on one screen."""
    screen = printing.Screen()
    reason = f": {one.reason}" if one.reason and one.outcome != "restored" else ""
    heading = f"pod {one.name} in namespace {one.namespace} {_HEADINGS[one.outcome]}{reason}"
    screen.heading(heading, one.outcome)
    screen.field("why", one.message)
    screen.field("means", one.meaning)
    screen.field("do", one.action)
    for gap in one.gaps:
        screen.field("missing", gap.what)
        screen.command(gap.command)
    screen.field("differs", _differences(one))
    screen.field("when", printing.ago(one.at, now))
    screen.field("read from", _by(one))
    screen.field("where", f"node {one.node}, container {one.container}" if one.node else "")
    if one.reference:
        variant = f", variant {one.variant}" if one.variant else ""
        screen.field("asked for", f"checkpoint {one.reference}{variant}")
    screen.field("checkpoint", _checkpoint(one, now))
    screen.field("artifact", _artifact(one, now))
    if one.capture:
        capture = one.capture
        text = f"{capture.phase}: {capture.reason}: {capture.message}"
        screen.field("its capture", text)
    screen.field("steps", _steps(one))
    screen.command(one.steps_command)
    for event in one.events:
        text = f"{event.type} {event.reason}: {event.message}"
        screen.field("event", " ".join(filter(None, (printing.ago(event.at, now), text))))
    for note in one.notes:
        screen.field("note", note)
    screen.show()


def _by(one: records.Start) -> str:
    where = {
        "condition": "the pod's condition: the agent's annotation is not there",
        "event": "an Event: the pod has neither annotation nor condition of the agent",
        "log": "chrek-init's line in the container's log: no agent reported this start",
    }
    return where.get(one.told_by, "")


def _differences(one: records.Start) -> str:
    return "\n".join(f"{each.what}: {each.detail}" for each in one.differences)


def _checkpoint(one: records.Start, now: datetime.datetime) -> str:
    row = one.checkpoint
    if row is None:
        return f"there is no {one.reference} in namespace {one.namespace}" if one.reference else ""
    hashed = f" ({row.hash})" if row.hash != row.name else ""
    age = printing.age(row.created_at, now)
    made = f", made {age} ago" if age else ""
    phase = row.phase or "without a phase yet"
    return f"{row.name}{hashed} is {phase}{made}: {row.message or 'no operator has noticed it'}"


def _artifact(one: records.Start, now: datetime.datetime) -> str:
    from chrek.cli import checkpoints

    found = one.artifact
    if found is None:
        return "none of this pod's variant" if one.checkpoint and one.variant else ""
    node = f" on node {found.node}" if found.node else ""
    suspect = "; suspect, not used" if found.suspect else ""
    last = printing.ago(found.last_restored_at, now)
    restored = f"; last restored {last}" if last else ""
    return (
        f"{found.variant}/{found.uuid}: {checkpoints.size(found)}, captured "
        f"{printing.ago(found.created_at, now) or '?'}{node}{restored}{suspect}"
    )


def _steps(one: records.Start) -> str:
    if one.steps:
        total = timeline.total(one.steps)
        return f"{timeline.sentence(one.steps)}; together {total:.2f} s"
    return "in the agent's log, which this shows:" if one.steps_command else ""


def _others(others: list[records.Other]) -> list[str]:
    if not others:
        return []
    counts: dict[str, int] = {}
    for one in others:
        words = f"{one.outcome} ({one.reason})" if one.reason else one.outcome
        counts[words] = counts.get(words, 0) + 1
    told = ", ".join(f"{count} {words}" for words, count in counts.items())
    return ["", f"other pods: {told}; --all-pods explains each"]
