"""Living beside the Dynamo platform, whose operator knows the same kinds.

Nobody fights over a field: graphs whose CRD is the platform's are the platform's, chrek only puts
itself into their pods; of DynamoCheckpoints that the platform's operator has taken on, chrek keeps
away. Who owns the CRDs is looked at again and again, because either may be installed first.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from chrek import config, crd, errors, log, names
from chrek.kube import api

LOG = log.get(__name__)
INTERVAL_SECONDS = 60.0
FIELD_MANAGER = "chrek-operator"
"""Who the operator is in `metadata.managedFields`."""
OWN_MANAGERS = ("chrek",)

_PEOPLE = ("kubectl",)
"""A person who mends a status by hand does not take the object over."""
_BUILT_IN = ("foregroundDeletion", "orphan")
_BUILT_IN_DOMAIN = "kubernetes.io"


@dataclasses.dataclass(frozen=True, slots=True)
class Platform:
    """Who reconciles what.

    Attributes:
        graphs_foreign: whether another chart owns the CRD of DynamoGraphDeployments.
        checkpoints_foreign: whether another chart owns the CRD of DynamoCheckpoints.
        policy: the configuration.
    """

    graphs_foreign: bool = False
    checkpoints_foreign: bool = False
    policy: config.Platform = dataclasses.field(default_factory=config.Platform)

    @property
    def makes_graphs(self) -> bool:
        """Whether the platform makes the pods of DynamoGraphDeployments, and chrek none."""
        if self.policy.graphs == "auto":
            return self.graphs_foreign
        return self.policy.graphs == "platform"

    def makes(self, checkpoint: Mapping[str, Any]) -> bool:
        """Whether the platform makes this DynamoCheckpoint Ready, and chrek keeps away.

        Args:
            checkpoint: the object with its `metadata.managedFields`.
        """
        if self.policy.checkpoints == "auto":
            return self.checkpoints_foreign and theirs(checkpoint)
        return self.policy.checkpoints == "platform"


def theirs(checkpoint: Mapping[str, Any], own_managers: Iterable[str] = OWN_MANAGERS) -> bool:
    """Whether another operator has taken a DynamoCheckpoint on.

    It has when it wrote its status, or when it wants to be asked before the object goes.

    Args:
        checkpoint: the whole object, with its `metadata.managedFields`.
        own_managers: beginnings of the names of field managers that are ours.
    """
    metadata = checkpoint["metadata"]
    if any(_is_foreign_finalizer(name) for name in metadata.get("finalizers") or []):
        return True
    kept_away = (*own_managers, *_PEOPLE)
    return any(
        _is_of_status(entry) and not str(entry.get("manager", "")).startswith(kept_away)
        for entry in metadata.get("managedFields") or []
    )


async def detect(client: api.Client, settings: config.OperatorConfig) -> Platform:
    """Look at the CRDs.

    Raises:
        ApiError: one of them cannot be read, for another reason than that there is none.
    """
    foreign = {}
    for plural in (names.GRAPH_PLURAL, names.CHECKPOINT_PLURAL):
        found = await client.find(crd.API_VERSION, crd.PLURAL, None, f"{plural}.{names.GROUP}")
        foreign[plural] = found is not None and crd.is_foreign(found)
    return Platform(
        graphs_foreign=foreign[names.GRAPH_PLURAL],
        checkpoints_foreign=foreign[names.CHECKPOINT_PLURAL],
        policy=settings.platform,
    )


class Detector:
    """Knows who reconciles what, to within a minute.

    Attributes:
        current: as it was last seen; before that, as if there were no platform.
    """

    def __init__(
        self,
        client: api.Client,
        settings: config.OperatorConfig,
        *,
        on_change: Callable[[Platform], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            client: connection to use.
            settings: the operator's configuration.
            on_change: called after `current` has changed.
        """
        self.current = Platform(policy=settings.platform)
        self._client = client
        self._settings = settings
        self._on_change = on_change

    async def refresh(self) -> Platform:
        """Look now; what is known stays when the API server does not answer."""
        try:
            found = await detect(self._client, self._settings)
        except errors.ApiError as err:
            LOG.warning("cannot tell whose the CRDs are", error=str(err))
            return self.current
        if found != self.current:
            self.current = found
            LOG.info(
                "owners of the CRDs",
                graphs="another chart" if found.graphs_foreign else "chrek",
                checkpoints="another chart" if found.checkpoints_foreign else "chrek",
            )
            self._on_change(found)
        return found

    async def run(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        """Look for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(interval_seconds)


def _is_of_status(entry: Mapping[str, Any]) -> bool:
    return entry.get("subresource") == "status" or "f:status" in (entry.get("fieldsV1") or {})


def _is_foreign_finalizer(name: str) -> bool:
    domain = name.partition("/")[0]
    return not (
        name == names.FINALIZER
        or name in _BUILT_IN
        or domain == _BUILT_IN_DOMAIN
        or domain.endswith(f".{_BUILT_IN_DOMAIN}")
    )
