"""Where a namespace's artifacts are; the agent keeps them there.

<basePath>/<hash>                  the release's own namespace
<basePath>/ns/<namespace>/<hash>   other namespaces that the release serves
"""

from __future__ import annotations

import dataclasses

from chrek import config


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The artifacts of one namespace.

    Attributes:
        storage_type: `pvc`.
        base: directory of the identity hashes.
    """

    storage_type: str
    base: str

    def location(self, identity_hash: str) -> str:
        """What the status of a DynamoCheckpoint calls Location."""
        return f"{self.base}/{identity_hash}"


def of(storage: config.Storage, *, namespace: str, own: str) -> Place:
    """The place of a namespace; `own` is the release's."""
    base = storage.pvc.basePath.rstrip("/")
    return Place(storage.type, base if namespace == own else f"{base}/ns/{namespace}")
