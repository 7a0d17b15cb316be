"""The DynamoGraphDeployment controller: a Deployment for each service, checkpoints in auto mode."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from chrek import config, errors, log, names
from chrek.kube import api
from chrek.operator import cache as cache_module
from chrek.operator import (
    commands,
    conditions,
    platform,
    queue,
    services,
    templates,
    workloads,
    writes,
)
from chrek.operator import pods as pods_module

LOG = log.get(__name__)
COMPONENT = "chrek-operator"
LOOK_UP_SECONDS = 300.0
_WAITS = (names.Reason.WAITING_FOR_RESOURCES, names.Reason.POD_REFUSED)
"""Reasons of a Pending checkpoint that another pod template may overcome."""

Object = dict[str, Any]


class Graphs:
    """Reconciles DynamoGraphDeployments."""

    def __init__(
        self,
        client: api.Client,
        cache: cache_module.Cache,
        settings: config.OperatorConfig,
        *,
        wanted: templates.Templates,
        images: commands.Commands,
        owners: platform.Detector,
        wake: Callable[[str, str], None],
        instance: str,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        """Prepare.

        Args:
            client: connection to use.
            cache: the cluster as it is.
            settings: the operator's configuration.
            wanted: where what should be captured is put.
            images: what images run.
            owners: whether the pods of graphs are chrek's to make.
            wake: has the checkpoints of a namespace and a hash looked at.
            instance: who posts Events.
            clock: the time, in UTC.
        """
        self._client = client
        self._cache = cache
        self._settings = settings
        self._templates = wanted
        self._images = images
        self._platform = owners
        self._wake = wake
        self._instance = instance
        self._clock = clock

    async def reconcile(self, key: queue.Key) -> float | None:
        """Make the cluster what one graph says."""
        graph = cache_module.one(self._cache.graphs, key.namespace, key.name)
        if self._platform.current.makes_graphs:
            graph = None  # Its pods are the platform's; the webhook sees to them.
        if graph is None or graph["metadata"].get("deletionTimestamp"):
            self._want(key, {})
            return None
        entries: Object = {}
        made: set[str] = set()
        wanted: dict[str, list[templates.Wanted]] = {}
        for name, service in sorted((graph["spec"].get("services") or {}).items()):
            deployment = workloads.deployment_name(key.name, name)
            if deployment in made:
                text = f"spec.services.{name}: another service also makes Deployment {deployment}"
                problem = services.Problem(names.Reason.NAME_TAKEN, f"{text}; rename one of them")
                entries[name] = services.entry(deployment, None, problem)
                continue
            made.add(deployment)
            entries[name] = await self._service(graph, name, service, wanted)
        self._want(key, wanted)
        await self._prune(graph, made)
        await self._write(graph, entries)
        return LOOK_UP_SECONDS if _unresolved(entries) else None

    def _want(self, key: queue.Key, wanted: Mapping[str, list[templates.Wanted]]) -> None:
        for digest in self._templates.put((key.namespace, key.name), wanted):
            self._wake(key.namespace, digest)

    async def _service(
        self,
        graph: Object,
        name: str,
        service: Mapping[str, Any],
        wanted: dict[str, list[templates.Wanted]],
    ) -> Object:
        metadata = graph["metadata"]
        made = workloads.deployment_name(metadata["name"], name)
        checkpoint, problem, wish, variant = None, None, None, ""
        replicas, started = service.get("replicas", 1), False
        try:
            pods = workloads.template(metadata["name"], name, service)
            wish = workloads.wish(service, f"spec.services.{name}.checkpoint")
            if wish:
                checkpoint = self._find(metadata["namespace"], wish)
                problem = _absent(wish, checkpoint)
                try:
                    pods = await self._complete(metadata["namespace"], pods, checkpoint)
                except errors.UnsupportedError as err:
                    pods = workloads.without_checkpoint(pods, err)
                    problem = problem or services.Problem(err.reason, str(err))
                else:
                    described = templates.wanted(
                        workloads.captured(pods), job=workloads.job_settings(wish)
                    )
                    variant = described.variant
                    if wish.known:
                        wanted.setdefault(wish.reference, []).append(described)
                        checkpoint = await self._auto(graph, name, wish, checkpoint, pods)
                    pods = workloads.with_checkpoint(pods, wish)
                    if wish.waits:
                        started, holds = self._hold(graph, made, checkpoint, wish, variant)
                        replicas = replicas if started else 0
                        problem = holds or problem
            desired = workloads.deployment(graph, name, pods, replicas, started=started)
            current = await self._apply(graph, desired)
        except errors.InputError as err:
            problem = services.Problem(err.reason, str(err))
            return services.entry(
                made, None, problem, wish=wish, checkpoint=checkpoint, variant=variant
            )
        return services.entry(
            made,
            current,
            problem,
            wish=wish,
            checkpoint=checkpoint,
            variant=variant,
            alive=self._pods(graph, name),
        )

    def _pods(self, graph: Object, service: str) -> list[pods_module.Pod]:
        metadata = graph["metadata"]
        found = self._cache.of_graph(metadata["namespace"], metadata["name"])
        return [pod for pod in found if pod.service == service]

    def _find(self, namespace: str, wish: workloads.Wish) -> Object | None:
        """The checkpoint that a service refers to."""
        found = cache_module.one(self._cache.checkpoints, namespace, wish.reference)
        if found is None or (wish.known and not _is_of(found, wish)):
            same = cache_module.many(self._cache.checkpoints_by_hash, namespace, wish.reference)
            found = cache_module.oldest(same)
        return found

    async def _complete(self, namespace: str, pods: Object, checkpoint: Object | None) -> Object:
        """The pod template with the worker's command, wherever that is to be had.

        Raises:
            UnsupportedError: it is not to be had.
        """
        main = pods["spec"]["containers"][0]
        if main.get("command"):
            return pods
        try:
            return templates.as_captured(pods, checkpoint)
        except errors.UnsupportedError:
            return await templates.completed(self._images, namespace, pods)

    def _hold(
        self,
        graph: Object,
        deployment: str,
        checkpoint: Object | None,
        wish: workloads.Wish,
        variant: str,
    ) -> tuple[bool, services.Problem | None]:
        """Whether a service that waits for its checkpoint may start, and else why not."""
        for item in self._deployments(graph):
            annotations = item["metadata"].get("annotations") or {}
            named = item["metadata"]["name"] == deployment
            serves = annotations.get(workloads.ANNOTATION_REPLICAS, "0") != "0"
            if named and (serves or annotations.get(workloads.ANNOTATION_STARTED)):
                return True, None
        # A failed checkpoint never keeps a service from starting: its status says that it is cold.
        if services.usable(checkpoint, variant) or services.hopeless(checkpoint, wish, variant):
            return True, None
        status = (checkpoint or {}).get("status") or {}
        text = status.get("message") or f"DynamoCheckpoint {wish.reference} is not there yet"
        reason = names.Reason.WAITING_FOR_CHECKPOINT
        return False, services.Problem(reason, f"no pods before the checkpoint is Ready: {text}")

    async def _auto(
        self,
        graph: Object,
        name: str,
        wish: workloads.Wish,
        found: Object | None,
        pods: Object,
    ) -> Object | None:
        """Auto mode: create the checkpoint when there is none, correct one that failed."""
        body = workloads.checkpoint(graph, name, wish, pods)
        namespace = graph["metadata"]["namespace"]
        if found is not None:
            return await self._corrected(found, body)
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

    async def _corrected(self, found: Object, body: Object) -> Object:
        """Give a checkpoint that does not get on the template of its service."""
        metadata, status = found["metadata"], found.get("status") or {}
        made_from = (metadata.get("annotations") or {}).get(names.ANNOTATION_MADE_FROM)
        mine = body["metadata"]["annotations"][names.ANNOTATION_MADE_FROM]
        job, wanted = found["spec"].get("job") or {}, body["spec"].get("job") or {}
        stale = any(job.get(key) != value for key, value in wanted.items())
        ready = conditions.get(status, names.CONDITION_READY) or {}
        stuck = status.get("phase") == names.Phase.FAILED or ready.get("reason") in _WAITS
        if made_from != mine or not stuck or not stale:
            return found
        version = metadata["resourceVersion"]
        # Replaced as a whole: a merge would keep what is gone from the template.
        operations = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/spec/job", "value": {**job, **wanted}},
        ]
        return await self._client.patch(
            names.API_VERSION,
            names.CHECKPOINT_PLURAL,
            metadata["namespace"],
            metadata["name"],
            operations,
            kind=api.PatchKind.JSON,
        )

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
            if pods_module.owner_uid(current) != graph["metadata"]["uid"]:
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
            if pods_module.owner_uid(item) != graph["metadata"]["uid"]:
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

    async def _write(self, graph: Object, entries: Object) -> None:
        old, metadata = graph.get("status") or {}, graph["metadata"]
        bad = {
            name: entry for name, entry in entries.items() if entry["reason"] not in services.FINE
        }
        waiting = [n for n, e in entries.items() if e["reason"] != names.Reason.AVAILABLE]
        if bad:
            name, entry = next(iter(bad.items()))
            reason, message = entry["reason"], f"service {name}: {entry['message']}"
        elif waiting:
            reason = names.Reason.WAITING_FOR_REPLICAS
            message = f"waiting for pods of: {', '.join(waiting)}"
        else:
            reason, message = names.Reason.AVAILABLE, "all services are available"
        unavailable = [n for n, e in entries.items() if e["readyReplicas"] < e["replicas"]]
        new = conditions.with_condition(
            {
                **old,
                "services": entries,
                "observedGeneration": metadata.get("generation", 0),
            },
            names.CONDITION_READY,
            value=not unavailable
            and not any(e["reason"] in services.NOT_READY for e in entries.values()),
            reason=reason,
            message=message,
            now=self._clock(),
        )
        patch = conditions.difference(old, new)
        if not patch:
            return
        if "services" in patch:
            # A merge patch keeps what it does not name: services and fields that are gone.
            patch["services"] = services.patch(old.get("services") or {}, entries)
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


def _absent(wish: workloads.Wish, checkpoint: Object | None) -> services.Problem | None:
    if checkpoint is not None or wish.known is not None:
        return None
    return services.Problem(
        names.Reason.CHECKPOINT_NOT_FOUND,
        f"waiting for DynamoCheckpoint {wish.reference}: none has this name or hash;"
        " pods start cold until it is Ready",
    )


def _unresolved(entries: Mapping[str, Any]) -> bool:
    """Whether the command of an image could not be looked up: a registry may come back."""
    return any(entry["reason"] == names.Reason.COMMAND_UNKNOWN for entry in entries.values())
