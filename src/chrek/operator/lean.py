"""What kopf keeps of objects before they reach the indexes: without `managedFields`.

kopf holds every object of the first listing, whole, until all of its indexes are filled. Nothing
here reads `metadata.managedFields`, which are a third of an object of usual size.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

from kopf._cogs.clients import watching

Stream = Callable[..., AsyncIterator[Any]]


def install() -> None:
    """Have kopf drop the fields as it reads them; done once for the process."""
    if not hasattr(watching.continuous_watch, "__wrapped__"):
        watching.continuous_watch = _lean(watching.continuous_watch)


def _lean(stream: Stream) -> Stream:
    async def leaner(**arguments: Any) -> AsyncIterator[Any]:
        async for event in stream(**arguments):
            # Between objects there are marks, such as that of the end of the listing.
            if isinstance(event, MutableMapping):
                (event["object"].get("metadata") or {}).pop("managedFields", None)
            yield event

    leaner.__wrapped__ = stream  # type: ignore[attr-defined]
    return leaner
