"""Which serving pods the operator has picked to be captured, by the status of DynamoCheckpoints."""

from __future__ import annotations

import time
from collections.abc import Callable

from chrek import names
from chrek.agent import objects

_FRESH_SECONDS = 0.2


class Namings:
    """Namespace and UID of a pod -> the DynamoCheckpoint that names it, made when asked for.

    One for all pods of a node, so that waiting pods cost one look at the checkpoints together.
    """

    def __init__(self) -> None:
        self._made = float("-inf")
        self._found: dict[tuple[str, str], objects.Checkpoint] = {}

    def all(
        self, checkpoints_of: Callable[[], list[objects.Checkpoint]]
    ) -> dict[tuple[str, str], objects.Checkpoint]:
        """Every pod that is named now, of any namespace and node."""
        now = time.monotonic()
        if now - self._made >= _FRESH_SECONDS:
            self._made = now
            self._found = {
                (checkpoint.namespace, uid): checkpoint
                for checkpoint in checkpoints_of()
                for capture in checkpoint.captures
                if capture.phase == names.Phase.CREATING and not capture.job
                for uid in capture.pods
            }
        return self._found

    def of(
        self, pod: objects.Pod, checkpoints_of: Callable[[], list[objects.Checkpoint]]
    ) -> objects.Checkpoint | None:
        """The DynamoCheckpoint of its namespace that names a pod."""
        return self.all(checkpoints_of).get((pod.namespace, pod.uid))
