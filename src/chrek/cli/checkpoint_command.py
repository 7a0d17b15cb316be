"""`chrek checkpoint`: a DynamoCheckpoint made of a workload that runs.

Whoever has a Deployment that serves writes no second pod spec: the workload's own template is what
is captured. The Kubernetes client is imported when the command runs; its help works without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click
import yaml

from chrek import errors, identity, names, variant
from chrek.cli import crds
from chrek.cli import workload as workloads

if TYPE_CHECKING:
    from chrek.kube import workstation

Object = dict[str, Any]

POLL_SECONDS = 1.0
UNNOTICED_SECONDS = 15.0
"""A DynamoCheckpoint without a phase after this time has no operator that looks at it."""


@click.command("checkpoint")
@click.argument("reference", metavar="KIND/NAME")
@click.option("-n", "--namespace", help="Of the workload; by default that of the kubeconfig.")
@click.option("--model", help="Model that the worker serves, such as meta-llama/Llama-3-8B.")
@click.option("--backend", type=click.Choice(identity.BACKENDS), help="Inference engine.")
@click.option("--dtype", help="Data type of the weights, such as bfloat16.")
@click.option("--tensor-parallel-size", type=click.IntRange(min=1), metavar="N")
@click.option("--pipeline-parallel-size", type=click.IntRange(min=1), metavar="N")
@click.option("--max-model-len", type=click.IntRange(min=1), metavar="TOKENS")
@click.option("--dynamo-version", help="Version of Dynamo in the image, such as 0.9.0.")
@click.option(
    "--extra",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another parameter that tells workers apart. Repeatable.",
)
@click.option("--name", help="Of the DynamoCheckpoint; by default the identity hash.")
@click.option(
    "--container", help="The worker, if it is neither called main nor the pod's only container."
)
@click.option(
    "--capture-source",
    type=click.Choice([str(source) for source in names.CaptureSource]),
    help="job (default): a pod of its own. worker: a serving pod, frozen for seconds.",
)
@click.option(
    "--opt-in",
    is_flag=True,
    help="Annotate the workload's pods, so that they start warm. Replaces the pods: with --wait, "
    "once the checkpoint is Ready.",
)
@click.option("--wait", is_flag=True, help="Wait until it is Ready or has failed.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@click.option("--dry-run", is_flag=True, help="Print the DynamoCheckpoint, change nothing.")
def command(reference: str, namespace: str | None, **options: Any) -> None:
    """Make a checkpoint of a workload that runs: its own pods are what is captured.

    KIND is deployment (deploy), statefulset (sts), job or pod. The identity is given by options, or
    by the annotation nvidia.com/chrek-identity of the workload's pods.

    \b
    Example:
      $ chrek checkpoint deployment/my-llm --model meta-llama/Llama-3-8B \\
          --backend vllm --dtype bfloat16 --opt-in --wait
      DynamoCheckpoint 5941a4cb3c363457 created from deployment/my-llm
      Creating: ...
      Ready: ...
      deployment/my-llm: its pods are replaced now and start warm
    """  # noqa: D301 - click wants the character, not the text
    kind, name = workloads.parse_reference(reference)
    given = {
        "model": options["model"],
        "backendFramework": options["backend"],
        "dynamoVersion": options["dynamo_version"],
        "tensorParallelSize": options["tensor_parallel_size"],
        "pipelineParallelSize": options["pipeline_parallel_size"],
        "dtype": options["dtype"],
        "maxModelLen": options["max_model_len"],
        "extraParameters": dict(map(_parse_extra, options["extra"])) or None,
    }

    # It takes a second or two, so that help and wrong usage are answered before.
    from chrek.kube import workstation

    cluster = workstation.connect()
    where = namespace or workstation.default_namespace()
    found = workloads.find(cluster, kind, name, namespace=where)
    raw = workloads.identity_of(found, given)
    known = identity.parse(raw)
    container = options["container"] or found.annotations.get(names.ANNOTATION_CONTAINER)
    source = options["capture_source"] or found.annotations.get(
        names.ANNOTATION_CAPTURE_SOURCE, names.CaptureSource.JOB
    )
    wanted = workloads.build(
        found,
        raw,
        name=options["name"] or known.hash(),
        namespace=where,
        container=container,
        source=str(source),
    )
    if options["opt_in"]:
        workloads.check_opt_in(found)
    if options["dry_run"]:
        click.echo(yaml.safe_dump(wanted, sort_keys=False), nl=False)
        return
    _create(cluster, wanted, known, found)
    # A serving pod can be captured only when it opted in at its start.
    early = options["opt_in"] and (not options["wait"] or source == names.CaptureSource.WORKER)
    if early:
        _opt_in(cluster, found, known.hash(), container, warm=False)
    elif not options["opt_in"] and not workloads.opted_in(found, known.hash()):
        click.echo(_how_to_opt_in(known.hash(), source))
    if options["wait"]:
        path = _checkpoints(where, wanted["metadata"]["name"])
        wait(lambda: cluster.get(path), timeout=options["timeout"])
    if options["opt_in"] and not early:
        _opt_in(cluster, found, known.hash(), container, warm=True)


def wait(
    get: Callable[[], Object | None],
    *,
    timeout: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Print each change of phase and message until the checkpoint is Ready.

    Args:
        get: reads the DynamoCheckpoint, None when there is none.
        timeout: seconds to wait at most.
        sleep: waits between two looks.
        clock: seconds that only grow.

    Raises:
        CheckpointError: it failed, was deleted, or is not Ready in time.
    """
    start, said, warned = clock(), "", False
    while True:
        found = get()
        if found is None:
            raise errors.CheckpointError("the DynamoCheckpoint was deleted", hint="make it again")
        status = found.get("status") or {}
        phase, message = str(status.get("phase", "")), str(status.get("message", ""))
        line = f"{phase}: {message}" if message else phase
        if line != said:
            click.echo(line)
            said = line
        name = found["metadata"]["name"]
        if phase == names.Phase.READY:
            return
        if phase == names.Phase.FAILED:
            raise errors.CheckpointError(
                f"{names.CHECKPOINT_KIND} {name} failed: {message}",
                hint=f'then: kubectl annotate dckpt {name} {names.ANNOTATION_RETRY}="$(date)" '
                f"--overwrite -n {found['metadata']['namespace']}",
            )
        waited = clock() - start
        if not phase and waited >= UNNOTICED_SECONDS and not warned:
            warned = True
            click.echo(
                f"no operator has noticed it after {waited:.0f} s; is chrek installed for "
                f"namespace {found['metadata']['namespace']} (dynamo-operator.watchNamespaces)?"
            )
        if waited >= timeout:
            raise errors.CheckpointError(
                f"{names.CHECKPOINT_KIND} {name} is not Ready after {timeout:.0f} s: "
                f"{line or 'it has no phase yet'}",
                hint="give more time with --timeout; it goes on either way",
            )
        sleep(min(POLL_SECONDS, max(timeout - waited, 0.0)))


def _parse_extra(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise errors.InputError(
            f"--extra {text}: not KEY=VALUE", hint="write it like --extra quantization=awq"
        )
    return key, value


def _create(
    cluster: workstation.Cluster,
    wanted: Object,
    known: identity.Identity,
    workload: workloads.Workload,
) -> None:
    """Create it; one of the same identity that exists already is as good."""
    name, namespace = wanted["metadata"]["name"], wanted["metadata"]["namespace"]
    try:
        cluster.create(_checkpoints(namespace), wanted)
    except errors.ApiError as err:
        if err.status == 404:
            raise crds.absent(err) from err
        there = cluster.get(_checkpoints(namespace, name)) if err.status == 409 else None
        if there is None:
            raise
        _compare(there, wanted, known, workload)
    else:
        click.echo(f"{names.CHECKPOINT_KIND} {name} created from {workload.label}")


def _compare(
    there: Object, wanted: Object, known: identity.Identity, workload: workloads.Workload
) -> None:
    name = wanted["metadata"]["name"]
    other = identity.parse(there["spec"]["identity"], f"{names.CHECKPOINT_KIND} {name}: identity")
    if other != known:
        raise errors.InputError(
            f"{names.CHECKPOINT_KIND} {name} exists already and is of another identity: "
            f"{other.canonical()}",
            hint="choose another name with --name, or leave it out",
        )
    phase = (there.get("status") or {}).get("phase") or "without a phase yet"
    click.echo(f"{names.CHECKPOINT_KIND} {name} exists already, of this identity: {phase}")
    theirs, ours = _variant(there), _variant(wanted)
    if theirs and ours and theirs != ours:
        click.echo(f"note: it captures another image or command than that of {workload.label}")


def _variant(checkpoint: Mapping[str, Any]) -> str:
    """Variant of what a DynamoCheckpoint captures; empty when that cannot be told."""
    from chrek.operator import podshape

    job = checkpoint["spec"].get("job") or {}
    spec = (job.get("podTemplateSpec") or {}).get("spec") or {}
    try:
        index = podshape.container_index(spec, job.get("container"))
    except errors.UnsupportedError:
        return ""
    return variant.of_container(spec["containers"][index])


def _how_to_opt_in(hashed: str, source: str) -> str:
    what = "pods start warm"
    if source == names.CaptureSource.WORKER:
        what = "a serving pod is captured, and others start warm,"
    return (
        f"{what} when they carry the annotation {names.ANNOTATION_CHECKPOINT}={hashed} "
        "(--opt-in sets it)"
    )


def _opt_in(
    cluster: workstation.Cluster,
    workload: workloads.Workload,
    hashed: str,
    container: str | None,
    *,
    warm: bool,
) -> None:
    if workloads.opted_in(workload, hashed):
        click.echo(f"{workload.label}: its pods have opted in already")
        return
    annotations = {names.ANNOTATION_CHECKPOINT: hashed}
    if container:
        annotations[names.ANNOTATION_CONTAINER] = container
    patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    cluster.merge(workload.path, patch)
    strategy = workload.raw["spec"].get("updateStrategy") or {}
    when = "when you delete them" if strategy.get("type") == "OnDelete" else "now"
    how = "warm" if warm else "cold until the checkpoint is Ready, warm from then on"
    click.echo(f"{workload.label}: its pods are replaced {when} and start {how}")


def _checkpoints(namespace: str, name: str = "") -> str:
    from chrek.kube import workstation

    return workstation.path(names.API_VERSION, names.CHECKPOINT_PLURAL, namespace, name)
