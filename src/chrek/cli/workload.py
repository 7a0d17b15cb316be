"""A workload that runs, its identity, and the DynamoCheckpoint to make of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chrek import errors, identity, names, podtemplate

if TYPE_CHECKING:
    from chrek.cli import reading

Object = dict[str, Any]

_KINDS = {
    "Deployment": ("apps/v1", "deployments", ("deploy",)),
    "StatefulSet": ("apps/v1", "statefulsets", ("sts",)),
    "Job": ("batch/v1", "jobs", ()),
    "Pod": ("v1", "pods", ("po",)),
}
"""Kind -> API version, plural, short names."""
_ROLLS = ("Deployment", "StatefulSet")
"""Kinds whose pod template can change."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the checkpoint is made of.

    Attributes:
        kind: such as `Deployment`.
        name: of the object.
        raw: the object.
    """

    kind: str
    name: str
    raw: Object

    @property
    def label(self) -> str:
        """`kind/name` for messages."""
        return f"{self.kind.lower()}/{self.name}"

    @property
    def template(self) -> Object:
        """The pod, or the template of its pods, as the API server shows it."""
        found: Object = self.raw if self.kind == "Pod" else self.raw["spec"]["template"]
        return found

    @property
    def annotations(self) -> dict[str, str]:
        """Those of its pods."""
        return dict((self.template.get("metadata") or {}).get("annotations") or {})


def parse_reference(text: str) -> tuple[str, str]:
    """Kind and name of `deploy/my-llm`, spelled as kubectl takes it.

    Raises:
        InputError: it is no such reference.
    """
    word, _, name = text.partition("/")
    for kind, (version, plural, short) in _KINDS.items():
        group = version.partition("/")[0] if "/" in version else ""
        spelled = {kind.lower(), plural, *short}
        spelled |= {f"{one}.{group}" for one in (kind.lower(), plural) if group}
        if word.lower() in spelled and name and "/" not in name:
            return kind, name
    raise errors.InputError(
        f"{text!r} is not the name of a workload",
        hint="write deployment/NAME, statefulset/NAME, job/NAME or pod/NAME",
    )


def resource(kind: str) -> tuple[str, str]:
    """API version and plural of a kind."""
    version, plural, _ = _KINDS[kind]
    return version, plural


def find(reader: reading.Reader, kind: str, name: str) -> Workload:
    """Read a workload of the reader's namespace.

    Raises:
        InputError: there is none of this name.
    """
    raw, namespace = reader.get(resource(kind), name), reader.namespace
    if raw is None:
        raise errors.InputError(
            f"there is no {kind} {name} in namespace {namespace}",
            hint=f"kubectl get {resource(kind)[1]} -n {namespace} lists what there is; -n names "
            "another namespace",
        )
    return Workload(kind=kind, name=name, raw=raw)


def identity_of(workload: Workload, given: Object) -> Object:
    """The identity as options and annotation say it.

    Args:
        workload: whose pods may carry the annotation.
        given: fields of the identity that options gave, None where they did not.

    Raises:
        InputError: there is none, or the two differ.
    """
    given = {key: value for key, value in given.items() if value is not None}
    text = workload.annotations.get(names.ANNOTATION_IDENTITY)
    if text is None:
        flags = {"model": "--model", "backendFramework": "--backend"}
        missing = [flag for field, flag in flags.items() if not given.get(field)]
        if missing:
            raise errors.InputError(
                f"{workload.label}: {' and '.join(missing)} required, because its pods carry no "
                f"annotation {names.ANNOTATION_IDENTITY}",
                hint="say what the worker serves, such as --model meta-llama/Llama-3-8B "
                "--backend vllm",
            )
        return given
    where = f"{workload.label}: annotation {names.ANNOTATION_IDENTITY}"
    try:
        raw = json.loads(text)
    except ValueError as err:
        raise errors.InputError(f"{where}: not JSON: {err}", hint="correct it") from err
    known = identity.parse(raw, where)
    current = {names.IDENTITY_ALIASES.get(key, key): value for key, value in raw.items()}
    if identity.parse({**current, **given}).hash() != known.hash():
        raise errors.InputError(
            f"{where} says {known.canonical()}; the options differ",
            hint="leave the options out, or change the annotation",
        )
    return dict(raw)


def build(
    workload: Workload,
    raw: Mapping[str, Any],
    *,
    name: str,
    namespace: str,
    container: str | None = None,
    source: str = names.CaptureSource.JOB,
) -> Object:
    """The DynamoCheckpoint.

    Args:
        workload: what it is made of.
        raw: the identity as it is written into it.
        name: of the DynamoCheckpoint.
        namespace: where it goes.
        container: the worker's, when it is neither called main nor the only one.
        source: `job` or `worker`.

    Raises:
        UnsupportedError: the pods cannot be captured.
    """
    from chrek.operator import podshape

    made = podtemplate.from_pod if workload.kind == "Pod" else podtemplate.from_template
    template = made(workload.template)
    index = podshape.container_index(template["spec"], container)
    podshape.check(template["spec"], template["spec"]["containers"][index])
    if not template["metadata"]:
        del template["metadata"]
    spec: Object = {"identity": dict(raw)}
    if source == names.CaptureSource.WORKER:
        spec["captureSource"] = source
    else:
        spec["job"] = {"podTemplateSpec": template}
        if container:
            spec["job"]["container"] = container
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.CHECKPOINT_KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def check_opt_in(workload: Workload) -> None:
    """Refuse to annotate pods that cannot change.

    Raises:
        InputError: naming what to do instead.
    """
    if workload.kind not in _ROLLS:
        raise errors.InputError(
            f"{workload.label}: --opt-in needs a Deployment or StatefulSet; the pods of a "
            f"{workload.kind} cannot change",
            hint=f"create it again with the annotation {names.ANNOTATION_CHECKPOINT} on its pods",
        )
    owners = workload.raw["metadata"].get("ownerReferences") or []
    owner = next((one for one in owners if one.get("controller")), None)
    if owner:
        raise errors.InputError(
            f"{workload.label}: {owner['kind']} {owner['name']} makes it, and would undo --opt-in",
            hint=f"opt in there: in the `checkpoint` section of a {names.GRAPH_KIND}, or by the "
            f"annotation {names.ANNOTATION_CHECKPOINT} on its pods",
        )


def opted_in(workload: Workload, hashed: str) -> bool:
    """Whether the workload's pods ask for this checkpoint already."""
    # The webhook derives the one annotation from the other.
    return (
        workload.annotations.get(names.ANNOTATION_CHECKPOINT) == hashed
        or names.ANNOTATION_IDENTITY in workload.annotations
    )
