"""The limit of the cluster itself: the operator's requests from a loop that decides nothing.

The same objects, Jobs and Deployments are created and as many statuses written; the cluster's
controllers and the stand-in do the rest, as they do for the operator.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping
from typing import Any

from chrek import names
from chrek.kube import api
from showcase import commands, concurrency, load, standin

Object = dict[str, Any]
AT_ONCE = 16
WORKERS = 4
"""As many as the operator has."""
SAMPLE = 500
SERVER_LABELS = ("controller-uid", "job-name", "pod-template-hash")


async def measure(
    client: api.Client,
    source: str,
    target: str,
    *,
    checkpoints: int,
    graphs: int,
    checkpoint_writes: float,
    graph_writes: float,
) -> Object:
    """Time to make everything, and writes per second.

    Args:
        client: an administrator's.
        source: namespace with what the operator has made.
        target: namespace without an operator.
        checkpoints: how many.
        graphs: how many.
        checkpoint_writes: of the operator, for each checkpoint.
        graph_writes: of the operator, for each graph.
    """
    commands.say("the same by a bare loop, without the operator")
    jobs = await client.list("batch/v1", "jobs", source)
    job = _free(next(one for one in jobs["items"] if one["metadata"].get("ownerReferences")))
    deployments = (await client.list("apps/v1", "deployments", source))["items"]
    deployment = _free(deployments[0]) if deployments else None
    pods = standin.StandIn(client, target)
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(method: str, *arguments: Any, **named: Any) -> None:
        async with gate:
            await getattr(client, method)(*arguments, **named)

    async def write(plural: str, name: str, times: float) -> None:
        for number in range(round(times)):
            body = {"status": {"message": f"written {number}"}}
            if plural == names.GRAPH_PLURAL:
                body = {"status": {"observedGeneration": number}}  # type: ignore[dict-item]
            where = (names.API_VERSION, plural, target, name)
            await ask("patch", *where, body, subresource="status")

    async def checkpoint(number: int) -> None:
        made = load.checkpoint(number)
        name = made["metadata"]["name"]
        await ask("create", names.API_VERSION, names.CHECKPOINT_PLURAL, target, made)
        await ask("create", "batch/v1", "jobs", target, _named(job, name))
        while name not in pods.succeeded:
            await asyncio.sleep(0.05)
        await write(names.CHECKPOINT_PLURAL, name, checkpoint_writes - 1)

    async def graph(number: int) -> None:
        made = load.graph(number, auto=False)
        name = made["metadata"]["name"]
        await ask("create", names.API_VERSION, names.GRAPH_PLURAL, target, made)
        if deployment:
            own = _named(deployment, name)
            own["spec"]["selector"] = {"matchLabels": {names.LABEL_GRAPH: name}}
            own["spec"]["template"]["metadata"]["labels"] = {names.LABEL_GRAPH: name}
            await ask("create", "apps/v1", "deployments", target, own)
        await write(names.GRAPH_PLURAL, name, graph_writes - 1)

    async with concurrency.beside(pods.run()):
        began = time.monotonic()
        async with concurrency.together() as group:
            for number in range(checkpoints):
                group.create_task(checkpoint(number))
            for number in range(graphs):
                group.create_task(graph(number))
        seconds = time.monotonic() - began
    began = time.monotonic()
    each = SAMPLE // WORKERS
    named = [load.checkpoint_name(number % checkpoints) for number in range(WORKERS)]
    await concurrency.bounded(
        (write(names.CHECKPOINT_PLURAL, name, each) for name in named), WORKERS
    )
    return {
        "seconds": round(seconds, 2),
        "api_writes_per_second": round(each * WORKERS / (time.monotonic() - began), 1),
    }


def _free(item: Mapping[str, Any]) -> Object:
    """The object as its maker sent it."""
    made: Object = copy.deepcopy({key: item[key] for key in ("apiVersion", "kind") if key in item})
    made["metadata"] = {"labels": {}}
    made["spec"] = copy.deepcopy(item["spec"])
    made["spec"].pop("selector", None)
    labels = made["spec"]["template"]["metadata"].get("labels") or {}
    for key in list(labels):
        if key in SERVER_LABELS or key.startswith("batch.kubernetes.io/"):
            del labels[key]
    return made


def _named(item: Object, name: str) -> Object:
    made: Object = copy.deepcopy(item)
    made["metadata"]["name"] = name
    return made
