"""One cluster; one installed chart for all tests here, or one for each lane of them."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from e2e import lanes, place, tiny
from showcase import cluster, diagnosis, errors, setup

NAMESPACE = setup.NAMESPACE + lanes.SUFFIX
STRICT = f"strict-team{lanes.SUFFIX}"
"""A namespace that enforces Pod Security *restricted* and has a quota."""

_live: list[cluster.Cluster] = []
_turn = lanes.Turn()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if is_here(item)]
    for item in mine:
        item.add_marker(pytest.mark.e2e)
    if lanes.NAME:
        items[:] = [*(item for item in items if not is_here(item)), *lanes.arranged(mine)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> lanes.Scheduler:
    return lanes.Scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """What starts lanes has read this file: the tests were named by their path."""
    node.workerinput["knows_lanes"] = True


def is_here(item: pytest.Item) -> bool:
    return Path(__file__).parent in item.path.parents


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Outside of what a test's own timeout covers: a lane that wants to be alone waits."""
    if not is_here(item):
        return (yield)
    with _turn.during(item, nextitem if nextitem and is_here(nextitem) else None):
        return (yield)


@pytest.fixture(scope="session")
def live(request: pytest.FixtureRequest) -> Iterator[cluster.Cluster]:
    """The cluster of scripts/cluster: these tests reach into its nodes and volumes."""
    if lanes.NAME and "knows_lanes" not in getattr(request.config, "workerinput", {}):
        pytest.fail("several processes want these tests by their path: pytest -n 3 tests/e2e")
    if cluster.foreign_kubeconfig():
        pytest.skip("KUBECONFIG is set: fault injection needs the cluster of scripts/cluster")
    with setup.prepared() as connected:
        _live.append(connected)
        yield connected
        _live.clear()


@pytest.fixture(scope="session")
def here(live: cluster.Cluster) -> place.Place:
    """The release's namespace, the chart installed."""
    live.apply(namespace(NAMESPACE), namespace(STRICT, restricted=True), namespace="default")
    # A tainted node or a late one that an interrupted run left would change what follows.
    live.kubectl("taint", "nodes", "--all", "chrek.test/no-agent-", check=False)
    values = {
        "storage.pvc.size": json.dumps("20Gi"),
        "dynamo-operator.watchNamespaces": json.dumps([NAMESPACE, STRICT]),
    }
    setup.install(live, namespace=NAMESPACE, values=values)
    found = place.Place(live, NAMESPACE, values)
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
    if report.failed and _live and is_here(item):
        try:
            text = diagnosis.report(_live[0], NAMESPACE)
        except errors.ShowError as err:
            text = str(err)
        report.sections.append(("the cluster", text))
    return report
