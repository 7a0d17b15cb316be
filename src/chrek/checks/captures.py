"""Captures in flight, which an upgrade waits for before it replaces agents."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

from chrek.checks import agents, nodes, report, settings
from chrek.kube import workstation

NAME = "captures"
LONGEST_SECONDS = 120.0
"""Of waiting: the hook's Job has a deadline, and an agent finishes what it has begun anyway."""
POLL_SECONDS = 0.5
NOTHING = "nothing: an agent finishes its capture before it is replaced"

Object = dict[str, Any]


def ended(
    cluster: workstation.Cluster,
    config: settings.ReleaseConfig,
    *,
    reader: agents.Reader | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> report.Outcome:
    """Wait until the agents that capture have finished; never a failure.

    Args:
        cluster: the connection.
        config: of the release; it says how long is waited at most.
        reader: asks an agent; by default at its pod's address.
        poll_seconds: between two questions.
    """
    started = time.monotonic()
    ask = reader or functools.partial(agents.direct, default_port=config.agentHttpPort)
    path = workstation.path("v1", "pods", config.namespace)
    found = cluster.find(path, labels=config.agentLabels)
    running = sorted(filter(agents.runs, found), key=_node)
    pods = {str(pod["metadata"]["name"]): pod for pod in running}
    answers = agents.read(pods.values(), ask)
    busy = first = _busy(answers)
    while busy and time.monotonic() < started + min(config.timeoutSeconds, LONGEST_SECONDS):
        time.sleep(poll_seconds)
        answers |= agents.read([pods[name] for name in busy], ask)
        busy = _busy({name: answers[name] for name in busy})
    seconds = time.monotonic() - started
    if busy:
        told = [
            f"{_node(pods[name])}: {count} capture{'s' if count > 1 else ''}"
            for name, count in busy.items()
        ]
        return report.warning(NAME, f"after {seconds:.0f} s still {nodes.named(told)}", NOTHING)
    lost = {
        _node(pods[name]): answer.error
        for name, answer in answers.items()
        if answer.preflight is None and not answer.silent
    }
    if lost:
        node, error = next(iter(lost.items()))
        return report.warning(
            NAME, f"cannot ask the agents of {nodes.named(list(lost))}; {node}: {error}", NOTHING
        )
    text = f"{sum(first.values())} ended in {seconds:.0f} s" if first else "none in flight"
    silent = [_node(pods[name]) for name, answer in answers.items() if answer.silent]
    if silent:
        text += f"; older agents, which do not tell: {nodes.named(silent)}"
    return report.ok(NAME, text)


def _busy(answers: Mapping[str, agents.Answer]) -> dict[str, int]:
    """Name of the pod -> its captures, where there are any."""
    return {
        name: answer.preflight.captures
        for name, answer in answers.items()
        if answer.preflight and answer.preflight.captures
    }


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName") or pod["metadata"]["name"])
