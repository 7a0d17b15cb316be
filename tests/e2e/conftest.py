"""One cluster, one installed chart for all tests here."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from e2e import place, tiny
from showcase import cluster, diagnosis, errors, setup

STRICT = "strict-team"
"""A namespace that enforces Pod Security *restricted* and has a quota."""

_live: list[cluster.Cluster] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def live() -> Iterator[cluster.Cluster]:
    """The cluster of scripts/cluster: these tests reach into its nodes and volumes."""
    if cluster.foreign_kubeconfig():
        pytest.skip("KUBECONFIG is set: fault injection needs the cluster of scripts/cluster")
    with setup.prepared() as connected:
        _live.append(connected)
        yield connected
        _live.clear()


@pytest.fixture(scope="session")
def here(live: cluster.Cluster) -> place.Place:
    """The release's namespace, the chart installed."""
    live.apply(namespace(setup.NAMESPACE), namespace(STRICT, restricted=True), namespace="default")
    # A tainted node or a late one that an interrupted run left would change what follows.
    live.kubectl("taint", "nodes", "--all", "chrek.test/no-agent-", check=False)
    values = {
        "storage.pvc.size": json.dumps("20Gi"),
        "dynamo-operator.watchNamespaces": json.dumps([setup.NAMESPACE, STRICT]),
    }
    setup.install(live, values=values)
    found = place.Place(live, setup.NAMESPACE, values)
    found.clean()
    # What no DynamoCheckpoint names any more, so that tests find only what they made.
    for left in found.volume().iterdir():
        shutil.rmtree(left)
    return found


@pytest.fixture(scope="session")
def strict(here: place.Place) -> place.Place:
    """The namespace that enforces *restricted*, with a quota."""
    found = place.Place(here.live, STRICT)
    found.clean()
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "all"},
        "spec": {
            "hard": {
                "requests.cpu": "4",
                "requests.memory": "4Gi",
                "limits.cpu": "16",
                "limits.memory": "8Gi",
                "pods": "10",
            }
        },
    }
    here.live.apply(quota, namespace=STRICT)
    return found


@pytest.fixture(scope="session")
def counter(here: place.Place) -> tiny.Worker:
    """A tiny worker whose checkpoint is Ready, captured on n1."""
    worker = tiny.Worker("tiny/counter")
    here.capture(worker, node="n1")
    return worker


@pytest.fixture
def fragile(here: place.Place) -> tiny.Worker:
    """A tiny worker with a Ready checkpoint that a test may damage: it is made again."""
    worker = tiny.Worker("tiny/fragile")
    if here.live.get(here.checkpoint_path(worker.hash)) is None:
        here.capture(worker)
    # The operator may not have heard of the last damage yet; whatever is there is made again.
    here.retry(worker.hash, secrets.token_hex(4))
    here.wait_phase(worker.hash, "Ready")
    return worker


@pytest.fixture(scope="session")
def heavy(here: place.Place) -> tiny.Worker:
    """A worker large enough that something can happen during its restore."""
    worker = tiny.Worker("tiny/heavy", ballast=600)
    here.capture(worker, node="n1")
    return worker


def namespace(name: str, *, restricted: bool = False) -> tiny.Object:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"} if restricted else {}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what agents, operator and workers said."""
    report = yield
    if report.failed and _live and Path(__file__).parent in item.path.parents:
        try:
            text = diagnosis.report(_live[0])
        except errors.ShowError as err:
            text = str(err)
        report.sections.append(("the cluster", text))
    return report
