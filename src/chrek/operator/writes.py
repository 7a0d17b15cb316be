"""How the operator writes the status of its own objects."""

from __future__ import annotations

from typing import Any

from chrek import errors, names, state
from chrek.kube import api
from chrek.operator import platform

Object = dict[str, Any]


async def status(client: api.Client, plural: str, item: Object, patch: Object) -> bool:
    """Merge a patch into the status of an object as it was read.

    Where the CRD of another chart drops fields of a DynamoCheckpoint, the whole status goes into an
    annotation too; `state.status_of` reads it. With our own CRD that costs nothing.

    Args:
        client: connection to use.
        plural: the resource.
        item: the object as it was read.
        patch: makes the new status of `state.status_of(item)`.

    Returns:
        False when the object is gone.

    Raises:
        ApiError: status 409 when somebody has written the object since.
    """
    whole = state.merged(state.status_of(item), patch)
    sent = patch
    if plural == names.CHECKPOINT_PLURAL and state.annotation_of(item):
        # What only the annotation has is offered to the status again: the CRD may be ours by now.
        sent = {**whole, **{key: None for key in patch if key not in whole}}
    body = {"metadata": _version(item), "status": sent}
    try:
        answer = await _patch(client, plural, item, body, subresource="status")
        if plural == names.CHECKPOINT_PLURAL:
            await _annotate(client, answer, whole)
    except errors.ApiError as err:
        if err.status == 404:
            return False
        raise
    return True


async def _annotate(client: api.Client, answer: Object, whole: Object) -> None:
    """Keep the status in the annotation where the server does not, and only there."""
    lost = state.dropped(answer.get("status") or {}, whole)
    value = state.annotation(whole) if lost else ""
    if value == state.annotation_of(answer):
        return
    metadata = {**_version(answer), "annotations": {names.ANNOTATION_STATE: value or None}}
    await _patch(client, names.CHECKPOINT_PLURAL, answer, {"metadata": metadata})


async def _patch(
    client: api.Client, plural: str, item: Object, body: Object, *, subresource: str | None = None
) -> Object:
    metadata = item["metadata"]
    return await client.patch(
        names.API_VERSION,
        plural,
        metadata["namespace"],
        metadata["name"],
        body,
        subresource=subresource,
        field_manager=platform.FIELD_MANAGER,
    )


def _version(item: Object) -> Object:
    return {"resourceVersion": item["metadata"]["resourceVersion"]}
