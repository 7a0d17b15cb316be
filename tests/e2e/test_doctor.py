"""`chrek doctor` on a release that works, without rights, and before an installation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e import place
from showcase import commands, setup

FAILED_CHECKS = 3
SOMEBODY = "doctor-somebody"


def doctor(
    kubeconfig: Path, *options: str, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from chrek.cli import main; main()", "doctor"]
    return commands.run(
        [*program, *options],
        text=text,
        check=False,
        timeout=120,
        environment={"KUBECONFIG": os.fspath(kubeconfig)},
    )


@pytest.fixture
def somebody(here: place.Place, tmp_path: Path) -> Iterator[Path]:
    """The kubeconfig of an account that may list ConfigMaps and nothing else."""
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": SOMEBODY}
    subject = {"kind": "ServiceAccount", "name": SOMEBODY, "namespace": here.namespace}
    metadata = {"name": SOMEBODY}
    rbac = "rbac.authorization.k8s.io/v1"
    here.live.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": rbac, "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": rbac,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": role,
            "subjects": [subject],
        },
        namespace=here.namespace,
    )
    token = here.live.kubectl("create", "token", SOMEBODY, f"--namespace={here.namespace}")
    config = yaml.safe_load(here.live.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token.strip()}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    yield path
    here.remove(f"rolebinding/{SOMEBODY}", f"role/{SOMEBODY}", f"serviceaccount/{SOMEBODY}")


def test_a_release_that_works(here: place.Place) -> None:
    done = doctor(here.live.kubeconfig, "-n", here.namespace)
    assert done.returncode == 0, done.stdout + done.stderr
    blocks = [block.splitlines() for block in done.stdout.strip().split("\n\n")]
    assert blocks[0] == [f"release {setup.RELEASE} in namespace {here.namespace}"]
    assert [block[0] for block in blocks[1:-1]] == ["cluster", "release", "node n1", "node n2"]
    assert blocks[-1][0].startswith("doctor: all ")


def test_every_agent_tells_of_its_node(here: place.Place) -> None:
    done = doctor(here.live.kubeconfig, "-n", here.namespace, "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(done.stdout)["releases"]
    assert (found["release"], found["namespace"]) == (setup.RELEASE, here.namespace)
    assert found["failed"] == 0
    for node in ("n1", "n2"):
        rows = {row["name"] for row in found["checks"] if row["group"] == f"node {node}"}
        assert "preflight" not in rows, "an agent cannot be read through the API server"
        assert rows > {"agent"}, f"the agent of {node} has said nothing of its checks"
    of_release = {row["name"] for row in found["checks"] if row["group"] == "release"}
    assert of_release == {"agents", "operator", "webhook"}


def test_somebody_without_rights_gets_warnings(here: place.Place, somebody: Path) -> None:
    done = doctor(somebody, "-n", here.namespace, "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(done.stdout)["releases"]
    refused = {row["name"]: row for row in found["checks"] if row["status"] == "warn"}
    assert {"crds", "nodes", "pod-security", "agents", "operator", "webhook"} <= set(refused)
    assert found["failed"] == 0
    for name, row in refused.items():
        assert row["detail"].startswith("not allowed to look: the right to "), name
        assert "kubectl auth can-i " in row["hint"]
    assert refused["nodes"]["detail"] == "not allowed to look: the right to list nodes is missing"


def test_a_namespace_that_somebody_may_not_look_into(here: place.Place, somebody: Path) -> None:
    done = doctor(somebody, "-n", "default")
    assert done.returncode == 30
    assert "you may not list configmaps in namespace default" in done.stderr
    assert "kubectl auth can-i list configmaps -n default" in done.stderr


def test_before_an_installation(here: place.Place) -> None:
    rendered = here.live.helm(
        "template",
        "another",
        os.fspath(setup.CHART),
        "--namespace=default",
        "--set=storage.pvc.storageClassName=nowhere",
    )
    done = doctor(here.live.kubeconfig, "--manifests", "-", text=rendered)
    assert done.returncode == FAILED_CHECKS, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("  fail")]
    assert len(lines) == 1, done.stdout
    assert "StorageClass 'nowhere': not found" in lines[0]
    assert "set storage.pvc.storageClassName to one that provides" in done.stdout
    assert done.stdout.startswith("release another in namespace default\n")
    assert "Then run chrek doctor again." in done.stdout.splitlines()[-1]
    right = here.live.helm(
        "template", "another", os.fspath(setup.CHART), "--namespace=doctor-not-there"
    )
    done = doctor(here.live.kubeconfig, "--manifests", "-", text=right)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "doctor-not-there is not there yet" in done.stdout
