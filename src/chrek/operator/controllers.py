"""Follows the cluster: fills the cache and wakes the queue.

Each collection is listed once and then watched, and of each object is kept what somebody here
reads. Nothing is written.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from chrek import errors, identity, names, state
from chrek.kube import api
from chrek.operator import cache as cache_module
from chrek.operator import housekeeping, pods, queue, workloads

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""
CHECKPOINT = "checkpoint"
GRAPH = "graph"
SKIPPED_POD = "skipped pod"
ADOPTION = "pods without a checkpoint"
HOUSEKEEPING = queue.Key("housekeeping", "", "")

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_OF_JOBS = (
    *("namespace", "name", "uid", "deletionTimestamp"),
    *("labels", "annotations", "ownerReferences"),
)


class Changes:
    """What each change of an object means for the cache and the queue.

    The methods take what is kept of the object, None when it is gone, and what was kept before.
    """

    def __init__(self, cache: cache_module.Cache, work: queue.Queue) -> None:
        self._cache = cache
        self._work = work
        self.listed = False
        """Whether what is new now came while this operator was there to see it."""

    def checkpoint(self, key: Key, now: Object | None, before: Object | None) -> None:
        """Wakes it, those of its identity, the graphs that refer to it, and housekeeping."""
        namespace, name = key
        digest = _digest(now or before or {})
        self._cache.checkpoints.put(key, [name] if now else [], now)
        self._cache.checkpoints_by_hash.put(key, [digest] if now and digest else [], now)
        self._work.add(queue.Key(CHECKPOINT, namespace, name))
        for reference in {name, digest}:
            wake_checkpoints(self._cache, self._work, namespace, reference)
            for graph in cache_module.many(self._cache.graphs_by_reference, namespace, reference):
                self._work.add(queue.Key(GRAPH, namespace, graph))
        if housekeeping.occupied(now) != housekeeping.occupied(before):
            self._work.add(HOUSEKEEPING)

    def job(self, key: Key, now: Object | None, before: Object | None) -> None:
        """Wakes its checkpoint."""
        namespace, name = key
        self._cache.jobs.put(key, [name] if now else [], now)
        labels = ((now or before or {})["metadata"].get("labels")) or {}
        digest = labels.get(names.LABEL_HASH, "")
        wake_checkpoints(self._cache, self._work, namespace, digest)

    def pod(self, key: Key, now: pods.Pod | None, before: pods.Pod | None) -> None:
        """Wakes its checkpoint and its graph."""
        namespace, name = key
        managed = now is not None and now.managed
        self._cache.pods.put(key, cache_module.keys(now) if now and managed else [], now)
        pod = now or before
        if pod is None:
            return
        if not pod.managed:
            if before is None and self.listed:
                self._work.add(queue.Key(SKIPPED_POD, namespace, name))
            return
        if pod.source:
            wake_checkpoints(self._cache, self._work, namespace, pod.digest)
            return
        wake_checkpoints(self._cache, self._work, namespace, pod.reference)
        if pod.identity:
            self._work.add(queue.Key(ADOPTION, namespace, pod.reference))
        if pod.graph:
            self._work.add(queue.Key(GRAPH, namespace, pod.graph))

    def graph(self, key: Key, now: Object | None, before: Object | None) -> None:
        """Wakes it, and the checkpoints that it refers to: what was pruned may be wanted again."""
        namespace, name = key
        self._cache.graphs.put(key, [name] if now else [], now)
        references = workloads.references(now) if now else set()
        self._cache.graphs_by_reference.put(key, references, name)
        self._work.add(queue.Key(GRAPH, namespace, name))
        for reference in references - (workloads.references(before) if before else set()):
            wake_checkpoints(self._cache, self._work, namespace, reference)

    def deployment(self, key: Key, now: Object | None, before: Object | None) -> None:
        """Wakes its graph."""
        found = [item["metadata"]["labels"][names.LABEL_GRAPH] for item in (before, now) if item]
        self._cache.deployments.put(key, found[-1:] if now else [], now)
        for graph in set(found):
            self._work.add(queue.Key(GRAPH, key[0], graph))


@dataclasses.dataclass(frozen=True)
class Collection:
    """What is followed of one kind of object.

    Attributes:
        selector: of labels; empty for all.
        project: makes of an object what is kept.
        changed: the method of `Changes` that hears of it.
    """

    group_version: str
    plural: str
    selector: str
    project: Callable[[Object], Any]
    changed: Callable[[Changes, Key, Any, Any], None]


class Follower:
    """Everything that the controllers decide by, of some namespaces."""

    def __init__(self, client: api.Client, namespaces: Iterable[str], changes: Changes) -> None:
        self._changes = changes
        self._informers = [
            _informer(client, namespace, collection, changes)
            for namespace in namespaces
            for collection in COLLECTIONS
        ]

    async def run(self) -> None:
        """Follow for ever."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run())

    async def synced(self) -> None:
        """Return when all that exists is in memory."""
        for informer in self._informers:
            await informer.synced.wait()
        self._changes.listed = True


def _informer(
    client: api.Client, namespace: str, collection: Collection, changes: Changes
) -> api.Informer[Any]:
    def on_change(key: str, now: Any, before: Any) -> None:
        _, _, name = key.partition("/")
        collection.changed(changes, (namespace, name), now, before)

    return api.Informer(
        client,
        api.path(collection.group_version, collection.plural, namespace),
        query={"labelSelector": collection.selector} if collection.selector else {},
        project=collection.project,
        on_change=on_change,
    )


def of_checkpoint(item: Object) -> Object:
    """A DynamoCheckpoint with its whole status, wherever that is."""
    return {**_lean(item), "status": state.status_of(item)}


def of_job(item: Object) -> Object:
    """Thousands of these are kept."""
    metadata = {k: v for k, v in item["metadata"].items() if k in _OF_JOBS}
    status = {"conditions": (item.get("status") or {}).get("conditions") or []}
    return {"metadata": metadata, "status": status}


def of_deployment(item: Object) -> Object:
    """Of its spec the number of replicas."""
    replicas = (item.get("spec") or {}).get("replicas", 1)
    return {**_lean(item), "spec": {"replicas": replicas}}


def _lean(item: Object) -> Object:
    """Of its field owners the names, and nothing that is said twice."""
    metadata = dict(item["metadata"])
    metadata["managedFields"] = [
        {"manager": entry.get("manager", ""), "subresource": entry.get("subresource", "")}
        for entry in metadata.get("managedFields") or []
    ]
    if metadata.get("annotations"):
        kept = {k: v for k, v in metadata["annotations"].items() if k != _LAST_APPLIED}
        metadata["annotations"] = kept
    return {**item, "metadata": metadata}


COLLECTIONS = (
    Collection(names.API_VERSION, names.CHECKPOINT_PLURAL, "", of_checkpoint, Changes.checkpoint),
    Collection(names.API_VERSION, names.GRAPH_PLURAL, "", _lean, Changes.graph),
    Collection("batch/v1", "jobs", f"{names.LABEL_SOURCE}=true", of_job, Changes.job),
    Collection("apps/v1", "deployments", names.LABEL_GRAPH, of_deployment, Changes.deployment),
    Collection("v1", "pods", names.LABEL_MANAGED, pods.project, Changes.pod),
)


def wake_checkpoints(
    cache: cache_module.Cache, work: queue.Queue, namespace: str, reference: str
) -> None:
    """Have all checkpoints looked at that a name or a hash means."""
    named = cache_module.one(cache.checkpoints, namespace, reference)
    digest = (_digest(named) if named else "") or reference
    for same in cache_module.many(cache.checkpoints_by_hash, namespace, digest):
        work.add(queue.Key(CHECKPOINT, namespace, same["metadata"]["name"]))


def wake_all(cache: cache_module.Cache, work: queue.Queue) -> None:
    """Have every checkpoint and every graph looked at."""
    for kind, index in ((CHECKPOINT, cache.checkpoints), (GRAPH, cache.graphs)):
        for namespace, name in index:
            work.add(queue.Key(kind, namespace, name))


def _digest(item: Mapping[str, Any]) -> str:
    try:
        return identity.parse((item.get("spec") or {}).get("identity") or {}).hash()
    except errors.InputError:
        return ""
