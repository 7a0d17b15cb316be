"""Whether a release came up: an outcome for each node, for the operator and for its webhook."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from chrek.checks import report, settings
from chrek.kube import workstation

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Node:
    """A node and the agent on it.

    Attributes:
        name: of the node.
        healthy: whether the node itself is Ready; nothing starts on one that is not.
        cordoned: whether it takes no new pods (a DaemonSet's are exempt).
        agent: name of the agent's pod; empty when there is none yet.
        ready: whether that agent is ready and up to date.
        problem: why it is not.
    """

    name: str
    healthy: bool
    cordoned: bool
    agent: str
    ready: bool
    problem: str

    def outcome(self) -> report.Outcome:
        where = f"node {self.name}"
        state = ", cordoned" if self.cordoned else ""
        if self.ready:
            return report.ok(where, f"agent ready ({self.agent}){state}")
        if not self.healthy:
            return report.warning(
                where, f"the node is NotReady{state}", "pods there start cold until it is back"
            )
        hint = (
            f"see kubectl logs {self.agent} and kubectl describe pod {self.agent}"
            if self.agent
            else "see kubectl describe of the DaemonSet"
        )
        return report.warning(where, f"{self.problem}{state}", hint)


def nodes(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> list[Node] | None:
    """Every node that is to have an agent; `None` while that is not decided yet."""
    path = workstation.path("apps/v1", "daemonsets", config.namespace, config.agentName)
    daemon_set = cluster.get(path)
    if daemon_set is None:
        return None
    status = daemon_set.get("status") or {}
    generation = daemon_set["metadata"]["generation"]
    if status.get("observedGeneration", 0) < generation:
        return None
    pods = cluster.find(workstation.path("v1", "pods", config.namespace), labels=config.agentLabels)
    by_node = {_node_of(pod): pod for pod in pods if not pod["metadata"].get("deletionTimestamp")}
    found = [
        _node(node, by_node[node["metadata"]["name"]], generation)
        for node in cluster.find(workstation.path("v1", "nodes"))
        if node["metadata"]["name"] in by_node
    ]
    if len(found) < status.get("desiredNumberScheduled", 0):
        return None
    return sorted(found, key=lambda node: node.name)


def agents(found: Sequence[Node] | None, config: settings.ReleaseConfig) -> list[report.Outcome]:
    """One outcome a node, and one for all of them together."""
    name = "agents"
    if found is None:
        return [
            report.failed(
                name,
                f"DaemonSet {config.agentName} has not made its pods",
                f"see kubectl describe daemonset {config.agentName} -n {config.namespace}",
            )
        ]
    if not found:
        return [
            report.warning(
                name,
                "no node matches agent.nodeSelector, agent.affinity and agent.tolerations",
                "label nodes, or correct the values; until then every pod starts cold",
            )
        ]
    rows = [node.outcome() for node in found]
    ready = sum(node.ready for node in found)
    expected = [node for node in found if node.healthy]
    missing = [node.name for node in expected if not node.ready]
    text = f"{ready} of {len(found)} nodes have a ready agent"
    allowed = config.allowed_unavailable(len(found))
    if not ready or len(missing) > allowed:
        return [
            *rows,
            report.failed(
                name,
                text,
                f"mend the agent on {', '.join(missing or [node.name for node in found])}; "
                f"hooks.maxUnavailableNodes={config.maxUnavailableNodes} allows {allowed} without",
            ),
        ]
    return [*rows, report.ok(name, text)]


def operator(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """The operator's Deployment is rolled out and available."""
    name = "operator"
    path = workstation.path("apps/v1", "deployments", config.namespace, config.operatorName)
    deployment = cluster.get(path)
    hint = f"see kubectl logs deployment/{config.operatorName} -n {config.namespace}"
    if deployment is None:
        return report.failed(name, f"Deployment {config.operatorName}: not found", hint)
    wanted = deployment["spec"]["replicas"]
    status = deployment.get("status") or {}
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    updated = status.get("updatedReplicas", 0) if seen else 0
    available = status.get("availableReplicas", 0) if seen else 0
    text = f"{min(updated, available)} of {wanted} pods available"
    if updated < wanted or available < wanted or status.get("replicas", 0) > wanted:
        pods = cluster.find(
            workstation.path("v1", "pods", config.namespace), labels=config.operatorLabels
        )
        problems = sorted({problem for pod in pods if (problem := _problem(pod))})
        return report.failed(name, ": ".join([text, *problems[:1]]), hint)
    return report.ok(name, text)


def webhook(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """The API server can verify the webhook: the operator has written the CA."""
    name = "webhook"
    path = workstation.path(
        "admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", name=config.webhookName
    )
    found = cluster.get(path)
    hint = f"see kubectl logs deployment/{config.operatorName} -n {config.namespace}"
    if found is None:
        text = f"MutatingWebhookConfiguration {config.webhookName}: not found"
        return report.failed(name, text, hint)
    if not all(hook["clientConfig"].get("caBundle") for hook in found["webhooks"]):
        return report.failed(name, f"{config.webhookName} has no caBundle yet", hint)
    return report.ok(name, f"{config.webhookName} has a caBundle")


def _node_of(pod: Object) -> str:
    """The node that a pod of a DaemonSet is for: it is bound, or its affinity names it."""
    if pod["spec"].get("nodeName"):
        return str(pod["spec"]["nodeName"])
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or []:
        for field in term.get("matchFields") or []:
            if field["key"] == "metadata.name":
                return str(field["values"][0])
    return ""


def _node(node: Object, pod: Object, generation: int) -> Node:
    conditions = {c["type"]: c for c in (node.get("status") or {}).get("conditions") or []}
    labels = pod["metadata"].get("labels") or {}
    current = str(labels.get("pod-template-generation", generation)) == str(generation)
    problem = "an older agent still runs" if not current else _problem(pod)
    return Node(
        name=node["metadata"]["name"],
        healthy=(conditions.get("Ready") or {}).get("status") == "True",
        cordoned=bool(node["spec"].get("unschedulable")),
        agent=pod["metadata"]["name"],
        ready=not problem,
        problem=problem,
    )


def _problem(pod: Object) -> str:
    """Why a pod is not ready; empty when it is."""
    status = pod.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    if (conditions.get("Ready") or {}).get("status") == "True":
        return ""
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting")
        ended = (container.get("lastState") or {}).get("terminated") or {}
        if waiting:
            said = ended.get("message") or waiting.get("message") or ""
            last_line = said.strip().rpartition("\n")[2]
            return ": ".join(filter(None, [waiting.get("reason", "waiting"), last_line]))
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'unscheduled')}: {scheduled.get('message', '')}"
    return "not ready yet"
