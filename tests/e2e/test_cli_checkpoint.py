"""`chrek checkpoint` for a service that runs: no second pod spec, and its pods start warm."""

from __future__ import annotations

from pathlib import Path

from e2e import documented, place, tiny
from showcase import pods

NAME = "my-llm"


def test_a_running_deployment_starts_warm_from_then_on(here: place.Place, tmp_path: Path) -> None:
    """With the lines of the pages, which first make the checkpoint and then use it."""
    worker = tiny.Worker("meta-llama/Llama-3-8B")
    labels = {"app": NAME}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": worker.spec()},
        },
    }
    here.live.apply(deployment, namespace=here.namespace)
    before = here.ready_pods(f"app={NAME}", 1)[0]
    desk = documented.Desk.of(
        here.live, here.namespace, tmp_path / "desk", NAME=NAME, **{"…": worker.model}
    )
    make = documented.one("docs/guides/deployments.md#without-touching-the-workload")
    said = desk.type(make)
    documented.assert_shown(make, said, {})
    assert "\nReady" in said
    use = documented.one("chrek checkpoint deployment/NAME --model … --backend vllm")
    lines = desk.type(f"{use.text} --opt-in --wait").splitlines()
    assert lines[-1] == f"deployment/{NAME}: its pods are replaced now and start warm"
    here.live.kubectl(
        "rollout", "status", f"deployment/{NAME}", f"--namespace={here.namespace}", "--timeout=60s"
    )
    after = here.ready_pods(f"app={NAME}", 1)[-1]
    assert pods.name(after) != pods.name(before)
    place.assert_warm(here.live, pods.reload(here.live, after))
    here.remove(f"deployment/{NAME}")
    here.forget(worker)
