"""Who reconciles what, where the Dynamo platform is installed as well."""

import asyncio

import msgspec
import pytest

from chrek import config
from chrek.kube import api
from chrek.operator import platform
from fakes import api_server, operator

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OURS = {"app.kubernetes.io/part-of": "chrek"}
GRAPHS = "dynamographdeployments.nvidia.com"
CHECKPOINTS = "dynamocheckpoints.nvidia.com"


@pytest.fixture
def server():
    with api_server.ApiServer() as made:
        for name in (GRAPHS, CHECKPOINTS):
            made.add(CRDS, {}, name=name, labels=OURS)
        yield made


@pytest.fixture
async def client(server):
    credentials = api.Credentials(server=server.url, tls=None, token="t")
    async with api.Client(credentials, user_agent="chrek-operator") as made:
        yield made


def settings(**policy):
    return msgspec.structs.replace(operator.SETTINGS, platform=config.Platform(**policy))


def foreign(server, *found):
    for name in found:
        server.add(CRDS, {}, name=name, labels={"app.kubernetes.io/part-of": "dynamo-platform"})


@pytest.mark.parametrize("found", [(), (GRAPHS,), (CHECKPOINTS,), (GRAPHS, CHECKPOINTS)])
async def test_crds_of_another_chart(server, client, found):
    foreign(server, *found)
    seen = await platform.detect(client, settings())
    assert (seen.graphs_foreign, seen.checkpoints_foreign) == (
        GRAPHS in found,
        CHECKPOINTS in found,
    )


async def test_crds_that_are_not_there_are_nobodys(server, client):
    server.objects.clear()
    assert await platform.detect(client, settings()) == platform.Platform()


@pytest.mark.parametrize(
    ("policy", "is_foreign", "answer"),
    [
        ("auto", False, False),
        ("auto", True, True),
        ("chrek", True, False),
        ("platform", False, True),
    ],
)
def test_who_makes_the_pods_of_graphs(policy, is_foreign, answer):
    seen = platform.Platform(graphs_foreign=is_foreign, policy=config.Platform(graphs=policy))
    assert seen.makes_graphs is answer


def checkpoint(*managed, finalizers=()):
    fields = [{"operation": "Update", **entry} for entry in managed]
    return {"metadata": {"name": "n", "managedFields": fields, "finalizers": list(finalizers)}}


STATUS = {"subresource": "status", "fieldsV1": {"f:status": {"f:phase": {}}}}
TAKEN = checkpoint({"manager": "dynamo-operator", **STATUS})


@pytest.mark.parametrize(
    ("policy", "is_foreign", "item", "answer"),
    [
        ("auto", True, TAKEN, True),
        ("auto", True, checkpoint(), False),
        ("auto", False, TAKEN, False),
        ("chrek", True, TAKEN, False),
        ("platform", False, checkpoint(), True),
    ],
)
def test_who_makes_checkpoints_ready(policy, is_foreign, item, answer):
    seen = platform.Platform(
        checkpoints_foreign=is_foreign, policy=config.Platform(checkpoints=policy)
    )
    assert seen.makes(item) is answer


@pytest.mark.parametrize(
    ("item", "answer"),
    [
        ({"metadata": {"name": "n"}}, False),
        (checkpoint({"manager": "chrek-operator", **STATUS}), False),
        (checkpoint({"manager": "chrek-agent-node-1", **STATUS}), False),
        (checkpoint({"manager": "kubectl-edit", **STATUS}), False),
        (checkpoint({"manager": "manager", "fieldsV1": {"f:spec": {}}}), False),
        (checkpoint({"manager": "manager", "fieldsV1": {"f:status": {}}}), True),
        (checkpoint({"manager": "chrek-operator", **STATUS}, {"manager": "m", **STATUS}), True),
        (checkpoint({"manager": "m", "subresource": "status"}), True),
        (checkpoint(finalizers=["nvidia.com/chrek"]), False),
        (checkpoint(finalizers=["foregroundDeletion", "orphan"]), False),
        (checkpoint(finalizers=["kubernetes.io/x", "batch.kubernetes.io/y"]), False),
        (checkpoint(finalizers=["nvidia.com/chrek", "nvidia.com/finalizer"]), True),
    ],
)
def test_checkpoints_that_another_operator_took_on(item, answer):
    assert platform.theirs(item) is answer


def test_managers_that_are_ours_can_be_named():
    item = checkpoint({"manager": "mine-1", **STATUS})
    assert platform.theirs(item)
    assert not platform.theirs(item, ("mine",))


async def test_either_may_be_installed_first(server, client):
    changes = []
    detector = platform.Detector(client, settings(), on_change=changes.append)
    assert not detector.current.makes_graphs
    await detector.refresh()
    assert changes == [], "nothing has changed"
    foreign(server, GRAPHS)
    await detector.refresh()
    await detector.refresh()
    assert [seen.makes_graphs for seen in changes] == [True]
    server.add(CRDS, {}, name=GRAPHS, labels=OURS)
    await detector.refresh()
    assert [seen.makes_graphs for seen in changes] == [True, False]


async def test_what_is_known_stays_while_the_api_server_refuses(server, client):
    foreign(server, GRAPHS)
    detector = platform.Detector(client, settings())
    await detector.refresh()
    server.refuse("GET", f"{CRDS}/{GRAPHS}", status=403, message="forbidden")
    assert (await detector.refresh()).graphs_foreign


async def test_the_detector_looks_again(server, client):
    found = asyncio.Event()
    detector = platform.Detector(client, settings(), on_change=lambda _: found.set())
    task = asyncio.create_task(detector.run(interval_seconds=0.01))
    await asyncio.sleep(0.05)
    foreign(server, CHECKPOINTS)
    await asyncio.wait_for(found.wait(), 5)
    task.cancel()
    assert detector.current.checkpoints_foreign
