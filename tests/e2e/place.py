"""A namespace of the cluster with chrek at work in it, and what tests do there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e import tiny
from showcase import cluster, commands, errors, example, pods

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """A namespace with chrek at work in it."""

    live: cluster.Cluster
    namespace: str
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    """What the chart was installed with."""

    def checkpoint_path(self, name: str) -> str:
        return f"{example.GROUP}/namespaces/{self.namespace}/dynamocheckpoints/{name}"

    def checkpoint(self, name: str) -> Object:
        found = self.live.get(self.checkpoint_path(name))
        assert found is not None, f"there is no DynamoCheckpoint {name}"
        return found

    def clean(self) -> None:
        """Delete the checkpoints and pods that an earlier run left."""
        here = f"--namespace={self.namespace}"
        self.live.kubectl("delete", here, "dgd,dckpt", "--all", "--timeout=90s")
        opted_in = ["-l", "nvidia.com/chrek-managed=true", "--grace-period=1"]
        self.live.kubectl("delete", here, "pods", *opted_in, "--timeout=60s")

    def capture(self, worker: tiny.Worker, *, node: str = "", timeout: float = 90) -> Object:
        """Make the worker's checkpoint and wait until it is Ready."""
        self.live.apply(worker.checkpoint(node=node), namespace=self.namespace)
        return self.wait_phase(worker.hash, "Ready", timeout=timeout)

    def wait_phase(self, name: str, phase: str, *, timeout: float = 90) -> Object:
        def arrived() -> Object | None:
            # The operator makes that of a graph a moment after the graph.
            found = self.live.get(self.checkpoint_path(name)) or {}
            now = example.phase(found)
            if now == "Failed" and phase != "Failed" and seen(found):
                raise errors.ShowError(f"checkpoint {name} failed: {found.get('status')}")
            return found if now == phase else None

        found: Object = cluster.wait_until(
            arrived,
            lambda: f"checkpoint {name} is {phase}: {self.live.get(self.checkpoint_path(name))}",
            timeout=timeout,
        )
        return found

    def settled(self, name: str, *, timeout: float = 60) -> Object:
        """The checkpoint once it is Ready or Failed."""

        def ended() -> Object | None:
            found = self.checkpoint(name)
            return found if example.phase(found) in ("Ready", "Failed") else None

        found: Object = cluster.wait_until(
            ended, lambda: f"checkpoint {name} ends: {self.checkpoint(name)}", timeout=timeout
        )
        return found

    def wait_reason(self, name: str, reason: str, *, timeout: float = 60) -> Object:
        """The checkpoint once its condition Ready gives this reason."""

        def given() -> Object | None:
            found = self.checkpoint(name)
            ready = condition(found, "Ready")
            return found if ready.get("reason") == reason else None

        found: Object = cluster.wait_until(
            given, lambda: f"{name} is {reason}: {self.checkpoint(name)['status']}", timeout=timeout
        )
        return found

    def wait_webhook(self, worker: tiny.Worker) -> None:
        """Until pods are injected, whatever the operator's pod says of itself."""
        path = f"{pods.path(self.namespace)}?dryRun=All"

        def injected() -> bool:
            answer = self.live.request("POST", path, worker.pod("dry-run"))
            return answer.status == 201 and "chrek-init" in answer.text

        cluster.wait_until(injected, "the webhook injects", timeout=60)

    def retry(self, name: str, value: str) -> None:
        """Have a Failed or Suspect checkpoint made again, as a user would; returns when noted."""
        self.live.kubectl(
            "annotate", "dckpt", name, f"chrek.nvidia.com/retry={value}", "--overwrite",
            f"--namespace={self.namespace}",
        )  # fmt: skip
        cluster.wait_until(
            lambda: self.checkpoint(name)["status"].get("retried") == value,
            lambda: f"the operator has seen it: {self.checkpoint(name)}",
            timeout=20,
        )

    def remove(self, *objects: str, timeout: float = 60) -> None:
        """Delete objects, such as `dckpt/x`, and wait until they are gone."""
        here = f"--namespace={self.namespace}"
        self.live.kubectl(
            "delete", here, *objects, "--ignore-not-found", f"--timeout={timeout:.0f}s",
            timeout=timeout + 10,
        )  # fmt: skip

    def forget(self, worker: tiny.Worker) -> None:
        """Delete a worker's checkpoint with its artifacts."""
        self.remove(f"dckpt/{worker.hash}")

    def graph(self, name: str) -> Object:
        path = f"{example.GROUP}/namespaces/{self.namespace}/dynamographdeployments/{name}"
        found = self.live.get(path)
        assert found is not None, f"there is no DynamoGraphDeployment {name}"
        return found

    def service(self, graph: str) -> Object:
        """Status of the one service of a tiny graph; empty before there is one."""
        found: Object = self.graph(graph).get("status", {}).get("services", {}).get("Worker", {})
        return found

    def pods_of(self, selector: str) -> list[Object]:
        """Pods that match a label selector and are not being deleted, oldest first."""
        text = selector.replace("=", "%3D").replace(",", "%2C").replace("/", "%2F")
        listed = self.live.items(f"{pods.path(self.namespace)}?labelSelector={text}")
        alive = [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]
        return sorted(alive, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def graph_pods(self, graph: str) -> list[Object]:
        return self.pods_of(f"nvidia.com/dynamo-graph-deployment-name={graph}")

    def ready_pods(self, selector: str, count: int, *, timeout: float = 60) -> list[Object]:
        """So many Ready pods that match a selector, oldest first."""

        def enough() -> list[Object] | None:
            found = [pod for pod in self.pods_of(selector) if pods.is_ready(pod)]
            return found if len(found) >= count else None

        def what() -> str:
            found = [
                pods.describe(self.live, self.namespace, pods.name(pod))
                for pod in self.pods_of(selector)
            ]
            return f"{count} Ready pods of {selector}\n" + "\n".join(found)

        found: list[Object] = cluster.wait_until(enough, what, timeout=timeout)
        return found

    def scale(self, graph: str, replicas: int) -> None:
        path = f"{example.GROUP}/namespaces/{self.namespace}/dynamographdeployments/{graph}"
        self.live.merge(path, {"spec": {"services": {"Worker": {"replicas": replicas}}}})

    @contextlib.contextmanager
    def pod(self, wanted: Object, *, timeout: float = 60) -> Iterator[Object]:
        """The pod, Ready; deleted at the end."""
        with self.created(wanted) as name:
            yield pods.wait_ready(self.live, self.namespace, name, timeout=timeout)

    @contextlib.contextmanager
    def created(self, wanted: Object) -> Iterator[str]:
        """The pod's name, right after its creation; deleted at the end."""
        name = str(wanted["metadata"]["name"])
        path = pods.path(self.namespace)
        answer = self.live.request("POST", path, wanted)
        assert answer.status == 201, answer.text
        try:
            yield name
        finally:
            # Nobody waits for it: names are not used twice.
            self.live.request("DELETE", f"{path}/{name}?gracePeriodSeconds=1")

    def wait_restarted(self, pod: Object, count: int, *, timeout: float = 60) -> Object:
        """The pod, Ready again after `count` restarts of its container."""

        def again() -> Object | None:
            now = pods.reload(self.live, pod)
            restarts = pods.container(now).get("restartCount", 0)
            return now if restarts == count and pods.is_ready(now) else None

        found: Object = cluster.wait_until(
            again,
            lambda: (
                f"{count} restarts\n" + pods.describe(self.live, self.namespace, pods.name(pod))
            ),
            timeout=timeout,
        )
        return found

    def exec(self, pod: Object, *command: str, container: str = "main") -> str:
        """Run a command in a container of a pod."""
        meta = pod["metadata"]
        return self.live.kubectl(
            "exec",
            f"--namespace={meta['namespace']}",
            meta["name"],
            "-c",
            container,
            "--",
            *command,
        )

    def volume(self, claim: str = "chrek-pvc") -> Path:
        """Where a claim's files are on this machine: the cluster's shared folders lie here."""
        found = self.live.get(f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{claim}")
        assert found is not None, f"there is no claim {claim}"
        return commands.cache() / "cluster" / "volumes" / str(found["spec"]["volumeName"])

    def artifact(self, name: str) -> Path:
        """The folder of the newest artifact of a Ready checkpoint."""
        newest = example.variant(self.checkpoint(name))
        return self.volume() / name / str(newest["name"]) / str(newest["uuid"])


def seen(item: Object) -> bool:
    """Whether an object's status is of its newest spec."""
    return bool(item["status"].get("observedGeneration") == item["metadata"]["generation"])


def condition(item: Object, kind: str) -> Object:
    """A condition of an object's status; empty without one."""
    found = (item.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind), {})


def restored(pod: Object) -> Object:
    """The pod's condition nvidia.com/Restored."""
    return pods.condition(pod, pods.RESTORED)


def _named(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pods.name(pod)


def assert_warm(live: cluster.Cluster, pod: Object) -> None:
    """The pod says that it was restored: by condition and by Event."""
    fact = pods.reported(live, pod)
    text = pods.describe(live, *_named(pod))
    assert (fact["status"], fact["reason"]) == ("True", "Restored"), text
    cluster.wait_until(
        lambda: [e for e in pods.events(live, pod) if e["reason"] == "Restored"],
        lambda: f"its Event: {text}",
        timeout=20,
    )


def assert_cold(live: cluster.Cluster, pod: Object, reasons: set[str]) -> str:
    """The pod serves, and says in its log that and why it started cold.

    Returns the reason.
    """
    assert pods.is_ready(pod), pods.describe(live, *_named(pod))

    def said() -> set[str]:
        written = pods.logs(live, pod)
        if pods.container(pods.reload(live, pod)).get("restartCount"):
            written += pods.logs(live, pod, previous=True)
        lines = [line for line in written.splitlines() if pods.FALLBACK in line]
        return {line.split(pods.FALLBACK, 1)[1].split(":")[0] for line in lines}

    # The kubelet may not have the log of a container that has just ended.
    found: set[str] = cluster.wait_until(
        lambda: said() & reasons,
        lambda: f"one of {reasons} in its log: {said()}\n{pods.describe(live, *_named(pod))}",
        timeout=20,
    )
    return sorted(found)[0]


def serves_cold(
    here: Place, wanted: tiny.Object, reasons: set[str], *, timeout: float = 60
) -> None:
    """The pod gets Ready, has started cold with one of the reasons, and has a fresh memory."""
    with here.pod(wanted, timeout=timeout) as pod:
        reason = assert_cold(here.live, pod, reasons)
        assert tiny.STARTS in pods.logs(here.live, pod)
        assert pods.state(here.live, pod, count=True).counter == 1
        # The agent writes the condition, so there is none when there was no agent.
        if not reason.startswith("Agent"):
            fact = pods.reported(here.live, pod)
            assert fact["status"] == "False", fact
            cluster.wait_until(
                lambda: reason in {event["reason"] for event in pods.events(here.live, pod)},
                lambda: f"an Event {reason}: {pods.events(here.live, pod)}",
                timeout=20,
            )
