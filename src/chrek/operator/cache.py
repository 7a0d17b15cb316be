"""The cluster as the controllers see it: kopf's indexes, typed.

Everything is read from memory; a decision made on an old copy is caught by the resourceVersion
that each write carries, or by the name of what it creates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

Object = dict[str, Any]
Index = Mapping[tuple[str, str], Collection[Object]]


@dataclasses.dataclass(slots=True)
class Cache:
    """Indexes by `(namespace, something)`.

    Attributes:
        checkpoints: by name.
        checkpoints_by_hash: by identity hash.
        jobs: checkpoint jobs by name.
        pods: managed pods by their controller's UID.
        graphs: DynamoGraphDeployments by name.
        graphs_by_reference: by the checkpoint names and hashes that their services refer to.
        deployments: Deployments of graphs by the name of their graph.
    """

    checkpoints: Index = dataclasses.field(default_factory=dict)
    checkpoints_by_hash: Index = dataclasses.field(default_factory=dict)
    jobs: Index = dataclasses.field(default_factory=dict)
    pods: Index = dataclasses.field(default_factory=dict)
    graphs: Index = dataclasses.field(default_factory=dict)
    graphs_by_reference: Index = dataclasses.field(default_factory=dict)
    deployments: Index = dataclasses.field(default_factory=dict)

    def bind(self, indexes: Mapping[str, Any]) -> None:
        """Use kopf's indexes; they fill and change by themselves."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, indexes[field.name])


def one(index: Index, namespace: str, name: str) -> Object | None:
    """The object of a unique name, None when there is none."""
    return next(iter(many(index, namespace, name)), None)


def many(index: Index, namespace: str, name: str) -> list[Object]:
    """All objects under a key."""
    key = (namespace, name)
    return list(index[key]) if key in index else []


def oldest(items: Collection[Object]) -> Object | None:
    """The object that was created first, deleted ones left out; the name decides between equals."""
    alive = [item for item in items if not item["metadata"].get("deletionTimestamp")]
    return min(
        alive,
        key=lambda item: (
            item["metadata"].get("creationTimestamp", ""),
            item["metadata"]["name"],
        ),
        default=None,
    )
