"""The DynamoGraphDeployment controller: a Deployment for each service, checkpoints in auto mode."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import Any

from chrek import config, errors, log, names
from chrek.kube import api
from chrek.operator import cache as cache_module
from chrek.operator import conditions, injection, jobs, queue, workloads, writes

LOG = log.get(__name__)
COMPONENT = "chrek-operator"
FINE = (names.Reason.AVAILABLE, names.Reason.WAITING_FOR_REPLICAS)
BROKEN = (names.Reason.INVALID_SPEC, names.Reason.NAME_TAKEN)

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why a service is not as its owner wants it."""

    reason: str
    message: str


class Graphs:
    """Reconciles DynamoGraphDeployments."""

    def __init__(
        self,
        client: api.Client,
        cache: cache_module.Cache,
        settings: config.OperatorConfig,
        *,
        instance: str,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._client = client
        self._cache = cache
        self._settings = settings
        self._instance = instance
        self._clock = clock

    async def reconcile(self, key: queue.Key) -> float | None:
        """Make the cluster what one graph says."""
        graph = cache_module.one(self._cache.graphs, key.namespace, key.name)
        if graph is None or graph["metadata"].get("deletionTimestamp"):
            return None
        services: Object = {}
        wanted: set[str] = set()
        for name, service in sorted((graph["spec"].get("services") or {}).items()):
            made = workloads.deployment_name(key.name, name)
            if made in wanted:
                text = f"spec.services.{name}: another service also makes Deployment {made}"
                problem = Problem(names.Reason.NAME_TAKEN, f"{text}; rename one of them")
                services[name] = _entry(made, None, problem)
                continue
            wanted.add(made)
            services[name] = await self._service(graph, name, service)
        await self._prune(graph, wanted)
        await self._write(graph, services)
        return None

    async def _service(self, graph: Object, name: str, service: Mapping[str, Any]) -> Object:
        namespace = graph["metadata"]["namespace"]
        made = workloads.deployment_name(graph["metadata"]["name"], name)
        checkpoint, problem = None, None
        wish = None
        try:
            pods = workloads.template(graph["metadata"]["name"], name, service)
            wish = workloads.wish(service, f"spec.services.{name}.checkpoint")
            if wish:
                checkpoint = await self._checkpoint(namespace, wish, service, pods)
                pods, problem = _opted_in(pods, wish, checkpoint)
            desired = workloads.deployment(graph, name, pods, service.get("replicas", 1))
            current = await self._apply(graph, desired)
        except errors.InputError as err:
            return _entry(made, None, Problem(err.reason, str(err)), wish, checkpoint)
        return _entry(made, current, problem, wish, checkpoint)

    async def _checkpoint(
        self, namespace: str, wish: workloads.Wish, service: Mapping[str, Any], pods: Object
    ) -> Object | None:
        """The checkpoint a service refers to; auto mode creates it when there is none."""
        found = cache_module.one(self._cache.checkpoints, namespace, wish.reference)
        if found is None or (wish.known and not _is_of(found, wish)):
            same = cache_module.many(self._cache.checkpoints_by_hash, namespace, wish.reference)
            found = cache_module.oldest(same)
        main = pods["spec"]["containers"][0]
        if found is not None or wish.known is None or not main.get("command"):
            return found
        raw = service["checkpoint"]["identity"]
        body = workloads.checkpoint(namespace, wish, raw, pods)
        try:
            made = await self._client.create(
                names.API_VERSION, names.CHECKPOINT_PLURAL, namespace, body
            )
        except errors.ApiError as err:
            if err.status in (400, 422):
                raise errors.InputError(f"checkpoint.identity: {err.message}") from err
            if err.status != 409:
                raise
            # Another graph of the same identity was faster; the cache will show its checkpoint.
            return await self._client.find(
                names.API_VERSION, names.CHECKPOINT_PLURAL, namespace, wish.reference
            )
        LOG.info("checkpoint created", namespace=namespace, checkpoint=wish.reference)
        return made

    async def _apply(self, graph: Object, desired: Object) -> Object:
        metadata = desired["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        found = [d for d in self._deployments(graph) if d["metadata"]["name"] == name]
        try:
            if not found:
                try:
                    return await self._client.create("apps/v1", "deployments", namespace, desired)
                except errors.ApiError as err:
                    if err.status != 409:
                        raise
                current = await self._client.get("apps/v1", "deployments", namespace, name)
            else:
                current = found[0]
            if jobs.owner_uid(current) != graph["metadata"]["uid"]:
                raise errors.InputError(
                    f"a Deployment {name} exists that belongs to something else",
                    reason=names.Reason.NAME_TAKEN,
                    hint="delete it or rename the service",
                )
            patch = workloads.changes(current, desired)
            if patch:
                LOG.info("deployment changed", namespace=namespace, deployment=name)
                current = await self._client.patch(
                    "apps/v1", "deployments", namespace, name, patch, kind=api.PatchKind.JSON
                )
        except errors.ApiError as err:
            if err.status in (400, 422):
                raise errors.InputError(f"extraPodSpec: {err.message}") from err
            raise
        return current

    async def _prune(self, graph: Object, wanted: set[str]) -> None:
        """Delete the Deployments of services that the graph no longer has."""
        for item in self._deployments(graph):
            metadata = item["metadata"]
            if metadata["name"] in wanted or metadata.get("deletionTimestamp"):
                continue
            if jobs.owner_uid(item) != graph["metadata"]["uid"]:
                continue
            try:
                await self._client.delete(
                    "apps/v1",
                    "deployments",
                    metadata["namespace"],
                    metadata["name"],
                    uid=metadata["uid"],
                )
            except errors.ApiError as err:
                if err.status not in (404, 409):
                    raise

    def _deployments(self, graph: Object) -> list[Object]:
        metadata = graph["metadata"]
        return cache_module.many(self._cache.deployments, metadata["namespace"], metadata["name"])

    async def _write(self, graph: Object, services: Object) -> None:
        old, metadata = graph.get("status") or {}, graph["metadata"]
        bad = {name: entry for name, entry in services.items() if entry["reason"] not in FINE}
        waiting = [n for n, e in services.items() if e["reason"] != names.Reason.AVAILABLE]
        if bad:
            name, entry = next(iter(bad.items()))
            reason, message = entry["reason"], f"service {name}: {entry['message']}"
        elif waiting:
            reason = names.Reason.WAITING_FOR_REPLICAS
            message = f"waiting for pods of: {', '.join(waiting)}"
        else:
            reason, message = names.Reason.AVAILABLE, "all services are available"
        unavailable = [n for n, e in services.items() if e["readyReplicas"] < e["replicas"]]
        new = conditions.with_condition(
            {
                **old,
                "services": services,
                "observedGeneration": metadata.get("generation", 0),
            },
            names.CONDITION_READY,
            value=not unavailable and not any(e["reason"] in BROKEN for e in services.values()),
            reason=reason,
            message=message,
            now=self._clock(),
        )
        patch = conditions.difference(old, new)
        if not patch:
            return
        if "services" in patch:
            # A merge patch keeps what it does not name: services and fields that are gone.
            patch["services"] = _nested(old.get("services") or {}, services)
        if await writes.status(self._client, names.GRAPH_PLURAL, graph, patch):
            await self._tell(graph, old.get("services") or {}, bad)

    async def _tell(self, graph: Object, old: Mapping[str, Any], bad: Mapping[str, Any]) -> None:
        regarding = api.reference(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.GRAPH_KIND,
                "metadata": graph["metadata"],
            }
        )
        for name, entry in bad.items():
            if (old.get(name) or {}).get("message") == entry["message"]:
                continue
            await api.post_event(
                self._client,
                regarding=regarding,
                type_="Warning",
                reason=entry["reason"],
                note=f"service {name}: {entry['message']}",
                component=COMPONENT,
                instance=self._instance,
                action="Reconcile",
            )


def _is_of(checkpoint: Mapping[str, Any], wish: workloads.Wish) -> bool:
    known = (checkpoint.get("status") or {}).get("identityHash")
    return known is None or known == wish.reference


def _opted_in(
    pods: Object, wish: workloads.Wish, checkpoint: Object | None
) -> tuple[Object, Problem | None]:
    """The pod template with chrek's annotations, and what stands in the way."""
    remembered = injection.project(checkpoint) if checkpoint else None
    main = pods["spec"]["containers"][0]
    problem = None
    if checkpoint is None and wish.known is None:
        problem = Problem(
            names.Reason.CHECKPOINT_NOT_FOUND,
            f"waiting for DynamoCheckpoint {wish.reference}: none has this name or hash;"
            " pods start cold until it is Ready",
        )
    try:
        command: list[str] | None = injection.worker_command(main, remembered)
    except errors.UnsupportedError:
        command = None
        text = workloads.skipped_message(main["image"], wish)
        reason, _, message = text.partition(": ")
        problem = problem or Problem(reason, message)
    return workloads.with_checkpoint(pods, wish, command), problem


def _entry(
    deployment: str,
    current: Mapping[str, Any] | None,
    problem: Problem | None,
    wish: workloads.Wish | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> Object:
    """A service's part of the status."""
    entry: Object = {"deploymentName": deployment, "replicas": 0, "readyReplicas": 0}
    if current is not None:
        entry["replicas"] = (current.get("spec") or {}).get("replicas", 1)
        entry["readyReplicas"] = (current.get("status") or {}).get("readyReplicas", 0)
    if wish is not None:
        theirs = ((checkpoint or {}).get("status")) or {}
        entry["checkpointName"] = checkpoint["metadata"]["name"] if checkpoint else wish.reference
        digest = theirs.get("identityHash") or (wish.known.hash() if wish.known else "")
        if digest:
            entry["identityHash"] = digest
        entry["ready"] = theirs.get("phase") == names.Phase.READY
    if problem is None:
        done = current is not None and entry["readyReplicas"] >= entry["replicas"]
        reason = names.Reason.AVAILABLE if done else names.Reason.WAITING_FOR_REPLICAS
        text = f"{entry['readyReplicas']} of {entry['replicas']} pods are ready"
        theirs = (checkpoint or {}).get("status") or {}
        if theirs.get("phase") == names.Phase.FAILED:
            text += f"; they start cold, the checkpoint failed: {theirs.get('message', '')}"
        problem = Problem(reason, text)
    entry["reason"], entry["message"] = str(problem.reason), problem.message
    return entry


def _nested(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    patch: Object = {name: None for name in old if name not in new}
    for name, entry in new.items():
        gone = {key: None for key in old.get(name) or {} if key not in entry}
        patch[name] = {**entry, **gone}
    return patch
