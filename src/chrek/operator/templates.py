"""Pod templates that captures are wanted of, as the graphs ask for them.

In memory: after a restart every DynamoGraphDeployment is looked at again and fills it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from chrek import errors, names, variant
from chrek.operator import commands, injection, podshape

Object = dict[str, Any]
Key = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A pod of which there should be an artifact.

    Attributes:
        variant: name of the variant.
        image: of the container that is captured.
        template: pod template with `metadata` and `spec`.
        container: name of the container, empty for the usual one.
        job: `spec.job` of a DynamoCheckpoint but for its template.
    """

    variant: str
    image: str
    template: Object
    container: str = ""
    job: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def digest(self) -> str:
        """Changes with anything that another attempt would do differently."""
        text = json.dumps([self.template, dict(self.job)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def wanted(template: Mapping[str, Any], *, job: Mapping[str, Any] | None = None) -> Wanted:
    """Describe a pod template.

    Raises:
        UnsupportedError: which container is the worker cannot be told.
    """
    spec = template["spec"]
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    settings = {k: v for k, v in (job or {}).items() if k != "podTemplateSpec"}
    container = settings.get("container") or annotations.get(names.ANNOTATION_CONTAINER, "")
    found = spec["containers"][podshape.container_index(spec, container or None)]
    return Wanted(
        variant=variant.of_container(found),
        image=str(found.get("image", "")),
        template=dict(template),
        container=container,
        job=settings,
    )


def as_captured(pods: Mapping[str, Any], checkpoint: Mapping[str, Any] | None) -> Object:
    """A pod template that names an image alone, with what its checkpoint says of that image.

    The command, and the variables that the template does not set itself: whoever writes neither
    means the captured worker, and a cold start needs the same, such as the token of a model hub.

    Args:
        pods: the template; its first container is the worker.
        checkpoint: a DynamoCheckpoint, None when there is none.

    Raises:
        UnsupportedError: the checkpoint has no command for the image.
    """
    main, *others = pods["spec"]["containers"]
    remembered = injection.project(checkpoint) if checkpoint else None
    worker: Object = {**main, "command": injection.worker_command(main, remembered)}
    worker.pop("args", None)
    job = ((checkpoint or {}).get("spec") or {}).get("job") or {}
    spec = job["podTemplateSpec"]["spec"]
    captured = spec["containers"][podshape.container_index(spec, job.get("container"))]
    own = {variable["name"] for variable in main.get("env") or []}
    theirs = [v for v in captured.get("env") or [] if v["name"] not in own]
    if theirs:
        worker["env"] = [*copy.deepcopy(theirs), *(main.get("env") or [])]
    if captured.get("envFrom") and not main.get("envFrom"):
        worker["envFrom"] = copy.deepcopy(captured["envFrom"])
    return {**pods, "spec": {**pods["spec"], "containers": [worker, *others]}}


async def completed(
    images: commands.Commands,
    namespace: str,
    template: Mapping[str, Any],
    container: str | None = None,
) -> Object:
    """The pod template with the command of its worker, asked of the image's registry if need be.

    Raises:
        UnsupportedError: which container is the worker, or what it runs, cannot be told.
    """
    spec = template["spec"]
    index = podshape.container_index(spec, container)
    found = spec["containers"][index]
    if found.get("command"):
        return dict(template)
    secrets = [str(one.get("name", "")) for one in spec.get("imagePullSecrets") or []]
    entrypoint, arguments = await images.entrypoint(namespace, str(found["image"]), secrets)
    made: Object = copy.deepcopy(dict(template))
    worker = made["spec"]["containers"][index]
    # As the kubelet does it: the container's own arguments replace the image's.
    command = [*entrypoint, *(found.get("args") or arguments)]
    if not command:
        raise errors.UnsupportedError(
            f"container {found.get('name', '')!r} has no `command`, and image {found['image']} has"
            " none either",
            reason=names.Reason.COMMAND_UNKNOWN,
            hint="write the worker's `command` into the pod's spec",
        )
    worker["command"] = command
    worker.pop("args", None)
    return made


class Templates:
    """What graphs want of an identity."""

    def __init__(self) -> None:
        self._by_identity: dict[Key, dict[Key, list[Wanted]]] = {}
        self._identities: dict[Key, set[Key]] = {}
        self._seen: set[Key] = set()

    def put(self, graph: Key, found: Mapping[str, list[Wanted]]) -> set[str]:
        """Replace what a graph wants.

        Args:
            graph: namespace and name.
            found: identity hash -> templates.

        Returns:
            The hashes for which something has changed.
        """
        self._seen.add(graph)
        changed = set()
        namespace = graph[0]
        before = self._identities.get(graph, set())
        for key in before | {(namespace, digest) for digest in found}:
            entries = self._by_identity.setdefault(key, {})
            new = found.get(key[1], [])
            if entries.get(graph, []) != new:
                changed.add(key[1])
            if new:
                entries[graph] = new
            else:
                entries.pop(graph, None)
            if not entries:
                del self._by_identity[key]
        self._identities[graph] = {(namespace, digest) for digest in found}
        if not found:
            del self._identities[graph]
        return changed

    def complete(self, graphs: Iterable[Key]) -> bool:
        """Whether every one of these graphs has said what it wants."""
        return self._seen.issuperset(graphs)

    def of(self, namespace: str, digest: str) -> list[Wanted]:
        """What all graphs want of one identity."""
        found = self._by_identity.get((namespace, digest), {})
        return [one for key in sorted(found) for one in found[key]]
