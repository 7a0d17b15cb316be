"""Checkpoints made of pods that carry an identity.

Whoever writes `nvidia.com/chrek-identity` onto a Deployment's pods, or has a graph whose pods the
Dynamo platform makes, writes no DynamoCheckpoint: it is made from the first of the pods.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from chrek import errors, identity, log, names
from chrek.kube import api
from chrek.operator import cache as cache_module
from chrek.operator import pods, queue

LOG = log.get(__name__)

Object = dict[str, Any]


class Adopter:
    """Creates the checkpoints that are missing."""

    def __init__(self, client: api.Client, cache: cache_module.Cache) -> None:
        self._client = client
        self._cache = cache

    async def reconcile(self, key: queue.Key) -> float | None:
        """Look at the pods of one identity; the key's name is its hash."""
        there = cache_module.many(self._cache.checkpoints_by_hash, key.namespace, key.name)
        for pod in self._cache.workers(key.namespace, [key.name]):
            body = missing(pod, there)
            if body is None:
                continue
            try:
                await self._client.create(
                    names.API_VERSION, names.CHECKPOINT_PLURAL, key.namespace, body
                )
            except errors.ApiError as err:
                if err.status != 409:
                    raise
            else:
                LOG.info("checkpoint created", checkpoint=key.name, pod=pod.name)
            return None
        return None


def missing(pod: pods.Pod, checkpoints: Collection[Mapping[str, Any]]) -> Object | None:
    """The DynamoCheckpoint to create for a pod, None when nothing is missing.

    A second variant of an identity is not missing here: the checkpoint that exists has it made.

    Args:
        pod: a managed pod.
        checkpoints: those of its identity and namespace.
    """
    if not pod.identity or pod.template is None or pod.source or pod.deleted or pod.finished:
        return None
    if checkpoints:
        return None
    try:
        raw, known = parse(pod.identity)
    except errors.InputError:
        return None  # Written by hand: the webhook refuses it with words.
    if pod.reference != known.hash():
        return None  # It asks for another checkpoint than that of its identity.
    spec: Object = {"identity": raw}
    if pod.capture_source == names.CaptureSource.WORKER:
        spec["captureSource"] = str(names.CaptureSource.WORKER)
    else:
        spec["job"] = _job(pod.template)
    metadata: Object = {
        "name": known.hash(),
        "namespace": pod.namespace,
        "labels": {
            "app.kubernetes.io/managed-by": "chrek-operator",
            names.LABEL_AUTO: "true",
        },
        "finalizers": [names.FINALIZER],
    }
    if pod.graph:
        metadata["annotations"] = {names.ANNOTATION_MADE_FROM: f"{pod.graph}/{pod.service}"}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.CHECKPOINT_KIND,
        "metadata": metadata,
        "spec": spec,
    }


def parse(text: str) -> tuple[Object, identity.Identity]:
    """Read the annotation: the identity as it was written, and what it means.

    Raises:
        InputError: it is not the JSON of an identity.
    """
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as err:
        raise errors.InputError(
            f"annotation {names.ANNOTATION_IDENTITY}: not JSON: {err}",
            hint='write it like {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm"}',
        ) from err
    return raw, identity.parse(raw, f"annotation {names.ANNOTATION_IDENTITY}")


def _job(template: Mapping[str, Any]) -> Object:
    made: Object = copy.deepcopy(dict(template))
    annotations = (made.get("metadata") or {}).get("annotations") or {}
    container = annotations.get(names.ANNOTATION_CONTAINER)
    job: Object = {"podTemplateSpec": made}
    if container:
        job["container"] = container
    return job
