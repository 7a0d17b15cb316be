"""The complete examples of both guides, as printed but for the image, from first to last line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e import place
from showcase import cluster, pods, setup

Object = dict[str, Any]

GUIDES = Path(__file__).resolve().parents[1] / "fixtures" / "guides"
LABEL = "nvidia.com/dynamo-graph-deployment-name"
GPU = "nvidia.com/gpu"
TEAM = "dynamo-system"


@pytest.fixture(scope="module")
def there(here: place.Place) -> Iterator[place.Place]:
    """The guides' namespace: a release of its own, GPUs on both nodes, the Secret of the model."""
    setup.install(here.live, namespace=TEAM, values={"storage.pvc.size": '"5Gi"'})
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hf-token-secret"},
        "stringData": {"HF_TOKEN": "hf_of_no_use"},
    }
    here.live.apply(secret, namespace=TEAM)
    for node in ("n1", "n2"):
        patch = {"status": {"capacity": {GPU: "4"}, "allocatable": {GPU: "4"}}}
        here.live.merge(f"/api/v1/nodes/{node}/status", patch)
    found = place.Place(here.live, TEAM)
    yield found
    with contextlib.suppress(Exception):
        for node in ("n1", "n2"):
            gone = {"status": {"capacity": {GPU: None}, "allocatable": {GPU: None}}}
            here.live.merge(f"/api/v1/nodes/{node}/status", gone)
    found.clean()
    here.live.helm("uninstall", setup.RELEASE, f"--namespace={TEAM}", "--wait")
    here.live.kubectl("delete", "namespace", TEAM, "--timeout=60s")


def objects(path: Path) -> list[Object]:
    """The documents of a guide's example, with the example server's image."""
    text = path.read_text().replace(
        "nvcr.io/nvidia/ai-dynamo/dynamo-vllm:latest", setup.image("llama")
    )
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.mark.parametrize("path", sorted(GUIDES.glob("complete-*.yaml")), ids=lambda path: path.stem)
def test_a_complete_example_runs(there: place.Place, path: Path) -> None:
    checkpoint, graph = objects(path)
    assert (checkpoint["kind"], graph["kind"]) == ("DynamoCheckpoint", "DynamoGraphDeployment")
    # Everything at once, as `kubectl apply -f` of the page would: the graph waits for nothing.
    name = checkpoint["metadata"]["name"]
    there.live.apply(checkpoint, namespace=TEAM)
    found = there.wait_phase(name, "Ready", timeout=150)
    assert found["status"]["location"] == f"/checkpoints/{found['status']['identityHash']}"
    there.live.apply(graph, namespace=TEAM)
    running = there.ready_pods(f"{LABEL}=my-llm", 2, timeout=120)
    nonces = set()
    for pod in running:
        cluster.wait_until(
            lambda pod=pod: place.restored(pods.reload(there.live, pod)),
            "the agent has said how it started",
            timeout=30,
        )
        place.assert_warm(there.live, pods.reload(there.live, pod))
        nonces.add(pods.state(there.live, pod).nonce)
        assert pods.complete(there.live, pod, tokens=4)
    assert len(nonces) == 1, "all have the captured worker's memory"
    assert there.graph("my-llm")["status"]["services"]["VllmWorker"]["ready"] is True
    there.remove("dgd/my-llm", f"dckpt/{name}")


def test_both_guides_have_one() -> None:
    assert len(list(GUIDES.glob("complete-*.yaml"))) == 2
