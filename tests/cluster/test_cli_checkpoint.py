"""`chrek checkpoint` on a real API server, which fills in much that the user did not write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

from chrek import errors
from cluster import kube, operator_process

pytestmark = pytest.mark.cluster
HASH = "5941a4cb3c363457"
NOWHERE = {"chrek.test/no-such-node": "true"}
ASK = ["--model=meta-llama/Llama-3-8B", "--backend=vllm", "--dtype=bfloat16"]
MAIN = {
    "name": "main",
    "image": "llama:1",
    "command": ["python3", "s.py"],
    "resources": {"limits": {"memory": "1Gi"}},
}


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"nodeSelector": NOWHERE, "containers": [MAIN]},
            },
        },
    }


@pytest.fixture(scope="module")
def server(namespaced: kube.Kube) -> kube.Kube:
    operator_process.install_crds(namespaced)
    namespaced.apply(deployment("llm"))
    return namespaced


def chrek(server: kube.Kube, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", "from chrek.cli import main; main()", "checkpoint", *words]
    return subprocess.run(
        [*argv, f"--namespace={server.namespace}"],
        env={**os.environ, "KUBECONFIG": os.fspath(server.where.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_dry_run_can_be_applied(server: kube.Kube) -> None:
    done = chrek(server, "deployment/llm", *ASK, "--dry-run")
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(done.stdout)
    spec = made["spec"]["job"]["podTemplateSpec"]["spec"]
    assert spec["nodeSelector"] == NOWHERE
    assert MAIN.items() <= spec["containers"][0].items()
    server.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=json.dumps(made)
    )


def test_it_is_made_once_and_the_workload_opts_in(server: kube.Kube) -> None:
    first = chrek(server, "deploy/llm", *ASK)
    assert first.returncode == 0, first.stderr
    assert f"DynamoCheckpoint {HASH} created from deployment/llm" in first.stdout
    before = server.get("deployment", "llm")["metadata"]["generation"]
    second = chrek(server, "deploy/llm", *ASK, "--opt-in")
    assert second.returncode == 0, second.stderr
    assert f"DynamoCheckpoint {HASH} exists already, of this identity" in second.stdout
    assert "note:" not in second.stdout, "it captures the very same command and image"
    found = server.get("deployment", "llm")
    annotations = found["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"nvidia.com/chrek-checkpoint": HASH}
    assert found["metadata"]["generation"] == before + 1, "its pods are replaced"


def test_waiting_where_no_operator_is(server: kube.Kube) -> None:
    done = chrek(server, "deploy/llm", *ASK, "--wait", "--timeout=1")
    assert done.returncode == errors.CheckpointError.exit_code
    assert f"DynamoCheckpoint {HASH} is not Ready after 1 s" in done.stderr


def test_what_the_api_server_refuses_is_said(server: kube.Kube) -> None:
    done = chrek(server, "deploy/llm", *ASK, "--name=My_Llama")
    assert done.returncode == errors.ApiError.exit_code
    assert "a lowercase RFC 1123 subdomain must consist of" in done.stderr
    assert "Traceback" not in done.stderr
