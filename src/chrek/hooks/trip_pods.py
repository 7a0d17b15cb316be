"""The pods of the round trip: made beside agents, and asked how they started."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterable, Mapping
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

    def create(
        self,
        name: str,
        checkpoint: str,
        *,
        preferred: Mapping[str, int],
        only: Collection[str] = (),
    ) -> None:
        """Make a pod that asks for a checkpoint.

        Args:
            name: of the pod.
            checkpoint: name or hash.
            preferred: nodes with their weights, and `only` those, see `template`.

        Raises:
            ChrekError: chrek did not prepare it.
        """
        made = template(self._template, preferred, only=only)
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
        return workstation.is_true(self.get(name), "Ready")

    def labelled(self, labels: Mapping[str, str]) -> list[Object]:
        """Pods with these labels."""
        return list(self._cluster.find(self.path(), labels=labels))

    def address(self, name: str) -> str | None:
        """Address of a pod once it runs and answers."""
        return answering(self.get(name))

    def start(self, name: str) -> Start | None:
        """How a pod started; None until that is known."""
        pod = self.get(name)
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

    def get(self, name: str) -> Object:
        """A pod as it is now.

        Raises:
            ChrekError: it is gone.
        """
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


def template(
    base: Mapping[str, Any], preferred: Mapping[str, int], *, only: Collection[str] = ()
) -> Object:
    """A copy of a pod template that would rather be on some nodes.

    A node may be full, cordoned or tainted: as a rule a preference and no more.

    Args:
        base: `metadata` and `spec`.
        preferred: names of nodes with weights from 1 to 100.
        only: names of the nodes that it may be on; empty: any.
    """
    made: Object = copy.deepcopy(dict(base))
    if not preferred and not only:
        return made
    affinity = made["spec"].setdefault("affinity", {}).setdefault("nodeAffinity", {})
    if preferred:
        affinity.setdefault("preferredDuringSchedulingIgnoredDuringExecution", []).extend(
            {"weight": weight, "preference": _named(node)} for node, weight in preferred.items()
        )
    if only:
        required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
        # One of the terms must be true, with all that is in it.
        required["nodeSelectorTerms"] = [
            {**term, **_named(node)}
            for term in required.get("nodeSelectorTerms") or [{}]
            for node in [*only][:MOST_PREFERRED]
        ]
    return made


def _named(node: str) -> Object:
    """A term for a node itself: its label kubernetes.io/hostname may be another."""
    return {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}


def answering(pod: Object) -> str | None:
    """Address of a pod that runs and answers."""
    status = pod.get("status") or {}
    address = str(status.get("podIP") or "")
    if not address or status.get("phase") != "Running":
        return None
    return address if trip_answers.attempt(trip_answers.memory, address) else None
