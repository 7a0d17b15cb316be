"""`chrek checkpoint` for a service that runs: no second pod spec, and its pods start warm."""

from __future__ import annotations

import os
import sys

from e2e import place, tiny
from showcase import commands, pods


def test_a_running_deployment_starts_warm_from_then_on(here: place.Place) -> None:
    worker = tiny.Worker("tiny/running")
    labels = {"app": "running"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "running"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": worker.spec()},
        },
    }
    here.live.apply(deployment, namespace=here.namespace)
    before = here.ready_pods("app=running", 1)[0]
    asked = ["deployment/running", "--model=tiny/running", "--backend=vllm", "--opt-in", "--wait"]
    done = commands.run(
        [
            sys.executable, "-c", "from chrek.cli import main; main()", "checkpoint", *asked,
            f"--namespace={here.namespace}", "--timeout=120",
        ],
        environment={"KUBECONFIG": os.fspath(here.live.kubeconfig)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == f"DynamoCheckpoint {worker.hash} created from deployment/running"
    assert any(line.startswith("Ready") for line in lines)
    assert lines[-1] == "deployment/running: its pods are replaced now and start warm"
    here.live.kubectl(
        "rollout", "status", "deployment/running", f"--namespace={here.namespace}", "--timeout=60s"
    )
    after = here.ready_pods("app=running", 1)[-1]
    assert pods.name(after) != pods.name(before)
    place.assert_warm(here.live, pods.reload(here.live, after))
    here.remove("deployment/running")
    here.forget(worker)
