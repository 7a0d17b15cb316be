"""The cluster as the controllers see it: kopf's indexes, typed.

Everything is read from memory; a decision made on an old copy is caught by the resourceVersion
that each write carries, or by the name of what it creates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from chrek.operator import pods as pods_module

Object = dict[str, Any]
T = TypeVar("T")
Index = Mapping[tuple[str, str], Collection[T]]


@dataclasses.dataclass(slots=True)
class Cache:
    """Indexes by `(namespace, something)`.

    Attributes:
        checkpoints: by name.
        checkpoints_by_hash: by identity hash.
        jobs: checkpoint jobs by name.
        pods: managed pods, under `job UID`, `checkpoint REFERENCE` and `graph NAME`.
        graphs: DynamoGraphDeployments by name.
        graphs_by_reference: by the checkpoint names and hashes that their services refer to.
        deployments: Deployments of graphs by the name of their graph.
    """

    checkpoints: Index[Object] = dataclasses.field(default_factory=dict)
    checkpoints_by_hash: Index[Object] = dataclasses.field(default_factory=dict)
    jobs: Index[Object] = dataclasses.field(default_factory=dict)
    pods: Index[pods_module.Pod] = dataclasses.field(default_factory=dict)
    graphs: Index[Object] = dataclasses.field(default_factory=dict)
    graphs_by_reference: Index[Object] = dataclasses.field(default_factory=dict)
    deployments: Index[Object] = dataclasses.field(default_factory=dict)

    def bind(self, indexes: Mapping[str, Any]) -> None:
        """Use kopf's indexes; they fill and change by themselves."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, indexes[field.name])

    def of_job(self, namespace: str, uid: str) -> list[pods_module.Pod]:
        """Pods of a checkpoint job, by the Job's UID, oldest first."""
        return _in_order(many(self.pods, namespace, f"job {uid}"))

    def workers(self, namespace: str, references: Collection[str]) -> list[pods_module.Pod]:
        """Pods that opted in by one of these names or hashes, oldest first."""
        found: list[pods_module.Pod] = []
        for reference in set(references):
            found += many(self.pods, namespace, f"checkpoint {reference}")
        return _in_order(found)

    def of_graph(self, namespace: str, graph: str) -> list[pods_module.Pod]:
        """Managed pods of a DynamoGraphDeployment, oldest first."""
        return _in_order(many(self.pods, namespace, f"graph {graph}"))


def keys(pod: pods_module.Pod) -> list[tuple[str, str]]:
    """Under which keys of `Cache.pods` a pod is found."""
    found = {
        "job": pod.owner if pod.source else "",
        "checkpoint": pod.reference,
        "graph": pod.graph,
    }
    return [(pod.namespace, f"{kind} {value}") for kind, value in found.items() if value]


def _in_order(found: Collection[pods_module.Pod]) -> list[pods_module.Pod]:
    return sorted(found, key=lambda pod: (pod.created, pod.name))


def one(index: Index[T], namespace: str, name: str) -> T | None:
    """The object of a unique name, None when there is none."""
    return next(iter(many(index, namespace, name)), None)


def many(index: Index[T], namespace: str, name: str) -> list[T]:
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
