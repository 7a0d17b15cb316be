"""What the table of the round trip says beside its steps: nodes, store and GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chrek.checks import agents
from chrek.hooks import trip_steps

NAMED = 3
"""Nodes that are listed."""
NO_GPU = "GPU memory is not captured yet"
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


def gpu(agent: Object | None, default_port: int) -> trip_steps.Row:
    """What the agent of the node knows of GPUs: none of it is tested.

    Args:
        agent: its pod, None when it is not known.
        default_port: where it answers if its pod does not say.
    """
    known = ""
    if agent is not None:
        pods = [agent] if agents.runs(agent) else []
        for answer in agents.read(pods, lambda pod: agents.direct(pod, default_port)).values():
            checks = answer.preflight.checks if answer.preflight else []
            known = next((check.detail for check in checks if check.name == "gpu"), "")
    return trip_steps.Row("gpu", None, f"not tested: {known or NO_GPU}")
