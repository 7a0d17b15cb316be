"""The pods of the round trip: made beside agents, and asked how they started."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from chrek import errors, names
from chrek.checks import settings
from chrek.hooks import trip_answers
from chrek.kube import workstation

MOST_PREFERRED = 50
"""Nodes that a pod names: enough for the scheduler, and a short object on a large cluster."""
FALL_BACK = "Falling back to cold start: "

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Start:
    """How a pod started.

    Attributes:
        restored: whether it was; cold otherwise.
        reason: why, in one word, and `message`, for a person.
        address: the pod's.
        node: where it runs.
    """

    restored: bool
    reason: str
    message: str
    address: str
    node: str


class Pods:
    """Pods of one worker in one namespace."""

    def __init__(
        self,
        cluster: workstation.Cluster,
        template: Object,
        *,
        namespace: str,
        owners: list[Object],
    ) -> None:
        """Prepare.

        Args:
            cluster: the connection.
            template: `metadata` and `spec` of each pod.
            namespace: where to make them.
            owners: their owner references.
        """
        self._cluster = cluster
        self._template = template
        self._namespace = namespace
        self._owners = owners

    def path(self, name: str = "") -> str:
        return workstation.path("v1", "pods", self._namespace, name)

    def create(self, name: str, checkpoint: str, *, preferred: Mapping[str, int]) -> None:
        """Make a pod that asks for a checkpoint.

        Args:
            name: of the pod.
            checkpoint: name or hash.
            preferred: nodes with their weights, see `template`.

        Raises:
            ChrekError: chrek did not prepare it.
        """
        made = template(self._template, preferred)
        metadata = made.setdefault("metadata", {})
        metadata.update(name=name, namespace=self._namespace, ownerReferences=self._owners)
        annotations = metadata.setdefault("annotations", {})
        annotations[names.ANNOTATION_CHECKPOINT] = checkpoint
        body = {"apiVersion": "v1", "kind": "Pod", **made}
        found = self._cluster.create(self.path(), body)["metadata"]
        skipped = (found.get("annotations") or {}).get(names.ANNOTATION_SKIPPED)
        if skipped:
            raise errors.ChrekError(f"the webhook did not prepare the pod: {skipped}")
        if (found.get("labels") or {}).get(names.LABEL_MANAGED) != "true":
            raise errors.ChrekError(
                "the pod was admitted without the webhook",
                hint="see whether the operator runs, whether the API server reaches its Service, "
                "and whether the MutatingWebhookConfiguration has a caBundle",
            )

    def exists(self, name: str) -> bool:
        return self._cluster.get(self.path(name)) is not None

    def is_ready(self, name: str) -> bool:
        return workstation.is_true(self._get(name), "Ready")

    def answering(self, labels: Mapping[str, str]) -> str | None:
        """Address of a pod with these labels that runs and answers, if there is one."""
        for pod in self._cluster.find(self.path(), labels=labels):
            address = _answering(pod)
            if address:
                return address
        return None

    def address(self, name: str) -> str | None:
        """Address of a pod once it runs and answers."""
        return _answering(self._get(name))

    def start(self, name: str) -> Start | None:
        """How a pod started; None until that is known."""
        pod = self._get(name)
        condition = workstation.condition(pod, names.CONDITION_RESTORED)
        status, reason = condition.get("status"), str(condition.get("reason"))
        message = str(condition.get("message", ""))
        if status not in ("True", "False"):
            # chrek-init itself may have given the agent up; then nobody sets the condition.
            said = self._fall_back_line(name)
            if not said:
                return None
            reason, _, message = said.partition(": ")
        return Start(
            restored=status == "True",
            reason=reason,
            message=message,
            address=str((pod.get("status") or {}).get("podIP", "")),
            node=str(pod["spec"].get("nodeName", "")),
        )

    def _get(self, name: str) -> Object:
        found = self._cluster.get(self.path(name))
        if found is None:
            raise errors.ChrekError(f"pod {name} is gone", hint="run the test again")
        return found

    def _fall_back_line(self, name: str) -> str:
        log = self._cluster.log(self._namespace, name, container=names.DEFAULT_CONTAINER)
        return next((ln.partition(FALL_BACK)[2] for ln in log.splitlines() if FALL_BACK in ln), "")


def agents(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> dict[str, Object]:
    """Agents of the release that are ready: their pods by node."""
    path = workstation.path("v1", "pods", config.namespace)
    ready = {
        str(pod["spec"]["nodeName"]): pod
        for pod in cluster.find(path, labels=config.agentLabels)
        if workstation.is_true(pod, "Ready") and not pod["metadata"].get("deletionTimestamp")
    }
    return dict(sorted(ready.items()))


def weights(nodes: Iterable[str], *, taken: str = "") -> dict[str, int]:
    """How much a pod is to be on each node: rather on another one than on the one that is taken."""
    nodes = list(nodes)
    others = [node for node in nodes if node != taken][:MOST_PREFERRED]
    found = dict.fromkeys(others, 100)
    if taken in nodes:
        # Still better than a node without an agent.
        found[taken] = 25
    return found


def template(base: Mapping[str, Any], preferred: Mapping[str, int]) -> Object:
    """A copy of a pod template that would rather be on some nodes.

    A preference and no more: a node may be full, cordoned or tainted.

    Args:
        base: `metadata` and `spec`.
        preferred: names of nodes with weights from 1 to 100.
    """
    made: Object = copy.deepcopy(dict(base))
    terms = [
        {
            "weight": weight,
            # Of the node itself: its label kubernetes.io/hostname may be another.
            "preference": {
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]
            },
        }
        for node, weight in preferred.items()
    ]
    if terms:
        affinity = made["spec"].setdefault("affinity", {}).setdefault("nodeAffinity", {})
        affinity.setdefault("preferredDuringSchedulingIgnoredDuringExecution", []).extend(terms)
    return made


def _answering(pod: Object) -> str | None:
    status = pod.get("status") or {}
    address = str(status.get("podIP") or "")
    if not address or status.get("phase") != "Running":
        return None
    return address if trip_answers.attempt(trip_answers.memory, address) else None
