"""The example on the cluster: its model, its DynamoGraphDeployment, its pods."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from showcase import cluster, commands, errors, pods, setup

Object = dict[str, Any]
EXAMPLES = commands.ROOT / "examples"
NAME = "my-llm"
GROUP = "/apis/nvidia.com/v1alpha1"
OPT_IN = "nvidia.com/chrek-checkpoint"


@dataclasses.dataclass(frozen=True)
class Example:
    """examples/my-llm.yaml in a namespace."""

    live: cluster.Cluster
    namespace: str = setup.NAMESPACE
    name: str = NAME

    @property
    def graph_path(self) -> str:
        return f"{GROUP}/namespaces/{self.namespace}/dynamographdeployments/{self.name}"

    @property
    def checkpoints_path(self) -> str:
        return f"{GROUP}/namespaces/{self.namespace}/dynamocheckpoints"

    def _apply(self, file: str, *, options: str = "") -> None:
        text = (EXAMPLES / file).read_text().replace("llama:0.2.0", setup.image("llama"))
        if options:
            text = text.replace("model.gguf", f"model.gguf {options}")
        self.live.kubectl("apply", f"--namespace={self.namespace}", "-f", "-", text=text)

    def make_model(self) -> None:
        """Fill the volume `models`; does nothing when that was done."""
        self._apply("llama/model.yaml")
        here = f"--namespace={self.namespace}"
        self.live.kubectl(
            "wait", here, "--for=condition=complete", "--timeout=240s", "job/make-model",
            timeout=260,
        )  # fmt: skip

    def remove(self) -> None:
        """Delete the example and its checkpoint, and wait until both are gone."""
        here = f"--namespace={self.namespace}"
        hashes = self.hashes()
        self.live.kubectl("delete", here, "dgd", self.name, "--ignore-not-found", "--timeout=120s")
        for name in hashes:
            self.live.kubectl("delete", here, "dckpt", name, "--ignore-not-found", "--timeout=120s")
        cluster.wait_until(
            lambda: not self.pods(), f"the pods of {self.name} are gone", timeout=120
        )

    def deploy(self, *, options: str = "") -> None:
        """Create the DynamoGraphDeployment; `options` are more options for the server."""
        self._apply(f"{self.name}.yaml", options=options)

    def graph(self) -> Object | None:
        return self.live.get(self.graph_path)

    def deployment(self) -> Object | None:
        """The Deployment that the operator made for the example's one service."""
        graph = self.graph()
        if graph is None:
            return None
        uid = graph["metadata"]["uid"]
        for found in self.live.items(f"/apis/apps/v1/namespaces/{self.namespace}/deployments"):
            owners = found["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == uid for owner in owners):
                return found
        return None

    def pods(self) -> list[Object]:
        """Pods of the example's Deployment that are not being deleted, oldest first."""
        found = self.deployment()
        if found is None:
            return []
        labels = found["spec"]["selector"]["matchLabels"]
        selector = "%2C".join(f"{key}%3D{value}" for key, value in labels.items())
        listed = self.live.items(f"{pods.path(self.namespace)}?labelSelector={selector}")
        alive = [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]
        return sorted(alive, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def hashes(self) -> list[str]:
        """Names of the checkpoints that the example's pods ask for."""
        found = self.deployment()
        if found is None:
            return []
        notes = found["spec"]["template"]["metadata"].get("annotations", {})
        return [notes[OPT_IN]] if OPT_IN in notes else []

    def checkpoint(self) -> Object | None:
        """The example's DynamoCheckpoint."""
        names = self.hashes()
        return self.live.get(f"{self.checkpoints_path}/{names[0]}") if names else None

    def scale(self, replicas: int) -> None:
        """Set the replicas of the DynamoGraphDeployment, as a user would."""
        graph = self.graph()
        if graph is None:
            raise errors.ShowError(f"there is no DynamoGraphDeployment {self.name}")
        services = {name: {"replicas": replicas} for name in graph["spec"]["services"]}
        self.live.merge(self.graph_path, {"spec": {"services": services}})

    def next_pod(self, known: set[str], *, timeout: float = 60) -> str:
        """Name of the first pod that is not among `known`."""

        def fresh() -> str | None:
            return next((n for n in map(pods.name, self.pods()) if n not in known), None)

        found: str = cluster.wait_until(
            fresh,
            lambda: (
                f"{self.name} has a pod besides {sorted(known) or 'none'}; "
                f"its DynamoGraphDeployment: {(self.graph() or {}).get('status')}"
            ),
            timeout=timeout,
        )
        return found

    def cold_pod(self, name: str) -> Object:
        """A Pod like the Deployment's that does not opt in: it starts cold, whatever is stored."""
        found = self.deployment()
        if found is None:
            raise errors.ShowError(f"there is no Deployment of {self.name}")
        spec = copy.deepcopy(found["spec"]["template"]["spec"])
        # A shell as PID 1 ignores SIGTERM; nobody waits half a minute for that.
        spec["terminationGracePeriodSeconds"] = 2
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": spec,
        }


def phase(checkpoint: Object | None) -> str:
    return str((checkpoint or {}).get("status", {}).get("phase", ""))


def variant(checkpoint: Object) -> Object:
    """The newest artifact in a Ready checkpoint's status."""
    found: Object = checkpoint["status"]["variants"][0]
    return found


def capture_seconds(artifact: Object) -> float:
    """How long the capture took, from the steps that the agent reported."""
    steps = {name: float(seconds) for name, seconds in artifact.get("steps", {}).items()}
    return steps["total"] if "total" in steps else sum(steps.values())
