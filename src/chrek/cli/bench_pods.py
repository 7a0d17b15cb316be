"""The pods of `chrek bench`: what they are made of, and in which order they come.

They are made of the template of a workload's own pods and belong to nobody: without the workload's
labels no ReplicaSet counts them and no Service sends requests to them. A cold one carries nothing
that chrek's webhook looks at, a warm one names the checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
import decimal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from chrek import cli, errors, names, podtemplate, quantity, state
from chrek.cli import checkpoints, differences, reading, unmanaged, workload

Object = dict[str, Any]
Kind = Literal["cold", "warm"]

_OURS = ("nvidia.com/chrek-", "chrek.nvidia.com/")
_BYTES = ("memory", "ephemeral-storage", "hugepages-")
_LEFT_SECONDS = 600
"""How long after its timeout a pod that nobody could delete gives back what it holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        run: a word in the names of all pods, and the value of their label.
        workload: as `kind/name`.
        namespace: where the pods are made.
        template: `metadata` with annotations, and `spec`.
        checkpoint: name of the DynamoCheckpoint.
        hash: of its identity.
        variant: of the worker; empty where it cannot be told on this machine.
        nodes: each gets all pods; without any the scheduler chooses.
        cold: pods on each.
        warm: pods on each.
        timeout: seconds that a pod may take to get Ready.
    """

    run: str
    workload: str
    namespace: str
    template: Object
    checkpoint: str
    hash: str
    variant: str
    nodes: Sequence[str] = ()
    cold: int = 3
    warm: int = 3
    timeout: float = 1800.0

    @property
    def turns(self) -> list[Turn]:
        """The pods in the order in which they are made."""
        return list(_turns(self.nodes or ("",), cold=self.cold, warm=self.warm))


@dataclasses.dataclass(frozen=True)
class Turn:
    """A pod that is to be made: the number tells those of its kind apart."""

    kind: Kind
    number: int
    node: str


def _turns(nodes: Sequence[str], *, cold: int, warm: int) -> Iterator[Turn]:
    """Cold and warm in turns, so that what changes meanwhile meets both."""
    kinds: tuple[tuple[Kind, int], ...] = (("cold", cold), ("warm", warm))
    counts = {"cold": 0, "warm": 0}
    for round_ in range(max(cold, warm)):
        for node in nodes:
            for kind, most in kinds:
                if round_ < most:
                    counts[kind] += 1
                    yield Turn(kind, counts[kind], node)


def template_of(found: workload.Workload) -> Object:
    """What the pods are made of.

    Raises:
        InputError: a pod of its own cannot be made of it.
    """
    claims = (found.raw.get("spec") or {}).get("volumeClaimTemplates") or []
    if claims:
        told = ", ".join(str(claim["metadata"]["name"]) for claim in claims)
        raise errors.InputError(
            f"{found.label}: each of its pods has claims of its own ({told}), which a pod that is "
            "none of them cannot have",
            hint="measure a Deployment whose pods do without",
        )
    made = podtemplate.from_pod if found.kind == "Pod" else podtemplate.from_template
    template = made(found.template)
    policy = (found.template.get("spec") or {}).get("restartPolicy")
    if policy:
        template["spec"]["restartPolicy"] = policy
    return template


def pod(plan: Plan, turn: Turn) -> Object:
    """A pod as it is sent to the API server."""
    annotations = dict(plan.template["metadata"].get("annotations") or {})
    if turn.kind == "warm":
        annotations[names.ANNOTATION_CHECKPOINT] = plan.checkpoint
    else:
        annotations = {k: v for k, v in annotations.items() if not k.startswith(_OURS)}
    spec = copy.deepcopy(plan.template["spec"])
    if turn.node:
        _pin(spec, turn.node)
    # Whatever becomes of this command, it does not hold a GPU for ever.
    own = spec.get("activeDeadlineSeconds")
    limit = int(plan.timeout) + _LEFT_SECONDS
    spec["activeDeadlineSeconds"] = min(int(own), limit) if own else limit
    metadata: Object = {
        "name": f"chrek-bench-{plan.run}-{turn.kind}-{turn.number}",
        "namespace": plan.namespace,
        "labels": {names.LABEL_BENCH: plan.run},
    }
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _pin(spec: Object, node: str) -> None:
    """Let the scheduler choose this node alone, which it does only when there is room.

    The label `kubernetes.io/hostname` need not be the node's name. Of a template's terms one has to
    hold, so each gets it.
    """
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = affinity.setdefault(key, {}).setdefault("nodeSelectorTerms", []) or [{}]
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity[key]["nodeSelectorTerms"] = [
        {**term, "matchFields": [*(term.get("matchFields") or []), field]} for term in terms
    ]


def requests(spec: Mapping[str, Any]) -> dict[str, str]:
    """What a pod asks for: the sum of its containers, or its largest init container."""
    total: dict[str, decimal.Decimal] = {}
    for container in spec.get("containers") or []:
        for name, amount in _asked(container).items():
            total[name] = total.get(name, decimal.Decimal()) + amount
    for container in spec.get("initContainers") or []:
        for name, amount in _asked(container).items():
            total[name] = max(total.get(name, decimal.Decimal()), amount)
    return {name: _amount(name, total[name]) for name in sorted(total) if total[name]}


def _asked(container: Mapping[str, Any]) -> dict[str, decimal.Decimal]:
    from chrek.kube import workstation

    resources = container.get("resources") or {}
    # Where there is only a limit, the API server makes it the request.
    found = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: workstation.quantity(str(amount)) for name, amount in found.items()}


def _amount(name: str, amount: decimal.Decimal) -> str:
    return quantity.human(int(amount)) if name.startswith(_BYTES) else f"{amount.normalize():f}"


def checkpoint_of(
    reader: reading.Reader, found: workload.Workload, given: str | None
) -> tuple[Object, list[Object]]:
    """The DynamoCheckpoint, and all of its namespace.

    Args:
        reader: of the namespace.
        found: whose pods may name one.
        given: its name or hash, if an option says it.

    Raises:
        InputError: there is none, or it is not Ready.
    """
    from chrek.operator import adoption

    reference = given or found.annotations.get(names.ANNOTATION_CHECKPOINT, "")
    if not reference and names.ANNOTATION_IDENTITY in found.annotations:
        reference = adoption.parse(found.annotations[names.ANNOTATION_IDENTITY])[1].hash()
    if not reference:
        raise errors.InputError(
            f"{found.label}: its pods name no checkpoint",
            hint=f"name one with --checkpoint; {cli.program()} list -n {reader.namespace} shows "
            f"them, {cli.program()} checkpoint {found.label} -n {reader.namespace} makes one",
        )
    items = reader.find(reading.CHECKPOINTS)
    item = checkpoints.required(items, reference, reader.namespace)
    status = state.status_of(item)
    phase = status.get("phase") or "without a phase yet"
    if phase != names.Phase.READY:
        name = item["metadata"]["name"]
        raise errors.InputError(
            f"{names.CHECKPOINT_KIND} {name} is {phase}: {status.get('message', '')}".rstrip(": "),
            hint=f"warm starts are there once it is Ready: {cli.program()} show {name} -n "
            f"{reader.namespace}",
        )
    return item, items


def fitting_variant(template: Object, item: Object, items: Sequence[Object]) -> str:
    """The worker's variant, of which the checkpoint has an artifact that may be used.

    Returns:
        Its name; empty where it cannot be told on this machine.

    Raises:
        InputError: there is none.
        UnsupportedError: it is not clear which container is the worker.
    """
    from chrek.operator import podshape

    annotations = template["metadata"].get("annotations") or {}
    wanted = annotations.get(names.ANNOTATION_CONTAINER)
    index = podshape.container_index(template["spec"], wanted)
    podshape.check(template["spec"], template["spec"]["containers"][index])
    variant = unmanaged.variant_of(template)
    name, digest = item["metadata"]["name"], checkpoints.hash_of(item, state.status_of(item))
    made = [
        one
        for each in items
        if checkpoints.hash_of(each, state.status_of(each)) == digest
        for one in state.status_of(each).get("variants") or []
        if variant in ("", one.get("name"), one.get("wantedAs"))
    ]
    if any(not one.get("suspect") for one in made):
        return variant
    label = f"{names.CHECKPOINT_KIND} {name}"
    again = f"{cli.program()} retry {name} -n {item['metadata'].get('namespace', '')}"
    if made:
        raise errors.InputError(
            f"{label}: its artifact is suspect, because workers that were restored from it died or "
            "never got ready",
            hint=f"find out why, then have it made again: {again}",
        )
    captured = differences.of_checkpoint(checkpoints.owner(items, item))
    told = differences.compare(captured, differences.of_pod(template)) if captured else []
    words = "; ".join(f"{one.what}: {one.detail}" for one in told if one.reason)
    raise errors.InputError(
        f"{label} has no artifact of this image, command and GPU request (variant {variant})"
        f"{f': {words}' if words else ''}",
        hint="name another checkpoint with --checkpoint, or let a pod of the workload start: its "
        "variant is captured then",
    )
