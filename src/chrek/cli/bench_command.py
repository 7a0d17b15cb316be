"""`chrek bench`: how much faster does a worker of this cluster start with chrek?

The Kubernetes client is imported when the command runs; its help works without.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import pathlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from chrek import errors, state
from chrek.cli import completing, printing, reading, streams
from chrek.cli import workload as workloads

if TYPE_CHECKING:
    from chrek.cli import bench_pods, bench_records

Object = dict[str, Any]


@click.command("bench")
@click.argument("reference", metavar="KIND/NAME", shell_complete=completing.workloads)
@click.option(
    "--checkpoint",
    metavar="NAME|HASH",
    shell_complete=completing.checkpoints,
    help="To start warm from; by default the one that the workload's pods ask for.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Warm pods, and cold ones where --cold does not say how many.",
)
@click.option(
    "--cold", type=click.IntRange(min=0), metavar="N", help="Cold pods, which may take long."
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NODE",
    help="Have the pods run there; given more than once, all of them on each. By default the "
    "scheduler chooses.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="How long one pod may take to get Ready.",
)
@click.option(
    "--output-file",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    metavar="FILE",
    help="Also write the result there, as JSON, for chrek report --bench.",
)
@click.option("--dry-run", is_flag=True, help="Print a pod of each kind, make none.")
@reading.cluster_options(namespace="Of the workload; by default that of the kubeconfig.")
@printing.output_option
def command(
    reference: str, namespace: str | None, context: str | None, output: str, **options: Any
) -> None:
    """Measure how fast a workload's pods start, cold and warm.

    KIND is deployment (deploy), statefulset (sts), job or pod; the worker of a
    DynamoGraphDeployment is one of its pods. The workload itself is not touched: pods of its
    template are made beside it, one at a time, cold and warm in turns, and deleted again. They need
    room for one more pod. They have none of the workload's labels, so no Service sends them
    requests; a worker that registers itself elsewhere may get some.

    A cold pod has nothing of chrek in it. A warm one counts only when it was restored; else the
    Reason is told. Seconds are those of this machine from the request to create a pod. How it goes
    is told on stderr.

    You need the rights to get the workload, to list dynamocheckpoints, and to create, get, watch
    and delete pods. Events, nodes and webhooks are read where you may.

    \b
    Exit code:
      0    measured: at least one warm pod was restored
      2    wrong usage
      3    no warm pod was restored, or a pod did not get Ready; what was measured is printed
      4    no such workload or checkpoint, it is not Ready or of another variant, or chrek would
           not prepare such pods; also when FILE cannot be written
      5    the kubeconfig cannot be used
      23   pods of this kind cannot be restored
      30   the API server does not answer or refuses, or knows no DynamoCheckpoints
      130  interrupted (143: told to end); the pods are deleted

    \b
    Example:
      $ chrek bench deployment/my-llm -n my-team --cold 1 --output-file my-llm.json
      $ chrek report -n my-team --bench .
    """  # noqa: D301 - click wants the character, not the text
    kind, name = workloads.parse_reference(reference)
    reader = reading.connect(namespace, context)
    from chrek.cli import bench_checks, bench_pods, bench_results, bench_trials, checkpoints, ends

    found = workloads.find(reader, kind, name)
    template = bench_pods.template_of(found)
    item, items = bench_pods.checkpoint_of(reader, found, options["checkpoint"])
    plan = bench_pods.Plan(
        run=secrets.token_hex(3),
        workload=found.label,
        namespace=reader.namespace,
        template=template,
        checkpoint=str(item["metadata"]["name"]),
        hash=checkpoints.hash_of(item, state.status_of(item)),
        variant=bench_pods.fitting_variant(template, item, items),
        nodes=tuple(dict.fromkeys(options["nodes"])),
        cold=options["repeat"] if options["cold"] is None else options["cold"],
        warm=options["repeat"],
        timeout=options["timeout"],
    )
    for line in _announced(plan):
        _say(line)
    if options["dry_run"]:
        _print_pods(plan, output)
        return
    file = options["output_file"]
    with streams.reserved(file) if file else contextlib.nullcontext(_nowhere) as write:
        bench_checks.rights(reader)
        bench_checks.admitted(reader, plan, items)
        trials: list[bench_records.Trial] = []
        with ends.undone_by_signals(), bench_trials.Trials(reader, plan, say=_say) as making:
            trials.extend(making.run())
        nodes = [trial.node for trial in trials]
        machine = bench_results.machine(reader, nodes, datetime.datetime.now(datetime.UTC))
        bench = bench_results.document(
            plan, trials, machine, problem=making.problem, notes=reader.notes
        )
        write(_json(bench))
    _print(bench, output)
    if making.problem:
        raise errors.ChrekError(making.problem, hint=_hint(bench))
    if not any(trial.counted for trial in trials if trial.kind == "warm"):
        raise errors.ChrekError("no warm pod was restored", hint=_hint(bench))


def _nowhere(_data: bytes) -> None:
    """Writes no file."""


def _say(line: str) -> None:
    click.echo(line, err=True)


def _announced(plan: bench_pods.Plan) -> Iterator[str]:
    from chrek.cli import bench_pods

    turns = plan.turns
    counts = [f"{n} {kind}" for kind in ("cold", "warm") if (n := _count(turns, kind))]
    where = f", on {' and '.join(plan.nodes)}" if plan.nodes else ""
    yield (
        f"{len(turns)} pods of {plan.workload} in namespace {plan.namespace}, one at a time: "
        f"{' and '.join(counts)}{where}"
    )
    asked = bench_pods.requests(plan.template["spec"])
    told = ", ".join(f"{name} {amount}" for name, amount in asked.items()) or "nothing"
    yield f"each requests {told}; warm from checkpoint {plan.checkpoint}"


def _count(turns: list[bench_pods.Turn], kind: str) -> int:
    return sum(turn.kind == kind for turn in turns)


def _print_pods(plan: bench_pods.Plan, output: str) -> None:
    from chrek.cli import bench_pods

    kinds = {turn.kind: turn for turn in reversed(plan.turns)}
    pods = [bench_pods.pod(plan, kinds[kind]) for kind in sorted(kinds)]
    if output == "name":
        for pod in pods:
            click.echo(f"pod/{pod['metadata']['name']}")
        return
    printing.write(output, {"apiVersion": "v1", "kind": "List", "items": pods})


def _print(bench: bench_records.Bench, output: str) -> None:
    from chrek.cli import bench_results

    if output != "table":
        printing.data(output, bench, [f"pod/{trial.pod}" for trial in bench.trials])
        return
    for line in bench_results.lines(bench):
        click.echo(line)
    for note in bench.notes:
        click.echo(f"note: {note}", err=True)


def _hint(bench: bench_records.Bench) -> str:
    """What to do when there is no figure, or not all."""
    from chrek import reasons

    missed = [one for one in bench.trials if one.kind == "warm" and not one.counted]
    advice = reasons.advice(missed[-1].reason) if missed and missed[-1].reason else None
    if advice and not bench.problem:
        return advice.of(checkpoint=f"{bench.checkpoint} -n {bench.namespace}", pod="POD")
    if bench.problem and bench.trials and bench.trials[-1].scheduled is None:
        return "make room for one more pod, or name other nodes with --node"
    return (
        "give more time with --timeout, or see whether a pod of the workload starts: "
        f"kubectl describe {bench.workload} -n {bench.namespace}"
    )


def _json(bench: bench_records.Bench) -> bytes:
    import msgspec

    text = json.dumps(msgspec.to_builtins(bench), indent=2, ensure_ascii=False)
    return f"{text}\n".encode()
