"""Objects on their way to kopf: without what nothing here reads.

kopf holds every object of the first listing, whole, until all of its indexes are filled. Which
field belongs to whom (`fieldsV1`) is a third of an object of usual size; of who wrote into it the
names are kept, as `platform` asks for them. Of Jobs only metadata and status matter, and of pods
what `pods.project` takes, which is little unless a checkpoint may be made from the pod.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, MutableMapping
from typing import Any

from kopf._cogs.clients import watching

from chrek import names

Stream = Callable[..., AsyncIterator[Any]]


def install() -> None:
    """Have kopf's stream make objects lean; done once for the process."""
    if not hasattr(watching.continuous_watch, "__wrapped__"):
        watching.continuous_watch = _lean(watching.continuous_watch)


def strip(item: MutableMapping[str, Any]) -> None:
    """Make an object lean, in place."""
    metadata = item.get("metadata") or {}
    if metadata.get("managedFields"):
        metadata["managedFields"] = [
            {"manager": entry.get("manager", ""), "subresource": entry.get("subresource", "")}
            for entry in metadata["managedFields"]
        ]
    (metadata.get("annotations") or {}).pop(_LAST_APPLIED, None)
    kind = item.get("kind")
    if kind == "Job":
        item.pop("spec", None)
    elif kind == "Pod" and names.ANNOTATION_IDENTITY not in (metadata.get("annotations") or {}):
        spec = item.get("spec")
        if spec is None:
            return
        item["spec"] = _only(spec, ("nodeName",)) | {
            "containers": [_only(one, _OF_CONTAINERS) for one in spec.get("containers") or []]
        }
        item["status"] = _only(item.get("status") or {}, ("phase", "reason", "conditions"))


def _only(item: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    return {key: item[key] for key in kept if key in item}


_OF_CONTAINERS = ("name", "image", "command", "args")


_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def _lean(stream: Stream) -> Stream:
    async def leaner(**arguments: Any) -> AsyncIterator[Any]:
        async for event in stream(**arguments):
            # Between objects there are marks, such as that of the end of the listing.
            if isinstance(event, MutableMapping):
                strip(event["object"])
            yield event

    leaner.__wrapped__ = stream  # type: ignore[attr-defined]
    return leaner
