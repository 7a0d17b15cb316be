"""Whether a release came up: an outcome for each node, and one for the operator."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import errors
from chrek.checks import agents as agent_checks
from chrek.checks import nodes as node_checks
from chrek.checks import report, settings
from chrek.kube import workstation

Object = dict[str, Any]

OUTDATED = "an older agent still runs"
NOT_YET = "not ready yet"
SETTING_UP = "ContainerCreating"
"""The kubelet's word for a container that waits for its volumes, network or image."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node and the agent on it.

    Attributes:
        name: of the node.
        healthy: whether the node itself is Ready; nothing starts on one that is not.
        cordoned: whether it takes no new pods (a DaemonSet's are exempt).
        pod: the agent's.
        ready: whether that agent is ready and up to date.
        problem: why it is not.
        hint: what to do about that.
    """

    name: str
    healthy: bool
    cordoned: bool
    pod: Object
    ready: bool
    problem: str
    hint: str = ""

    @property
    def agent(self) -> str:
        """Name of the agent's pod."""
        return str(self.pod["metadata"]["name"])

    def explained(self, answer: agent_checks.Answer | None) -> Node:
        """With what the agent itself says of why it is not ready."""
        problem, hint = answer.why() if answer and not self.ready else ("", "")
        # An agent that is to be replaced says nothing of the one that is waited for.
        if not problem or self.problem == OUTDATED:
            return self
        return dataclasses.replace(self, problem=problem, hint=hint)

    def outcome(self, answer: agent_checks.Answer | None = None) -> report.Outcome:
        """The node's line; `answer` is what its agent says of it."""
        where = f"node {self.name}"
        state = ", cordoned" if self.cordoned else ""
        if self.ready:
            told = answer.summary() if answer else ""
            checks = f", {told}" if told else ""
            return report.ok(where, f"agent ready ({self.agent}){checks}{state}")
        if not self.healthy:
            return report.warning(
                where, f"the node is NotReady{state}", "pods there start cold until it is back"
            )
        return report.warning(where, f"{self.problem}{state}", self.hint or self._look())

    def _look(self) -> str:
        return f"see kubectl logs {self.agent} and kubectl describe pod {self.agent}"


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
    by_node = {node_of(pod): pod for pod in pods if not pod["metadata"].get("deletionTimestamp")}
    current = _current([*by_node.values()], status, generation)
    found = [
        _node(node, by_node[node["metadata"]["name"]], current)
        for node in node_checks.every(cluster)
        if node["metadata"]["name"] in by_node
    ]
    if len(found) < status.get("desiredNumberScheduled", 0):
        return None
    return sorted(found, key=lambda node: node.name)


def warned(
    cluster: workstation.Cluster, config: settings.ReleaseConfig, found: Sequence[Node]
) -> list[Node]:
    """Nodes with what the kubelet says of pods that it cannot start: only Events tell.

    Such as a directory of the node that is a file, or a volume that cannot be mounted.
    """
    if not any(_is_set_up(node) for node in found):
        return [*found]
    path = workstation.path("v1", "events", config.namespace)
    query = {"fieldSelector": "involvedObject.kind=Pod,type=Warning"}
    try:
        events = json.loads(cluster.request("GET", path, query=query)).get("items") or []
    except errors.ApiError:
        # Who may not read Events is told what else is known.
        return [*found]
    newest = {
        event["involvedObject"].get("uid", ""): str(event.get("message") or "")
        for event in sorted(events, key=_when)
    }
    result = []
    for node in found:
        text = newest.get(node.pod["metadata"].get("uid", "-"), "")
        if text and _is_set_up(node):
            problem = f"{node.problem}: {' '.join(text.split())}"
            node = dataclasses.replace(node, problem=problem)
        result.append(node)
    return result


def _is_set_up(node: Node) -> bool:
    return node.healthy and node.problem in (NOT_YET, SETTING_UP)


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def agents(
    found: Sequence[Node] | None,
    config: settings.ReleaseConfig,
    answers: Mapping[str, agent_checks.Answer] | None = None,
) -> list[report.Outcome]:
    """One outcome a node, what its agent says of it, and one for all of them together.

    Args:
        found: the nodes; none while that is not decided.
        config: how many may be without an agent.
        answers: by name of pod, of the agents that were asked.
    """
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
    answers = answers or {}
    found = [node.explained(answers.get(node.agent)) for node in found]
    rows = _rows(found, answers)
    ready = sum(node.ready for node in found)
    missing = [node for node in found if node.healthy and not node.ready]
    text = f"{ready} of {len(found)} nodes have a ready agent"
    allowed = config.allowed_unavailable(len(found))
    if not ready or len(missing) > allowed:
        named = node_checks.named([node.name for node in missing or found])
        first = missing[0] if missing else None
        if first and first.problem:
            text += f"; {first.name}: {first.problem}"
        return [
            *rows,
            report.failed(
                name,
                text,
                f"mend the agent on {named}"
                + (f" ({first.hint})" if first and first.hint else "")
                + f"; hooks.maxUnavailableNodes={config.maxUnavailableNodes} allows {allowed} "
                "without",
            ),
        ]
    return [*rows, report.ok(name, text)]


def _rows(
    found: Sequence[Node], answers: Mapping[str, agent_checks.Answer]
) -> list[report.Outcome]:
    """A table of each of a few nodes; of many only what is not as it should be."""
    # Why an agent is not ready is said already.
    asked = {
        node.name: answer
        for node in found
        if (answer := answers.get(node.agent)) and (node.ready or answer.preflight)
    }
    rows: list[report.Outcome] = []
    for node in found:
        answer = asked.get(node.name)
        rows.append(node.outcome(answer))
        if answer and len(found) <= agent_checks.FULL_TABLES:
            rows += agent_checks.table(node.name, answer)
    if len(found) > agent_checks.FULL_TABLES:
        rows += agent_checks.merged(asked)
    return rows


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


def node_of(pod: Object) -> str:
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


def _current(pods: Sequence[Object], status: Object, generation: int) -> frozenset[str]:
    """Names of the pods that are as the DaemonSet wants them.

    A pod has the generation that it was made for, and a rollback makes another generation of an
    older revision: pods that have that revision still are not made again. So its hash counts too.
    Source: isPodUpdated of kubernetes/pkg/controller/daemon/util.
    """
    names = frozenset(str(pod["metadata"]["name"]) for pod in pods)
    wanted = status.get("desiredNumberScheduled", 0)
    if wanted and status.get("updatedNumberScheduled", 0) >= wanted:
        return names
    labels = {str(pod["metadata"]["name"]): pod["metadata"].get("labels") or {} for pod in pods}
    newest = {
        name
        for name, found in labels.items()
        if str(found.get("pod-template-generation", generation)) == str(generation)
    }
    hashes = {labels[name].get("controller-revision-hash") for name in newest} - {None}
    return frozenset(
        name
        for name, found in labels.items()
        if name in newest or found.get("controller-revision-hash") in hashes
    )


def _node(node: Object, pod: Object, current: frozenset[str]) -> Node:
    problem = _problem(pod) if pod["metadata"]["name"] in current else OUTDATED
    return Node(
        name=node["metadata"]["name"],
        healthy=workstation.is_true(node, "Ready"),
        cordoned=bool(node["spec"].get("unschedulable")),
        pod=pod,
        ready=not problem,
        problem=problem,
    )


def _problem(pod: Object) -> str:
    """Why a pod is not ready; empty when it is."""
    if workstation.is_true(pod, "Ready"):
        return ""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
        if waiting or ended:
            times = f"restarted {container.get('restartCount', 0)} times"
            said = (ended or {}).get("message") or waiting.get("message") or ""
            return ": ".join(filter(None, [waiting.get("reason") or times, _last_words(said)]))
    return unscheduled(pod) or NOT_YET


def unscheduled(pod: Object) -> str:
    """Why the scheduler has no node for a pod; empty when that is not what it says."""
    scheduled = workstation.condition(pod, "PodScheduled")
    if scheduled.get("status") != "False":
        return ""
    return f"{scheduled.get('reason', 'unscheduled')}: {scheduled.get('message', '')}"


def _last_words(said: str) -> str:
    """The last line of what a program said; a hint of ours follows the error it belongs to."""
    lines = [line.strip() for line in said.strip().splitlines()]
    if len(lines) > 1 and lines[-1].startswith("hint: "):
        return f"{lines[-2]} ({lines[-1].removeprefix('hint: ')})"
    return lines[-1] if lines else ""
