"""What to show when something went wrong: the logs and objects a person would look at."""

from __future__ import annotations

from showcase import cluster, setup


def report(live: cluster.Cluster, namespace: str = setup.NAMESPACE, *, lines: int = 60) -> str:
    """Objects, Events and the logs of agents, operator and jobs of a namespace."""
    here = f"--namespace={namespace}"
    tail = f"--tail={lines}"
    agent = "app.kubernetes.io/component=agent"
    operator = "app.kubernetes.io/component=operator"
    questions: list[tuple[str, list[str]]] = [
        ("objects", ["get", "pods,jobs,deployments,daemonsets,dckpt,dgd,pvc", here, "-o", "wide"]),
        ("events", ["get", "events", here, "--sort-by=.lastTimestamp"]),
        ("checkpoints", ["get", "dckpt", here, "-o", "yaml"]),
        ("agent", ["logs", here, "-l", agent, "--prefix", tail]),
        ("operator", ["logs", here, "-l", operator, "--prefix", tail]),
        ("jobs", ["logs", here, "-l", "nvidia.com/chrek-is-checkpoint-source=true", tail]),
        ("workers", ["logs", here, "-l", "nvidia.com/chrek-managed=true", tail]),
    ]
    parts = []
    for title, question in questions:
        answer = live.kubectl(*question, check=False)
        parts.append(f"--- {title}\n{answer.strip()[-9000:]}")
    return "\n".join(parts)
