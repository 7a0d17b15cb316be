"""kopf's part: it follows the cluster, fills the indexes and wakes the queue.

Only events and indexes are used, of our own objects as well: kopf then writes nothing, neither
finalizers nor annotations, and the state lives in the objects' status alone.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

import kopf

from chrek import errors, identity, names
from chrek.kube import credentials
from chrek.operator import cache as cache_module
from chrek.operator import jobs, queue, workloads

Object = dict[str, Any]
CHECKPOINT = "checkpoint"
GRAPH = "graph"
SKIPPED_POD = "skipped pod"

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
    made.watching.chunk_size = 500
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
        item = _plain(body)
        return {_key(item): item}

    @kopf.index(*CHECKPOINTS, id="checkpoints_by_hash", registry=made)
    async def checkpoints_by_hash(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Object]:
        item = _plain(body)
        digest = _digest(item)
        return {(item["metadata"]["namespace"], digest): item} if digest else {}

    @kopf.index(*JOBS, id="jobs", registry=made)
    async def known_jobs(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Object]:
        item = _plain(body)
        item.pop("spec", None)
        return {_key(item): item}

    @kopf.index(*PODS, id="pods", labels={names.LABEL_SOURCE: "true"}, registry=made)
    async def pods(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Object]:
        item = _plain(body)
        slim = {
            "metadata": item["metadata"],
            "status": {"phase": (item.get("status") or {}).get("phase", "")},
        }
        owner = jobs.owner_uid(item)
        return {(item["metadata"]["namespace"], owner): slim} if owner else {}

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
        for same in cache_module.many(cache.checkpoints_by_hash, namespace, digest):
            work.add(queue.Key(CHECKPOINT, namespace, same["metadata"]["name"]))
        for reference in {name, digest}:
            for graph in _graphs(cache, namespace, reference):
                work.add(queue.Key(GRAPH, namespace, graph))

    @kopf.on.event(*JOBS, registry=made)
    async def job_changed(body: kopf.Body, **_: Any) -> None:
        _wake_source(_plain(body))

    @kopf.on.event(*PODS, registry=made)
    async def pod_changed(event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        item = _plain(body)
        managed = (item["metadata"].get("labels") or {}).get(names.LABEL_MANAGED)
        if managed == "true":
            _wake_source(item)
        elif event["type"] == "ADDED":
            work.add(queue.Key(SKIPPED_POD, *_key(item)))

    def _wake_source(item: Object) -> None:
        namespace = item["metadata"]["namespace"]
        labels = item["metadata"].get("labels") or {}
        if names.LABEL_SOURCE not in labels:
            return
        digest = labels.get(names.LABEL_HASH, "")
        for same in cache_module.many(cache.checkpoints_by_hash, namespace, digest):
            work.add(queue.Key(CHECKPOINT, namespace, same["metadata"]["name"]))

    @kopf.on.event(*GRAPHS, registry=made)
    async def graph_changed(body: kopf.Body, **_: Any) -> None:
        work.add(queue.Key(GRAPH, *_key(_plain(body))))

    @kopf.on.event(*DEPLOYMENTS, registry=made)
    async def deployment_changed(body: kopf.Body, **_: Any) -> None:
        metadata = body["metadata"]
        graph = (metadata.get("labels") or {}).get(names.LABEL_GRAPH, "")
        work.add(queue.Key(GRAPH, metadata["namespace"], graph))


def _graphs(cache: cache_module.Cache, namespace: str, reference: str) -> list[str]:
    key = (namespace, reference)
    index: Any = cache.graphs_by_reference
    return list(index[key]) if key in index else []


def _digest(item: Object) -> str:
    try:
        return identity.parse(item["spec"]["identity"]).hash()
    except (errors.InputError, KeyError):
        return ""


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _plain(body: kopf.Body) -> Object:
    """The object as a dictionary, without the bookkeeping of field owners."""
    item = dict(body)
    metadata = {k: v for k, v in item["metadata"].items() if k != "managedFields"}
    return {**item, "metadata": metadata}
