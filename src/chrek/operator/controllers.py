"""kopf's part: it follows the cluster, fills the indexes and wakes the queue.

Only events and indexes are used, of our own objects as well: kopf then writes nothing, neither
finalizers nor annotations, and the state lives in the objects' status alone.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

import kopf

from chrek import errors, identity, names, state
from chrek.kube import credentials
from chrek.operator import cache as cache_module
from chrek.operator import pods, queue, workloads

Object = dict[str, Any]
CHECKPOINT = "checkpoint"
GRAPH = "graph"
SKIPPED_POD = "skipped pod"
ADOPTION = "pods without a checkpoint"

CHECKPOINTS = (names.GROUP, names.VERSION, names.CHECKPOINT_PLURAL)
GRAPHS = (names.GROUP, names.VERSION, names.GRAPH_PLURAL)
JOBS = ("batch", "v1", "jobs")
DEPLOYMENTS = ("apps", "v1", "deployments")
PODS = ("v1", "pods")


def settings() -> kopf.OperatorSettings:
    """How kopf behaves."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.process.ultimate_exiting_timeout = 25
    made.networking.request_timeout = 60
    made.networking.connect_timeout = 10
    made.watching.connect_timeout = 10
    # Until everything is listed kopf keeps what it has read. Small pages, and workers that end
    # soon, halve the memory of a start with a thousand checkpoints.
    made.watching.chunk_size = 50
    made.queueing.idle_timeout = 0.5
    made.watching.label_selectors[JOBS] = f"{names.LABEL_SOURCE}=true"
    made.watching.label_selectors[DEPLOYMENTS] = names.LABEL_GRAPH
    made.watching.label_selectors[PODS] = names.LABEL_MANAGED
    return made


def quiet() -> None:
    """Keep kopf's chatter about every event, and its settings, out of the log."""
    logger = logging.getLogger("kopf.objects")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_lean)


class _Connection(kopf.ConnectionInfo):
    """Verifies the API server as our own client does."""

    def as_ssl_context(self) -> ssl.SSLContext:
        return credentials.lenient(super().as_ssl_context())


def _lean(record: logging.LogRecord) -> bool:
    for field in ("settings", "k8s_skip"):
        record.__dict__.pop(field, None)
    return True


def registry(cache: cache_module.Cache, work: queue.Queue) -> kopf.OperatorRegistry:
    """All of kopf's handlers."""
    made = kopf.OperatorRegistry()
    _indexes(made)
    _wakers(made, cache, work)

    @kopf.on.login(registry=made)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        found = kopf.login_with_kubeconfig(**kwargs) or kopf.login_with_service_account(**kwargs)
        return _Connection(**vars(found)) if found else None

    @kopf.on.startup(registry=made)
    async def bind(**kwargs: Any) -> None:
        cache.bind(kwargs)

    return made


def _indexes(made: kopf.OperatorRegistry) -> None:
    @kopf.index(*CHECKPOINTS, id="checkpoints", registry=made)
    async def checkpoints(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Object]:
        item = _checkpoint(body)
        return {_key(item): item}

    @kopf.index(*CHECKPOINTS, id="checkpoints_by_hash", registry=made)
    async def checkpoints_by_hash(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Object]:
        item = _checkpoint(body)
        digest = _digest(item)
        return {(item["metadata"]["namespace"], digest): item} if digest else {}

    @kopf.index(*JOBS, id="jobs", registry=made)
    async def known_jobs(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Object]:
        item = _plain(body)
        # Thousands of these are kept.
        kept = ("namespace", "name", "uid", "deletionTimestamp", "annotations", "ownerReferences")
        metadata = {k: v for k, v in item["metadata"].items() if k in kept}
        status = {"conditions": (item.get("status") or {}).get("conditions") or []}
        return {_key(item): {"metadata": metadata, "status": status}}

    @kopf.index(*PODS, id="pods", labels={names.LABEL_MANAGED: "true"}, registry=made)
    async def managed(body: kopf.Body, **_: Any) -> dict[tuple[str, str], pods.Pod]:
        pod = pods.project(_plain(body))
        return dict.fromkeys(cache_module.keys(pod), pod)

    @kopf.index(*GRAPHS, id="graphs", registry=made)
    async def graphs(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Object]:
        item = _plain(body)
        return {_key(item): item}

    @kopf.index(*GRAPHS, id="graphs_by_reference", registry=made)
    async def graphs_by_reference(body: kopf.Body, **_: Any) -> dict[tuple[str, str], str]:
        item = _plain(body)
        metadata = item["metadata"]
        found = workloads.references(item)
        return {(metadata["namespace"], reference): metadata["name"] for reference in found}

    @kopf.index(*DEPLOYMENTS, id="deployments", registry=made)
    async def deployments(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Object]:
        item = _plain(body)
        metadata = item["metadata"]
        slim = {**item, "spec": {"replicas": (item.get("spec") or {}).get("replicas", 1)}}
        return {(metadata["namespace"], metadata["labels"][names.LABEL_GRAPH]): slim}


def _wakers(made: kopf.OperatorRegistry, cache: cache_module.Cache, work: queue.Queue) -> None:
    @kopf.on.event(*CHECKPOINTS, registry=made)
    async def checkpoint_changed(body: kopf.Body, **_: Any) -> None:
        item = _plain(body)
        namespace, name = _key(item)
        digest = _digest(item)
        work.add(queue.Key(CHECKPOINT, namespace, name))
        for reference in {name, digest}:
            wake_checkpoints(cache, work, namespace, reference)
            for graph in _graphs(cache, namespace, reference):
                work.add(queue.Key(GRAPH, namespace, graph))

    @kopf.on.event(*JOBS, registry=made)
    async def job_changed(body: kopf.Body, **_: Any) -> None:
        metadata = body["metadata"]
        digest = (metadata.get("labels") or {}).get(names.LABEL_HASH, "")
        wake_checkpoints(cache, work, metadata["namespace"], digest)

    @kopf.on.event(*PODS, registry=made)
    async def pod_changed(event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        metadata = body["metadata"]
        namespace, labels = metadata["namespace"], metadata.get("labels") or {}
        annotations = metadata.get("annotations") or {}
        if labels.get(names.LABEL_MANAGED) != "true":
            if event["type"] == "ADDED":
                work.add(queue.Key(SKIPPED_POD, namespace, metadata["name"]))
            return
        if names.LABEL_SOURCE in labels:
            wake_checkpoints(cache, work, namespace, labels.get(names.LABEL_HASH, ""))
            return
        reference = annotations.get(names.ANNOTATION_CHECKPOINT, "")
        wake_checkpoints(cache, work, namespace, reference)
        if names.ANNOTATION_IDENTITY in annotations:
            work.add(queue.Key(ADOPTION, namespace, reference))
        graph = labels.get(names.LABEL_GRAPH)
        if graph:
            work.add(queue.Key(GRAPH, namespace, graph))

    @kopf.on.event(*GRAPHS, registry=made)
    async def graph_changed(body: kopf.Body, **_: Any) -> None:
        work.add(queue.Key(GRAPH, *_key(_plain(body))))

    @kopf.on.event(*DEPLOYMENTS, registry=made)
    async def deployment_changed(body: kopf.Body, **_: Any) -> None:
        metadata = body["metadata"]
        graph = (metadata.get("labels") or {}).get(names.LABEL_GRAPH, "")
        work.add(queue.Key(GRAPH, metadata["namespace"], graph))


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
        for namespace, name in list(index):
            work.add(queue.Key(kind, namespace, name))


def _graphs(cache: cache_module.Cache, namespace: str, reference: str) -> list[str]:
    key = (namespace, reference)
    index: Any = cache.graphs_by_reference
    return list(index[key]) if key in index else []


def _digest(item: Object) -> str:
    try:
        return identity.parse((item.get("spec") or {}).get("identity") or {}).hash()
    except errors.InputError:
        return ""


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _checkpoint(body: kopf.Body) -> Object:
    """A DynamoCheckpoint with its whole status, wherever that is."""
    item = _plain(body)
    return {**item, "status": state.status_of(item)}


def _plain(body: kopf.Body) -> Object:
    """The object as a dictionary, of its field owners the names alone."""
    item = dict(body)
    owners = [
        {"manager": entry.get("manager", ""), "subresource": entry.get("subresource", "")}
        for entry in item["metadata"].get("managedFields") or []
    ]
    return {**item, "metadata": {**item["metadata"], "managedFields": owners}}
