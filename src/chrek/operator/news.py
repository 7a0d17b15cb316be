"""Events on a DynamoCheckpoint: what changed, said once."""

from __future__ import annotations

from typing import Any

from chrek import log, names, quantity
from chrek.kube import api
from chrek.operator import conditions, housekeeping

LOG = log.get(__name__)
COMPONENT = "chrek-operator"
_ORDINARY = (names.Reason.WAITING_FOR_POD, names.Reason.CAPTURING)

Object = dict[str, Any]


class News:
    """Tells of checkpoints."""

    def __init__(self, client: api.Client, instance: str) -> None:
        """Prepare.

        Args:
            client: connection to use.
            instance: who posts the Events.
        """
        self._client = client
        self._instance = instance

    async def moved(self, checkpoint: Object, old: Object, new: Object) -> None:
        """Say that a checkpoint has another phase, or has it for another reason."""
        if new.get("message") == old.get("message") and new.get("phase") == old.get("phase"):
            return
        ready = conditions.get(new, names.CONDITION_READY) or {}
        metadata = checkpoint["metadata"]
        LOG.info(
            "checkpoint moved",
            checkpoint=metadata["name"],
            namespace=metadata["namespace"],
            phase=new.get("phase"),
            reason=ready.get("reason"),
            detail=new.get("message"),
        )
        before = conditions.get(old, names.CONDITION_READY) or {}
        if (old.get("phase"), before.get("reason")) == (new.get("phase"), ready.get("reason")):
            # The scheduler words its refusal anew with each node that comes or goes.
            return
        if ready.get("reason") in _ORDINARY and before.get("reason") in (None, *_ORDINARY):
            return  # Every checkpoint begins so, and its pod has Events of its own.
        if ready.get("reason") == names.Reason.PRUNED:
            return  # Each artifact that goes is told by itself.
        bad = new.get("phase") == names.Phase.FAILED or " failed: " in new.get("message", "")
        await self.post(
            checkpoint,
            type_="Warning" if bad else "Normal",
            reason=ready.get("reason", "Changed"),
            note=f"{new.get('phase')}: {new.get('message', '')}",
            action=f"Phase{new.get('phase')}",
        )

    async def pruned(self, checkpoint: Object, removal: housekeeping.Removal) -> None:
        """Say that an artifact goes, and why."""
        artifact = removal.artifact
        await self.post(
            checkpoint,
            type_="Normal",
            reason=names.Reason.PRUNED,
            note=f"variant {artifact.variant}, {quantity.human(artifact.bytes)}: {removal.why}",
            action="Prune",
        )

    async def post(
        self, checkpoint: Object, *, type_: str, reason: str, note: str, action: str
    ) -> None:
        """Post an Event."""
        kind = {"apiVersion": names.API_VERSION, "kind": names.CHECKPOINT_KIND}
        await api.post_event(
            self._client,
            regarding=api.reference({**kind, "metadata": checkpoint["metadata"]}),
            type_=type_,
            reason=reason,
            note=note,
            component=COMPONENT,
            instance=self._instance,
            action=action,
        )
