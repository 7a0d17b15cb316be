"""Where a namespace's artifacts are; the agent keeps them there.

<base>/<hash>                  the release's own namespace
<base>/ns/<namespace>/<hash>   other namespaces that the release serves

The base is the path of the volume in the agent, or the URI of the bucket or repository.
"""

from __future__ import annotations

import dataclasses

from chrek import config


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The artifacts of one namespace.

    Attributes:
        storage_type: `pvc`, `s3` or `oci`.
        base: a path or URI; the identity hashes are below it.
    """

    storage_type: str
    base: str

    def location(self, identity_hash: str) -> str:
        """What the status of a DynamoCheckpoint calls Location."""
        return f"{self.base}/{identity_hash}"


def of(storage: config.Storage, *, namespace: str, own: str) -> Place:
    """The place of a namespace; `own` is the release's."""
    return Place(storage.type, storage.base("" if namespace == own else namespace))
