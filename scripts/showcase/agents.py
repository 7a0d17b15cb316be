"""The agents of a release: what they logged, how much memory they hold."""

from __future__ import annotations

import json
from typing import Any

from showcase import cluster, pods

Object = dict[str, Any]
FIELDS = ("decision_seconds", "criu_seconds", "total_seconds", "steps", "bytes")

_RESIDENT = """
import glob
def groups(pid):
    return open(f'/proc/{pid}/cgroup').read()
own = groups('self')
for path in glob.glob('/proc/[0-9]*/cmdline'):
    pid = path.split('/')[2]
    try:
        line = open(path).read().split('\\0')
        if 'agent' in line and '--config' in line and groups(pid) == own:
            for fact in open(f'/proc/{pid}/status'):
                if fact.startswith('VmRSS:'):
                    print(int(fact.split()[1]) * 1024)
    except OSError:
        pass
"""


def listed(live: cluster.Cluster, namespace: str) -> list[Object]:
    """The agents' pods, one for each node."""
    found = live.items(
        f"{pods.path(namespace)}?labelSelector=app.kubernetes.io%2Fcomponent%3Dagent"
    )
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def nodes(live: cluster.Cluster, namespace: str) -> list[str]:
    return sorted(pods.node(pod) for pod in listed(live, namespace))


def restarted(live: cluster.Cluster, pod: Object) -> Object:
    """The agent that follows one that was asked to end: nothing was asked of it yet."""
    namespace, node = pod["metadata"]["namespace"], pods.node(pod)
    live.kubectl("delete", "pod", pods.name(pod), f"--namespace={namespace}", timeout=180)

    def fresh() -> Object | None:
        found = [one for one in listed(live, namespace) if pods.node(one) == node]
        return found[0] if found and pods.is_ready(found[0]) else None

    found: Object = cluster.wait_until(fresh, f"node {node} has a ready agent", timeout=90)
    return found


def resident_bytes(live: cluster.Cluster, pod: Object) -> int:
    """Resident memory of the agent's process."""
    said = live.kubectl(
        "exec", f"--namespace={pod['metadata']['namespace']}", pods.name(pod), "-c", "agent",
        "--", "python3", "-c", _RESIDENT,
    )  # fmt: skip
    return max(int(line) for line in said.split())


def restored_line(live: cluster.Cluster, namespace: str, node: str, worker: str) -> Object:
    """The agent's own figures of a pod's restore; empty when it restored none of that name."""
    found: Object = {}
    for agent in listed(live, namespace):
        if pods.node(agent) != node:
            continue
        for text in pods.agent_log(live, agent).splitlines():
            if '"restored"' in text and f'"{worker}"' in text:
                line = json.loads(text)
                found = {key: line.get(key) for key in FIELDS}
    return found
