"""What the table of the round trip says beside its steps: nodes, store and GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chrek.checks import agents
from chrek.hooks import trip_steps

NAMED = 3
"""Nodes that are listed."""
Object = dict[str, Any]


def node(status: Object) -> str:
    """Where a checkpoint was captured."""
    return next((str(v.get("node", "")) for v in status.get("variants") or []), "")


def nodes(taken: str, restored: str, ready: Sequence[str]) -> trip_steps.Row:
    """Whether the test could go from one node to another.

    Args:
        taken: where the worker was captured.
        restored: where it was restored.
        ready: nodes with a ready agent.
    """
    others = [other for other in ready if other != taken]
    if restored != taken:
        note = f"two: captured on {taken}, restored on {restored}"
    elif others:
        more = ", …" if len(others) > NAMED else ""
        note = f"one: {taken}; the scheduler did not take {', '.join(others[:NAMED])}{more}"
    else:
        note = f"one: {taken}; no other has a ready agent"
    return trip_steps.Row("nodes", None, note)


def store(status: Object, restored: str) -> trip_steps.Row:
    """Which store was used, and what of it.

    Args:
        status: of the checkpoint.
        restored: node on which it was restored.
    """
    kind = str(status.get("storageType") or "")
    if kind in ("", "pvc"):
        read = "read from the volume"
    elif restored == node(status):
        read = "read from the node's cache, not from the server"
    else:
        # The identity is of this run alone, so another node cannot have it in its cache.
        read = "fetched from the server"
    where = " ".join(filter(None, [kind, str(status.get("location") or "")]))
    return trip_steps.Row("store", None, ", ".join(filter(None, [where, read])))


def gpus(ready: Mapping[str, Object], default_port: int) -> dict[str, str]:
    """What agents say of the GPUs of their nodes: node -> words; only of those that answer.

    Args:
        ready: pods of agents by node.
        default_port: where they answer if their pods do not say.
    """
    asked = {node: pod for node, pod in ready.items() if agents.runs(pod)}
    answers = agents.read(asked.values(), lambda pod: agents.direct(pod, default_port))
    found = {}
    for node, pod in asked.items():
        preflight = answers[pod["metadata"]["name"]].preflight
        for check in preflight.checks if preflight else []:
            if check.name == "gpu":
                found[node] = check.detail
    return found


def no_gpu(said: Mapping[str, str]) -> str:
    """Why no GPU can be tested where agents say this, by node."""
    return "; ".join([*dict.fromkeys(said.values())][:NAMED]) or "no agent tells of GPUs"
