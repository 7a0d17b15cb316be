"""Objects on their way to kopf: without what nothing here reads.

kopf holds every object of the first listing, whole, until all of its indexes are filled. Which
field belongs to whom (`fieldsV1`) is a third of an object of usual size, and of Jobs only metadata
and status matter; of who wrote into an object the names are kept, as `platform` asks for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

from kopf._cogs.clients import watching

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
    if item.get("kind") == "Job":
        item.pop("spec", None)


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
