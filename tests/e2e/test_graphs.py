"""DynamoGraphDeployments and their checkpoints: both modes, both orders, sharing, variants."""

from __future__ import annotations

import dataclasses
import json

from e2e import place, tiny
from showcase import cluster, example, pods

LABEL = "nvidia.com/dynamo-graph-deployment-name"


def warm_after_scaling(here: place.Place, graph: str, replicas: int = 2) -> None:
    """The graph, scaled up: the newest pod is restored and the graph's status counts it."""
    here.scale(graph, replicas)
    newest = here.ready_pods(f"{LABEL}={graph}", replicas)[-1]
    place.assert_warm(here.live, newest)
    cluster.wait_until(
        lambda: here.service(graph).get("restored", 0) >= 1,
        lambda: f"the status counts restored pods: {here.service(graph)}",
        timeout=20,
    )


def test_reference_by_hash_after_the_checkpoint(here: place.Place, counter: tiny.Worker) -> None:
    here.live.apply(
        counter.graph("by-hash", {"checkpointRef": counter.hash}), namespace=here.namespace
    )
    pod = here.ready_pods(f"{LABEL}=by-hash", 1)[0]
    place.assert_warm(here.live, pod)
    assert here.service("by-hash")["checkpointName"] == counter.hash
    assert here.service("by-hash")["identityHash"] == counter.hash
    here.remove("dgd/by-hash")


def test_reference_by_name_before_the_checkpoint(here: place.Place) -> None:
    worker = tiny.Worker("tiny/by-name")
    here.live.apply(
        worker.graph("by-name", {"checkpointRef": "any-name-tp1"}), namespace=here.namespace
    )
    first = here.ready_pods(f"{LABEL}=by-name", 1)[0]
    place.assert_cold(here.live, first, {"CheckpointNotFound"})
    cluster.wait_until(
        lambda: "waiting for DynamoCheckpoint any-name-tp1" in here.service("by-name")["message"],
        lambda: f"the graph says what it waits for: {here.service('by-name')}",
        timeout=20,
    )
    named = worker.checkpoint()
    named["metadata"]["name"] = "any-name-tp1"
    here.live.apply(named, namespace=here.namespace)
    found = here.wait_phase("any-name-tp1", "Ready")
    assert found["status"]["identityHash"] == worker.hash
    warm_after_scaling(here, "by-name")
    service = here.service("by-name")
    assert (service["cold"], service["ready"]) == (1, True)
    assert service["coldReasons"] == {"CheckpointNotFound": 1}
    here.remove("dgd/by-name", "dckpt/any-name-tp1")


def test_graphs_created_together_share_one_checkpoint(here: place.Place) -> None:
    worker = tiny.Worker("tiny/together")
    graphs = [worker.graph(f"together-{number}") for number in range(3)]
    here.live.apply(*graphs, namespace=here.namespace)
    found = here.wait_phase(worker.hash, "Ready")
    jobs = here.live.kubectl(
        "get", "jobs", f"--namespace={here.namespace}", "-o", "name",
        "-l", f"nvidia.com/chrek-checkpoint-hash={worker.hash}",
    )  # fmt: skip
    assert jobs.split() == [f"job.batch/checkpoint-{worker.hash}"]
    assert len(found["status"]["variants"]) == 1
    warm_after_scaling(here, "together-2")
    here.remove("dgd/together-0", "dgd/together-1", "dgd/together-2")
    here.forget(worker)


def test_two_images_of_one_identity_are_two_variants(here: place.Place) -> None:
    one = tiny.Worker("tiny/two-images")
    other = dataclasses.replace(one, image="llama")
    assert one.hash == other.hash
    here.live.apply(one.graph("image-one"), namespace=here.namespace)
    here.wait_phase(one.hash, "Ready")
    here.live.apply(other.graph("image-other"), namespace=here.namespace)

    def both() -> bool:
        return len(here.checkpoint(one.hash)["status"].get("variants", [])) == 2

    cluster.wait_until(
        both, lambda: f"two variants: {json.dumps(here.checkpoint(one.hash)['status'])}", timeout=60
    )
    images = {variant["image"] for variant in here.checkpoint(one.hash)["status"]["variants"]}
    assert len(images) == 2
    warm_after_scaling(here, "image-one")
    warm_after_scaling(here, "image-other")
    # Another argument is a third; the first two stay.
    changed = dataclasses.replace(one, ballast=5)
    here.live.apply(changed.graph("image-one", replicas=1), namespace=here.namespace)
    cluster.wait_until(
        lambda: len(here.checkpoint(one.hash)["status"]["variants"]) == 3,
        lambda: f"three variants: {here.checkpoint(one.hash)['status']}",
        timeout=60,
    )
    warm_after_scaling(here, "image-other", 3)
    here.remove("dgd/image-one", "dgd/image-other")
    here.forget(one)


def test_a_second_checkpoint_shares_and_then_owns(here: place.Place) -> None:
    worker = tiny.Worker("tiny/shared")
    here.capture(worker)
    second = worker.checkpoint()
    second["metadata"]["name"] = "shared-by-name"
    here.live.apply(second, namespace=here.namespace)
    found = here.wait_phase("shared-by-name", "Ready")
    assert place.condition(found, "SharedWith")["status"] == "True"
    artifact = here.artifact(worker.hash)
    here.forget(worker)
    assert (artifact / "manifest.json").exists(), "somebody still refers to it"
    cluster.wait_until(
        lambda: not place.condition(here.checkpoint("shared-by-name"), "SharedWith"),
        "the second owns the artifact",
        timeout=20,
    )
    with here.pod(worker.pod("shared-warm", reference="shared-by-name")) as pod:
        place.assert_warm(here.live, pod)
    here.remove("dckpt/shared-by-name")
    assert not artifact.exists()


def test_replicas_belong_to_the_autoscaler(here: place.Place, counter: tiny.Worker) -> None:
    here.live.apply(
        counter.graph("scaled", {"checkpointRef": counter.hash}), namespace=here.namespace
    )
    here.ready_pods(f"{LABEL}=scaled", 1)
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scaled"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": "scaled-worker",
            },
            "minReplicas": 2,
            "maxReplicas": 3,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 80},
                    },
                }
            ],
        },
    }
    here.live.apply(autoscaler, namespace=here.namespace)
    warm = here.ready_pods(f"{LABEL}=scaled", 2, timeout=90)[-1]
    place.assert_warm(here.live, warm)
    # A change of the graph that says nothing of replicas leaves them to the autoscaler.
    graph = here.graph("scaled")
    graph["spec"]["services"]["Worker"]["envs"] = [{"name": "CHANGED", "value": "1"}]
    path = f"{example.GROUP}/namespaces/{here.namespace}/dynamographdeployments/scaled"
    here.live.merge(path, {"spec": graph["spec"]})

    def changed() -> bool:
        found = here.live.get(
            f"/apis/apps/v1/namespaces/{here.namespace}/deployments/scaled-worker"
        )
        assert found is not None
        env = found["spec"]["template"]["spec"]["containers"][0].get("env", [])
        return {"name": "CHANGED", "value": "1"} in env and found["spec"]["replicas"] == 2

    cluster.wait_until(changed, "the template is new and the replicas are 2", timeout=20)
    here.remove("hpa/scaled", "dgd/scaled")


def test_pods_count_in_kubectl(here: place.Place, counter: tiny.Worker) -> None:
    said = here.live.kubectl("get", "dckpt", "-o", "wide", f"--namespace={here.namespace}")
    header = said.splitlines()[0].split()
    assert header == ["NAME", "MODEL", "BACKEND", "PHASE", "HASH", "SIZE", "MESSAGE", "AGE"]
    assert pods.FALLBACK  # The text is an interface.
