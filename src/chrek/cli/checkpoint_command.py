"""`chrek checkpoint`: a DynamoCheckpoint made of a workload that runs.

Whoever has a Deployment that serves writes no second pod spec: the workload's own template is what
is captured. The Kubernetes client is imported when the command runs; its help works without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from chrek import errors, identity, names, state, variant
from chrek.cli import checkpoints, completing, printing, reading, records, waiting
from chrek.cli import workload as workloads

Object = dict[str, Any]


@click.command("checkpoint")
@click.argument("reference", metavar="KIND/NAME", shell_complete=completing.workloads)
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
@click.option(
    "--dry-run", is_flag=True, help="Print the DynamoCheckpoint, as YAML or JSON; change nothing."
)
@reading.cluster_options(namespace="Of the workload; by default that of the kubeconfig.")
@printing.output_option
def command(
    reference: str, namespace: str | None, context: str | None, output: str, **options: Any
) -> None:
    """Make a checkpoint of a workload that runs: its own pods are what is captured.

    KIND is deployment (deploy), statefulset (sts), job or pod. The identity is given by options, or
    by the annotation nvidia.com/chrek-identity of the workload's pods.

    With -o json or yaml the outcome is printed at the end, and what happens meanwhile on stderr.

    \b
    Exit code:
      0    it is there, also when it was there before; with --wait it is Ready
      2    wrong usage
      4    workload, identity or options cannot be used, or the name is another identity's
      5    the kubeconfig cannot be used
      23   pods of this kind cannot be captured
      26   with --wait: it failed, or is not Ready in time
      30   the API server does not answer or refuses, or knows no DynamoCheckpoints
      130  with --wait: interrupted; the checkpoint goes on

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
    reader = reading.connect(namespace, context)
    found = workloads.find(reader, kind, name)
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
        namespace=reader.namespace,
        container=container,
        source=str(source),
    )
    if options["opt_in"]:
        workloads.check_opt_in(found)
    label = checkpoints.label(wanted["metadata"]["name"])
    if options["dry_run"]:
        if output == "name":
            click.echo(label)
        else:
            printing.write(output, wanted)
        return
    making = _Making(reader, found, wanted, known, output)
    making.create()
    # A serving pod can be captured only when it opted in at its start.
    early = options["opt_in"] and (not options["wait"] or source == names.CaptureSource.WORKER)
    if early:
        making.opt_in(container, warm=False)
    elif not options["opt_in"] and not making.opted_in:
        making.say(_how_to_opt_in(known.hash(), source))
    try:
        if options["wait"]:
            making.wait(options["timeout"], opts_in=options["opt_in"] and not early)
        if options["opt_in"] and not early:
            making.opt_in(container, warm=True)
    finally:
        if output != "table":
            printing.data(output, making.outcome(), [label])


def _parse_extra(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise errors.InputError(
            f"--extra {text}: not KEY=VALUE", hint="write it like --extra quantization=awq"
        )
    return key, value


class _Making:
    """A DynamoCheckpoint on its way, and what there is to tell of it."""

    def __init__(
        self,
        reader: reading.Reader,
        workload: workloads.Workload,
        wanted: Object,
        known: identity.Identity,
        output: str,
    ) -> None:
        self._reader = reader
        self._workload = workload
        self._wanted = wanted
        self._known = known
        self._output = output
        self._name = str(wanted["metadata"]["name"])
        self._item: Object = wanted
        self._created = True
        self._same = True
        self.opted_in = workloads.opted_in(workload, known.hash())

    def say(self, text: str) -> None:
        """A line for a person; standard output is for data where that was asked for."""
        click.echo(text, err=self._output != "table")

    def create(self) -> None:
        """Create it; one of the same identity that exists already is as good."""
        try:
            self._item = self._reader.create(reading.CHECKPOINTS, self._wanted)
        except errors.ApiError as err:
            there = None
            if err.status == 409:
                there = self._reader.get(reading.CHECKPOINTS, self._name)
            if there is None:
                raise
            self._compare(there)
        else:
            self.say(f"{names.CHECKPOINT_KIND} {self._name} created from {self._workload.label}")

    def _compare(self, there: Object) -> None:
        label = f"{names.CHECKPOINT_KIND} {self._name}"
        other = identity.parse(there["spec"]["identity"], f"{label}: identity")
        if other != self._known:
            raise errors.InputError(
                f"{label} exists already and is of another identity: {other.canonical()}",
                hint="choose another name with --name, or leave it out",
            )
        self._item, self._created = there, False
        phase = state.status_of(there).get("phase") or "without a phase yet"
        self.say(f"{label} exists already, of this identity: {phase}")
        theirs, ours = _variant(there), _variant(self._wanted)
        if theirs and ours and theirs != ours:
            self._same = False
            whose = self._workload.label
            self.say(f"note: it captures another image or command than that of {whose}")

    def wait(self, timeout: float, *, opts_in: bool) -> None:
        """Wait until it is Ready.

        Args:
            timeout: seconds to wait at most.
            opts_in: whether the workload opts in after that.
        """
        again = "the same command waits on"
        if opts_in:
            again += f", and has the pods of {self._workload.label} opt in then"
        waiting.wait(
            self._look,
            self._name,
            self._reader.namespace,
            timeout=timeout,
            shown=waiting.view(self._output),
            again=again,
        )

    def _look(self) -> Object | None:
        found = self._reader.get(reading.CHECKPOINTS, self._name)
        if found is not None:
            self._item = found
        return found

    def opt_in(self, container: str | None, *, warm: bool) -> None:
        """Annotate the workload's pods, which replaces them."""
        label = self._workload.label
        if self.opted_in:
            self.say(f"{label}: its pods have opted in already")
            return
        annotations = {names.ANNOTATION_CHECKPOINT: self._known.hash()}
        if container:
            annotations[names.ANNOTATION_CONTAINER] = container
        patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
        self._reader.merge(workloads.resource(self._workload.kind), self._workload.name, patch)
        self.opted_in = True
        strategy = self._workload.raw["spec"].get("updateStrategy") or {}
        when = "when you delete them" if strategy.get("type") == "OnDelete" else "now"
        how = "warm" if warm else "cold until the checkpoint is Ready, warm from then on"
        self.say(f"{label}: its pods are replaced {when} and start {how}")

    def outcome(self) -> records.Made:
        """What is known of it."""
        status = state.status_of(self._item)
        return records.Made(
            namespace=self._reader.namespace,
            name=self._name,
            hash=self._known.hash(),
            workload=self._workload.label,
            created=self._created,
            same=self._same,
            phase=str(status.get("phase", "")),
            message=str(status.get("message", "")),
            opted_in=self.opted_in,
        )


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
