"""The cluster that these tests talk to: one for the run, brought up if it is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from cluster import kube, toolbox  # noqa: E402
from devcluster import cache  # noqa: E402


@pytest.fixture(scope="session")
def where() -> cache.Cache:
    return cache.Cache.from_environment()


@pytest.fixture(scope="session")
def command() -> Path:
    return REPOSITORY / "scripts" / "cluster"


@pytest.fixture(scope="session")
def running(
    where: cache.Cache, command: Path, tmp_path_factory: pytest.TempPathFactory
) -> kube.Kube:
    """The running cluster, with the toolbox image on its nodes."""
    subprocess.run([command, "up"], check=True)
    archive = toolbox.write(where, tmp_path_factory.mktemp("toolbox") / "toolbox.tar")
    subprocess.run([command, "load", archive], check=True)
    return kube.Kube(where, namespace="default")


@pytest.fixture(scope="module")
def namespaced(running: kube.Kube, request: pytest.FixtureRequest) -> Iterator[kube.Kube]:
    """A namespace that goes with the module."""
    name = request.module.__name__.rpartition(".")[2].replace("_", "-")
    running.kubectl("delete", "namespace", name, "--ignore-not-found")
    running.kubectl("create", "namespace", name)
    running.wait(
        lambda: bool(running.kubectl("get", "serviceaccounts", "-n", name, "-o", "name")),
        f"namespace {name} has a service account",
    )
    yield kube.Kube(running.where, namespace=name)
    running.kubectl("delete", "namespace", name, "--wait=false")
