"""What differs between a container and the captured one, as far as objects tell.

The rules are the agent's own (`chrek.compatibility`), each with its Reason, and all differences are
told, not the first alone. What only a node knows (digests of images and files, values of Secrets,
GPUs, CPU) is not compared: the agent does that when the pod starts.
"""

from __future__ import annotations

import dataclasses
import platform
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from chrek import compatibility, errors, names, podtemplate, variant
from chrek.cli import records

Object = dict[str, Any]

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the pod's own
SHARED_MEMORY_BYTES = 64 << 20
"""Of a container without a volume there."""


@dataclasses.dataclass(frozen=True)
class Side:
    """A container.

    Attributes:
        facts: as the agent would note them.
        resources: `limits.memory` and so on -> quantity.
        variant: name; empty where it cannot be told on this machine.
        image: as the spec has it.
    """

    facts: compatibility.Facts
    resources: Mapping[str, str]
    variant: str
    image: str


def of_pod(item: Mapping[str, Any]) -> Side:
    """A pod, without what chrek and controllers put into it.

    Raises:
        UnsupportedError: it is not clear which container is meant.
    """
    annotations = (item.get("metadata") or {}).get("annotations") or {}
    made = podtemplate.from_pod(item)
    return _side(made["spec"], annotations.get(names.ANNOTATION_CONTAINER))


def of_checkpoint(item: Mapping[str, Any]) -> Side | None:
    """What a DynamoCheckpoint captures; None where that is a serving pod.

    Raises:
        UnsupportedError: it is not clear which container is meant.
    """
    job = (item.get("spec") or {}).get("job") or {}
    template = job.get("podTemplateSpec")
    if not template:
        return None
    return _side(podtemplate.from_template(template)["spec"], job.get("container"))


def variant_of(container: Mapping[str, Any]) -> str:
    """The variant of a container; empty on a machine unlike the nodes, whose word is part of it."""
    return variant.of_container(container) if platform.machine() == "x86_64" else ""


def _side(spec: Mapping[str, Any], wanted: str | None) -> Side:
    from chrek.agent import objects
    from chrek.operator import podshape

    container = spec["containers"][podshape.container_index(spec, wanted)]
    image = str(container.get("image", ""))
    facts = compatibility.Facts(
        image=image,
        command=variant.worker_command(container),
        environment=objects.environment(container),
        mounts=list(_mounts(spec, container)),
        sharedMemoryBytes=_shared_memory(spec, container),
        user=_user(spec, container),
        gpus=list(_gpus(container)),
    )
    return Side(facts, dict(_resources(container)), variant_of(container), image)


def compare(captured: Side, present: Side) -> list[records.Difference]:
    """All differences, those first that keep a pod from being restored."""
    found: dict[str, records.Difference] = {}
    for fact in compatibility.FACTS:
        before, now = getattr(captured.facts, fact.field), getattr(present.facts, fact.field)
        known = not fact.against and fact.field in _FIELDS
        if not known or fact.field in found or before is None or now is None:
            continue
        pairs = [([one], now) for one in before] if fact.field == "mounts" else [(before, now)]
        told = [text for pair in pairs if (text := fact.rule(*pair))]
        if told:
            found[fact.field] = records.Difference(
                what=fact.what, detail="; ".join(told), reason=str(fact.reason)
            )
    return [*found.values(), *_others(captured, present)]


_FIELDS = frozenset(
    {"image", "command", "environment", "mounts", "sharedMemoryBytes", "user", "gpus"}
)


def _others(captured: Side, present: Side) -> Iterator[records.Difference]:
    """What keeps nobody from a restore by itself."""
    before, now = captured.facts.mounts or [], present.facts.mounts or []
    more = sorted({mount.path for mount in now} - {mount.path for mount in before})
    if more:
        yield records.Difference(what="more mounts here", detail=", ".join(more), reason="")
    keys = [*captured.resources, *(k for k in present.resources if k not in captured.resources)]
    for key in keys:
        one, other = captured.resources.get(key), present.resources.get(key)
        if one == other:
            continue
        text = f"captured {one or 'none'}, here {other or 'none'}"
        yield records.Difference(what=f"resources.{key}", detail=text, reason="")


def _mounts(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[compatibility.Mount]:
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or []}
    for mount in container.get("volumeMounts") or []:
        empty = (volumes.get(mount["name"]) or {}).get("emptyDir")
        kind = "memory" if (empty or {}).get("medium") == "Memory" else "disk"
        path = posixpath.normpath("/" + str(mount["mountPath"]).lstrip("/"))
        yield compatibility.Mount(path=path, kind=kind, readOnly=bool(mount.get("readOnly")))


def _shared_memory(spec: Mapping[str, Any], container: Mapping[str, Any]) -> int | None:
    """Size of /dev/shm; None where it is the pod's memory limit or the node's that counts."""
    from chrek.kube import workstation

    volumes = {volume["name"]: volume for volume in spec.get("volumes") or []}
    for mount in container.get("volumeMounts") or []:
        if posixpath.normpath(str(mount["mountPath"])) == SHARED_MEMORY:
            limit = ((volumes.get(mount["name"]) or {}).get("emptyDir") or {}).get("sizeLimit")
            try:
                return int(workstation.quantity(str(limit))) if limit else None
            except errors.InputError:
                return None
    return SHARED_MEMORY_BYTES


def _user(spec: Mapping[str, Any], container: Mapping[str, Any]) -> compatibility.User:
    context = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}

    def ids(*keys: str) -> list[int]:
        return [int(context[key]) for key in keys if context.get(key) is not None]

    groups = [*ids("fsGroup"), *map(int, context.get("supplementalGroups") or [])]
    return compatibility.User(uids=ids("runAsUser"), gids=ids("runAsGroup"), groups=groups)


def _gpus(container: Mapping[str, Any]) -> Iterator[str]:
    """The resource of each GPU that is asked for."""
    for one in filter(None, variant.gpus(container).split(",")):
        name, _, number = one.partition("=")
        yield from [name] * (int(number) if number.isdigit() else 1)


def _resources(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = container.get("resources") or {}
    for kind in ("limits", "requests"):
        for name, value in sorted((found.get(kind) or {}).items()):
            # GPUs are told as such.
            if not name.startswith(names.GPU_DOMAIN):
                yield f"{kind}.{name}", str(value)
