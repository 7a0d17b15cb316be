"""Checks of the nodes that agents will run on, before there is any.

Which nodes these are is decided as the DaemonSet controller does it: by labels, required node
affinity and taints. Source: "Assigning Pods to Nodes", "Taints and Tolerations" and "DaemonSet" in
https://kubernetes.io/docs/concepts/
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chrek import eligibility
from chrek.checks import cluster as cluster_checks
from chrek.checks import node as own_checks
from chrek.checks import report
from chrek.kube import workstation

PAGE = 250
"""Nodes in an answer: all of a large cluster at once would not fit into a hook's memory."""
NAMED = 3
"""Nodes that are named before the rest is only counted."""
PLATFORM = f"linux/{eligibility.ARCHITECTURE}"

PASSING = frozenset(
    {
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/network-unavailable",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/pid-pressure",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/unschedulable",
    }
)
"""Taints that come and go: pods of a DaemonSet tolerate them, or start once they are gone."""
REPELLING = frozenset({"NoSchedule", "NoExecute"})

Object = dict[str, Any]


def every(cluster: workstation.Cluster) -> Iterator[Object]:
    """All nodes of the cluster, a page at a time."""
    path, after = workstation.path("v1", "nodes"), ""
    while True:
        query = {"limit": str(PAGE), **({"continue": after} if after else {})}
        page = json.loads(cluster.request("GET", path, query=query))
        yield from page.get("items") or []
        after = (page.get("metadata") or {}).get("continue") or ""
        if not after:
            return


def named(found: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(found) - NAMED
    shown = ", ".join(found[:NAMED] if more > 0 else found)
    return f"{shown} and {more} more" if more > 0 else shown


def runtime_class(cluster: workstation.Cluster, pod: Object) -> Sequence[report.Outcome]:
    """The RuntimeClass of the agent exists and is no sandbox; nothing when the values name none."""
    name, wanted = "runtime-class", str(pod["spec"].get("runtimeClassName") or "")
    if not wanted:
        return []
    path = workstation.path("node.k8s.io/v1", "runtimeclasses", name=wanted)
    found = cluster.get(path)
    if found is None:
        return [
            report.failed(
                name,
                f"RuntimeClass {wanted}: not found",
                "correct agent.runtimeClassName, or leave it empty; kubectl get runtimeclasses "
                "lists what there is",
            )
        ]
    handler = str(found.get("handler", ""))
    if any(word in handler.lower() for word in eligibility.SANDBOXES):
        return [
            report.failed(
                name,
                f"RuntimeClass {wanted} is a sandbox ({handler}), out of which the agent sees no "
                "processes of its node",
                "leave agent.runtimeClassName empty",
            )
        ]
    return [report.ok(name, f"{wanted} ({handler})")]


def nodes(cluster: workstation.Cluster, pod: Object) -> Sequence[report.Outcome]:
    """There are nodes for the agent, and it can run on them."""
    total, matching = 0, []
    reasons: collections.Counter[str] = collections.Counter()
    for node in every(cluster):
        total += 1
        reason = mismatch(node, pod["spec"])
        if reason:
            reasons[reason] += 1
        else:
            matching.append(_Node(node))
    if not matching:
        return [_none(total, reasons)]
    outcomes = [_count(matching, total)]
    foreign = [f"{node.name} ({node.platform})" for node in matching if node.platform != PLATFORM]
    if foreign:
        outcomes.append(
            report.warning(
                "architecture",
                f"agents will not start on {named(foreign)}",
                "set agent.nodeSelector to kubernetes.io/os: linux and kubernetes.io/arch: "
                f"{eligibility.ARCHITECTURE}",
            )
        )
    outcomes += _old("kubelet", matching, cluster_checks.OLDEST)
    outcomes += _old("kernel", matching, own_checks.OLDEST_KERNEL)
    return outcomes


def mismatch(node: Object, spec: Object) -> str:
    """Why a DaemonSet's pod is not for a node; empty when it is."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"no label {key}={value}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        fields = {"metadata.name": node["metadata"]["name"]}
        terms = required.get("nodeSelectorTerms") or []
        if not any(_term(term, labels, fields) for term in terms):
            return "labels that the affinity does not want"
    for taint in (node.get("spec") or {}).get("taints") or []:
        if taint["effect"] not in REPELLING or taint["key"] in PASSING:
            continue
        if not any(_tolerates(one, taint) for one in spec.get("tolerations") or []):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"taint {taint['key']}{value}:{taint['effect']}"
    return ""


def _term(term: Object, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
    """Whether all of a term is so; an empty one selects nothing."""
    expressions = term.get("matchExpressions") or []
    of_fields = term.get("matchFields") or []
    return bool(expressions or of_fields) and all(
        _holds(one, where)
        for one, where in [*((e, labels) for e in expressions), *((f, fields) for f in of_fields)]
    )


def _holds(expression: Object, where: Mapping[str, str]) -> bool:
    values = expression.get("values") or []
    has = where.get(expression["key"])
    operator = expression["operator"]
    if operator == "Exists":
        return has is not None
    if operator == "DoesNotExist":
        return has is None
    if operator == "In":
        return has in values
    if operator == "NotIn":  # codespell:ignore
        return has not in values
    try:
        number, bound = int(has or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return number > bound if operator == "Gt" else operator == "Lt" and number < bound


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    if toleration.get("operator") == "Exists":
        return True
    # Without a key only Exists is allowed.
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


class _Node:
    """What is looked at of a node; the rest of the object need not stay in memory."""

    def __init__(self, node: Object) -> None:
        info = (node.get("status") or {}).get("nodeInfo") or {}
        self.name = str(node["metadata"]["name"])
        self.ready = workstation.is_true(node, "Ready")
        self.kernel = str(info.get("kernelVersion", ""))
        self.runtime = str(info.get("containerRuntimeVersion", ""))
        self.kubelet = str(info.get("kubeletVersion", ""))
        architecture = info.get("architecture") or eligibility.ARCHITECTURE
        self.platform = f"{info.get('operatingSystem') or 'linux'}/{architecture}"


def _count(matching: Sequence[_Node], total: int) -> report.Outcome:
    name, away = "nodes", [node.name for node in matching if not node.ready]
    text = f"{len(matching)} of {total} are for agents"
    for fact in ("kernel", "runtime", "kubelet"):
        values = sorted({value for node in matching if (value := getattr(node, fact))})
        if values:
            text += f"; {fact} {named(values)}"
    if away:
        text += f"; NotReady: {named(away)}"
    if len(away) == len(matching):
        hint = "see kubectl describe node: agents start, and pods can be warm, once they are Ready"
        return report.warning(name, text, hint)
    return report.ok(name, text)


def _old(fact: str, matching: Sequence[_Node], oldest: tuple[int, ...]) -> list[report.Outcome]:
    """A warning when something on some nodes is older than chrek has been tried with."""
    found = []
    for node in matching:
        text = str(getattr(node, fact))
        numbers = re.match(r"v?(\d+)\.(\d+)", text)
        if numbers and tuple(map(int, numbers.groups())) < oldest:
            found.append(f"{node.name} ({text})")
    if not found:
        return []
    return [
        report.warning(
            f"{fact}-version",
            f"older than {'.'.join(map(str, oldest))}: {named(found)}",
            "upgrade these nodes; pods there may start cold",
        )
    ]


def _none(total: int, reasons: Mapping[str, int]) -> report.Outcome:
    told = "; ".join(f"{count} with {reason}" for reason, count in sorted(reasons.items()))
    tainted = any(reason.startswith("taint ") for reason in reasons)
    hint = (
        "set agent.tolerations for these taints"
        if tainted
        else "labels of GPUs come from the GPU operator or node-feature-discovery: install one, "
        "or set agent.nodes=all; or correct agent.nodeSelector and agent.affinity"
    )
    return report.warning(
        "nodes",
        f"none of {total} is for agents" + (f": {told}" if told else ""),
        f"{hint}. Until then every pod starts cold",
    )
