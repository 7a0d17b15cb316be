"""The startup taint: a node takes no pods that want checkpoints before its agent is ready.

Whoever adds nodes (a node group, an autoscaler, Karpenter) gives them the taint; the agent, which
tolerates it, takes it off. It needs `get` and `patch` of nodes.
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chrek import errors, log
from chrek.kube import api

LOG = log.get(__name__)
READY_SECONDS = 0.5
"""How often the agent is asked whether it is ready: pods wait for it."""
LOOK_SECONDS = 60.0
"""How often the node is looked at afterwards. The taint may come again while the agent runs, for
instance from what keeps nodes as a repository says, and would then stay for ever: a node that comes
back from a reboot keeps its agent's pod, and one that is made anew gets a new pod."""
AGAIN_SECONDS = 5.0
"""After an error."""
ATTEMPTS = 5
_CHANGED = frozenset({409, 422})
"""The node's taints are not those any more that were read: somebody else changed them."""
_REFUSED = frozenset({401, 403})


class Taint:
    """Takes one taint off one node, whenever the agent is ready."""

    def __init__(
        self, client: api.Client, node: str, key: str, *, ready: Callable[[], bool]
    ) -> None:
        """Prepare.

        Args:
            key: of the taint, whatever its value and effect.
            ready: asked before each look.
        """
        self._client = client
        self._node = node
        self._key = key
        self._ready = ready
        self._told = ""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            while not self._ready():
                await asyncio.sleep(READY_SECONDS)
            await asyncio.sleep(LOOK_SECONDS if await self._look() else AGAIN_SECONDS)

    async def _look(self) -> bool:
        """Whether the node is without the taint now; says why not, once."""
        try:
            if removed := await self.remove():
                LOG.info("startup taint removed", node=self._node, key=self._key, count=removed)
        except errors.ApiError as err:
            if str(err) != self._told:
                LOG.error("startup taint stays", key=self._key, error=str(err), hint=_hint(err))
            self._told = str(err)
            return False
        self._told = ""
        return True

    async def remove(self) -> int:
        """Take the taint off; returns how many the node had of it.

        Raises:
            ApiError: the API server refuses, does not answer, or somebody is faster each time.
        """
        attempt = 0
        while True:
            attempt += 1
            found = await self._client.get("v1", "nodes", None, self._node)
            before = found.get("spec", {}).get("taints") or []
            after = [taint for taint in before if taint.get("key") != self._key]
            if len(after) == len(before):
                return 0
            change = {"op": "replace", "value": after} if after else {"op": "remove"}
            patch = [
                {"op": "test", "path": "/spec/taints", "value": before},
                {**change, "path": "/spec/taints"},
            ]
            try:
                await self._client.patch("v1", "nodes", None, self._node, patch, kind="json")
            except errors.ApiError as err:
                if err.status not in _CHANGED or attempt == ATTEMPTS:
                    raise
            else:
                return len(before) - len(after)


def _hint(err: errors.ApiError) -> str:
    if err.status in _REFUSED:
        return (
            "let the agent's service account get and patch nodes, as the chart does with "
            "agent.startupTaint"
        )
    return "it is tried again"
