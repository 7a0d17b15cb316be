"""Reading pods: readiness, when their containers began, what chrek did with them."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from showcase import cluster, errors

Object = dict[str, Any]
RESTORED = "nvidia.com/Restored"
FALLBACK = "Falling back to cold start: "


def path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/pods" + (f"/{name}" if name else "")


def condition(pod: Object, kind: str) -> Object:
    """A condition of the pod; empty when it has none of that type."""
    for entry in pod.get("status", {}).get("conditions", []):
        if entry["type"] == kind:
            found: Object = entry
            return found
    return {}


def is_ready(pod: Object) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def container(pod: Object, name: str = "main") -> Object:
    """Status of a container; empty before the kubelet wrote one."""
    for entry in pod.get("status", {}).get("containerStatuses", []):
        if entry["name"] == name:
            found: Object = entry
            return found
    return {}


def node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName", ""))


def name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def events(live: cluster.Cluster, pod: Object) -> list[Object]:
    """The Events about a pod, oldest first."""
    namespace, uid = pod["metadata"]["namespace"], pod["metadata"]["uid"]
    found = live.items(
        f"/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}"
    )
    return sorted(found, key=lambda event: str(event["metadata"]["creationTimestamp"]))


def logs(live: cluster.Cluster, pod: Object, *, previous: bool = False) -> str:
    """The log of the container main."""
    extra = ["--previous"] if previous else []
    meta = pod["metadata"]
    return live.kubectl(
        "logs", f"--namespace={meta['namespace']}", meta["name"], "-c", "main", *extra, check=False
    )


def agent_log(live: cluster.Cluster, pod: Object) -> str:
    """The log of an agent's pod."""
    meta = pod["metadata"]
    return live.kubectl("logs", f"--namespace={meta['namespace']}", meta["name"], "-c", "agent")


def reload(live: cluster.Cluster, pod: Object) -> Object:
    """The pod as it is now."""
    found = live.get(path(pod["metadata"]["namespace"], pod["metadata"]["name"]))
    if found is None:
        raise errors.ShowError(f"pod {pod['metadata']['name']} is gone")
    return found


def reported(live: cluster.Cluster, pod: Object) -> Object:
    """The condition that says how the pod started, once it has one.

    The agent may write it a moment after the kubelet has called the pod Ready.
    """
    named = pod["metadata"]["namespace"], pod["metadata"]["name"]
    found: Object = cluster.wait_until(
        lambda: condition(reload(live, pod), RESTORED),
        lambda: f"the report of its start\n{describe(live, *named)}",
        timeout=20,
    )
    return found


def wait_ready(live: cluster.Cluster, namespace: str, name: str, *, timeout: float) -> Object:
    """Wait until a pod is Ready."""

    def ready() -> Object | None:
        pod = live.get(path(namespace, name))
        return pod if pod and is_ready(pod) else None

    found: Object = cluster.wait_until(
        ready, lambda: f"pod {name} is Ready\n{describe(live, namespace, name)}", timeout=timeout
    )
    return found


def describe(live: cluster.Cluster, namespace: str, name: str) -> str:
    """What a person would look at when the pod is not as expected."""
    pod = live.get(path(namespace, name))
    if pod is None:
        return f"there is no pod {name}"
    status = pod.get("status", {})
    lines = [
        f"pod {name} on {node(pod) or 'no node'}: {status.get('phase')}",
        "conditions: " + json.dumps(status.get("conditions", []))[:1500],
        "containers: " + json.dumps(status.get("containerStatuses", []))[:1500],
    ]
    lines += [
        f"event {event.get('reason')}: {event.get('message', '')[:300]}"
        for event in events(live, pod)
    ]
    return "\n".join([*lines, "log:", logs(live, pod)[-2000:]])


@dataclasses.dataclass(frozen=True)
class State:
    """What the example worker knows only in its memory."""

    nonce: str
    counter: int
    pid: int
    hostname: str


def state(live: cluster.Cluster, pod: Object, *, count: bool = False) -> State:
    """Ask the worker (port 8001); `count` makes it count up."""
    answer = live.pod_request(pod, 8001, "/counter" if count else "/state")
    if answer.status != 200:
        raise errors.ShowError(
            f"pod {name(pod)} answered HTTP {answer.status} on port 8001: {answer.text[:300]}"
        )
    fields = answer.json()
    return State(fields["nonce"], fields["counter"], fields["pid"], fields["hostname"])


PROMPT = "Once upon a time there was a warm start"


def complete(live: cluster.Cluster, pod: Object, *, tokens: int = 16) -> str:
    """The worker's answer to a fixed prompt at temperature 0."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "cache_prompt": False}
    answer = live.pod_request(pod, 8000, "/v1/completions", body)
    if answer.status != 200:
        raise errors.ShowError(
            f"pod {name(pod)} answered HTTP {answer.status} on port 8000: {answer.text[:300]}"
        )
    return str(answer.json()["choices"][0]["text"])


def started_at(live: cluster.Cluster, pod: Object) -> float:
    """When the container's PID 1 began, in seconds since 1970, to 10 ms.

    The pod's status has whole seconds only. The kernel counts a process's start from boot; the
    container reads both that and the time now.
    """
    script = (
        "import time;"
        "up=float(open('/proc/uptime').read().split()[0]);"
        "ticks=int(open('/proc/1/stat').read().rpartition(')')[2].split()[19]);"
        "print(time.time()-up+ticks/100)"
    )
    meta = pod["metadata"]
    return float(
        live.kubectl(
            "exec",
            f"--namespace={meta['namespace']}",
            meta["name"],
            "-c",
            "main",
            "--",
            "python3",
            "-c",
            script,
        )
    )


@dataclasses.dataclass(frozen=True)
class Start:
    """How long a container took.

    Attributes:
        answering: seconds from the start of its PID 1 to the first 200 on /health.
        ready: seconds from the same moment until the API server said Ready.
    """

    pod: str
    node: str
    answering: float
    ready: float


def measure(live: cluster.Cluster, namespace: str, name: str, *, timeout: float) -> Start:
    """Watch a new pod until it is Ready and answers; poll every 50 ms."""
    answering = ready = 0.0
    pod: Object | None = None
    deadline = time.monotonic() + timeout
    while not (answering and ready):
        if time.monotonic() > deadline:
            raise errors.ShowError(
                f"pod {name} is not Ready after {timeout:.0f} s\n{describe(live, namespace, name)}"
            )
        pod = live.get(path(namespace, name))
        if pod and not ready and is_ready(pod):
            ready = time.time()
        running = pod and container(pod).get("state", {}).get("running")
        if pod and running and not answering:
            status = live.pod_request(pod, 8001, "/health").status
            answering = time.time() if status == 200 else 0.0
        time.sleep(0.05)
    assert pod is not None
    start = started_at(live, pod)
    return Start(name, node(pod), answering - start, ready - start)
