"""The cluster as the controllers see it.

Everything is read from memory; a decision made on an old copy is caught by the resourceVersion
that each write carries, or by the name of what it creates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from chrek.operator import pods as pods_module

Object = dict[str, Any]
T = TypeVar("T")
Key = tuple[str, str]
"""A namespace, and something in it."""


class Index(Mapping[Key, Collection[T]]):
    """Objects by what they are looked up with: several may share a key, one may have several."""

    def __init__(self) -> None:
        self._found: dict[Key, dict[str, T]] = {}
        self._keys: dict[Key, tuple[Key, ...]] = {}

    def put(self, of: Key, keys: Iterable[str], value: T | None) -> None:
        """Keep what an object is looked up with now, and nothing else of it.

        Args:
            of: namespace and name of the object.
            keys: without its namespace; none for an object that is gone.
            value: what is found; None only without keys.
        """
        namespace, name = of
        for key in self._keys.pop(of, ()):
            del self._found[key][name]
            if not self._found[key]:
                del self._found[key]
        made = tuple((namespace, key) for key in dict.fromkeys(keys))
        if made and value is not None:
            self._keys[of] = made
            for key in made:
                self._found.setdefault(key, {})[name] = value

    def __getitem__(self, key: Key) -> Collection[T]:
        return self._found[key].values()

    def __iter__(self) -> Iterator[Key]:
        return iter(tuple(self._found))

    def __len__(self) -> int:
        return len(self._found)


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

    checkpoints: Index[Object] = dataclasses.field(default_factory=Index)
    checkpoints_by_hash: Index[Object] = dataclasses.field(default_factory=Index)
    jobs: Index[Object] = dataclasses.field(default_factory=Index)
    pods: Index[pods_module.Pod] = dataclasses.field(default_factory=Index)
    graphs: Index[Object] = dataclasses.field(default_factory=Index)
    graphs_by_reference: Index[str] = dataclasses.field(default_factory=Index)
    deployments: Index[Object] = dataclasses.field(default_factory=Index)

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


def keys(pod: pods_module.Pod) -> list[str]:
    """What a pod is looked up with in `Cache.pods`."""
    found = {
        "job": pod.owner if pod.source else "",
        "checkpoint": pod.reference,
        "graph": pod.graph,
    }
    return [f"{kind} {value}" for kind, value in found.items() if value]


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
