"""How the operator writes the status of its own objects."""

from __future__ import annotations

from typing import Any

from chrek import errors, names
from chrek.kube import api


async def status(
    client: api.Client, plural: str, item: dict[str, Any], patch: dict[str, Any]
) -> bool:
    """Merge a patch into the status of an object as it was read.

    Returns:
        False when the object is gone.

    Raises:
        ApiError: status 409 when somebody has written the object since.
    """
    metadata = item["metadata"]
    body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": patch}
    try:
        await client.patch(
            names.API_VERSION,
            plural,
            metadata["namespace"],
            metadata["name"],
            body,
            subresource="status",
        )
    except errors.ApiError as err:
        if err.status == 404:
            return False
        raise
    return True
