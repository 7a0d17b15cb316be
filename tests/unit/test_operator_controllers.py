"""What is kept of objects, and who is woken by them."""

import asyncio
import contextlib
import json

import pytest

from chrek.kube import api, client
from chrek.operator import cache, controllers
from fakes import captures as fakes
from fakes import memory, watchable

HASH = fakes.HASH
NAMED = {"enabled": True, "checkpointRef": "c"}
AUTO = {"enabled": True, "identity": fakes.IDENTITY}


class Work:
    """Notes what is woken."""

    def __init__(self):
        self.keys = set()

    def add(self, key):
        self.keys.add(tuple(key))


class World:
    def __init__(self, **objects):
        self.api, self.cache, self.work = memory.Api(), cache.Cache(), Work()
        for plural, items in objects.items():
            for item in items:
                self.api.add(plural, item)
        self.api.fill(self.cache)
        self.changes = controllers.Changes(self.cache, self.work)

    def _seen(self, plural, item, gone=False, known=False):
        (one,) = [c for c in controllers.COLLECTIONS if c.plural == plural]
        item["metadata"].setdefault("namespace", "ns")
        kept = one.project(item)
        key = item["metadata"]["namespace"], item["metadata"]["name"]
        before = kept if gone or known else None
        one.changed(self.changes, key, None if gone else kept, before)
        found, self.work.keys = self.work.keys, set()
        return found

    def keep(self, plural, item):
        self._seen(plural, item)
        return self.cache

    def event(self, plural, item, **how):
        return self._seen(plural, item, **how)


def graph(name="g", **sections):
    services = {name: {"checkpoint": section} for name, section in sections.items()}
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"services": services},
    }


SKIPPED = [{"manager": "x", "subresource": "status", "fieldsV1": {"f:spec": {}}, "time": "t"}]


def test_a_checkpoint_is_kept_whole_by_name_and_hash():
    item = fakes.checkpoint(managedFields=SKIPPED)
    item["metadata"]["annotations"] = {
        "nvidia.com/chrek-state": json.dumps({"identityHash": HASH, "captures": []})
    }
    known = World().keep("dynamocheckpoints", item)
    (kept,) = known.checkpoints["ns", "c"]
    assert kept["status"]["identityHash"] == HASH, "wherever its status is"
    assert kept["metadata"]["managedFields"] == [{"manager": "x", "subresource": "status"}]
    assert list(known.checkpoints_by_hash["ns", HASH]) == [kept]


@pytest.mark.parametrize("spec", [None, {}, {"identity": None}, {"identity": {"model": 1}}])
def test_objects_that_cannot_be_read_are_kept_by_name_alone(spec):
    item = {**fakes.checkpoint(), "spec": spec}
    world = World()
    assert ("checkpoint", "ns", "c") in world.event("dynamocheckpoints", item)
    assert ("ns", "c") in world.cache.checkpoints
    assert not world.cache.checkpoints_by_hash


def test_of_thousands_of_jobs_little_is_kept():
    item = {**fakes.job("Complete"), "spec": {"template": {"large": 1}}}
    item["metadata"]["managedFields"] = SKIPPED
    (kept,) = World().keep("jobs", item).jobs["ns", "j"]
    assert kept == fakes.job("Complete")


def test_pods_are_kept_by_what_they_are_looked_up_with():
    world = World()
    pod = fakes.pod_object("p")
    assert set(world.keep("pods", pod).pods) == {("ns", "job j1")}
    labels = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    pod = fakes.pod_object("p", source=False, labels=labels)
    assert set(world.keep("pods", pod).pods) == {("ns", f"checkpoint {HASH}"), ("ns", "graph g")}


def test_graphs_are_kept_by_what_they_refer_to():
    item = graph(a=NAMED, b=AUTO, c={})
    world = World()
    known = world.keep("dynamographdeployments", item)
    assert {key: list(found) for key, found in known.graphs_by_reference.items()} == {
        ("ns", "c"): ["g"],
        ("ns", HASH): ["g"],
    }
    assert not world.keep(
        "dynamographdeployments", {"metadata": item["metadata"]}
    ).graphs_by_reference


def test_of_deployments_the_number_of_replicas_is_kept():
    labels = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    item = {"metadata": {"name": "d", "namespace": "ns", "labels": labels}}
    item["spec"] = {"replicas": 3, "template": {"large": 1}}
    (kept,) = World().keep("deployments", item).deployments["ns", "g"]
    assert kept["spec"] == {"replicas": 3}
    del item["spec"]
    (kept,) = World().keep("deployments", item).deployments["ns", "g"]
    assert kept["spec"] == {"replicas": 1}


def test_a_checkpoint_wakes_those_of_its_identity_and_the_graphs_that_refer_to_it():
    second = fakes.checkpoint("second")
    world = World(
        dynamocheckpoints=[fakes.checkpoint(), second],
        dynamographdeployments=[graph("named", w=NAMED), graph("auto", w=AUTO), graph("none")],
    )
    assert world.event("dynamocheckpoints", fakes.checkpoint()) == {
        ("checkpoint", "ns", "c"),
        ("checkpoint", "ns", "second"),
        ("graph", "ns", "named"),
        ("graph", "ns", "auto"),
    }


def test_a_deleted_checkpoint_wakes_the_next_owner():
    world = World(dynamocheckpoints=[fakes.checkpoint("second")])
    woken = world.event("dynamocheckpoints", fakes.checkpoint(), gone=True)
    assert ("checkpoint", "ns", "second") in woken


def test_pods_wake_their_checkpoint_and_their_graph():
    world = World(dynamocheckpoints=[fakes.checkpoint()])
    hashed = {"nvidia.com/chrek-checkpoint-hash": HASH}
    checkpoint = ("checkpoint", "ns", "c")
    assert world.event("pods", fakes.pod_object(labels=hashed)) == {checkpoint}
    of_graph = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    worker = fakes.pod_object(source=False, labels=of_graph)
    assert world.event("pods", worker) == {checkpoint, ("graph", "ns", "g")}
    by_name = {"nvidia.com/chrek-checkpoint": "c", "nvidia.com/chrek-identity": "{}"}
    named = fakes.pod_object(source=False, annotations=by_name)
    assert world.event("pods", named) == {
        checkpoint,
        (controllers.ADOPTION, "ns", "c"),
    }


def test_a_pod_that_was_skipped_is_told_about_once():
    world = World()
    pod = fakes.pod_object(source=False, labels={"nvidia.com/chrek-managed": "false"})
    assert world.event("pods", pod) == set(), "the operator before this one has told"
    world.changes.listed = True
    assert world.event("pods", pod) == {(controllers.SKIPPED_POD, "ns", "pod-p1")}
    assert world.event("pods", pod, known=True) == set()
    assert not world.cache.pods, "nobody reads it"


def test_jobs_wake_their_checkpoint_and_deployments_their_graph():
    world = World(dynamocheckpoints=[fakes.checkpoint()])
    job = fakes.job()
    assert world.event("jobs", job) == set()
    job["metadata"]["labels"] = {"nvidia.com/chrek-checkpoint-hash": HASH}
    assert world.event("jobs", job) == {("checkpoint", "ns", "c")}
    labels = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    item = {"metadata": {"name": "d", "namespace": "ns", "labels": labels}}
    assert world.event("deployments", item) == {("graph", "ns", "g")}
    assert world.event("dynamographdeployments", graph()) == {("graph", "ns", "g")}


def test_artifacts_that_come_or_go_wake_housekeeping():
    item = fakes.checkpoint()
    made = {**item, "status": {"variants": [{"name": "v", "uuid": "u"}]}}
    world = World(dynamocheckpoints=[item])
    assert controllers.HOUSEKEEPING in world.event("dynamocheckpoints", made, gone=True)
    (one,) = [c for c in controllers.COLLECTIONS if c.plural == "dynamocheckpoints"]
    for now, before, woken in ((made, item, True), (made, made, False), (item, made, True)):
        one.changed(world.changes, ("ns", "c"), now, before)
        assert (controllers.HOUSEKEEPING in world.work.keys) == woken
        world.work.keys.clear()


def test_a_graph_wakes_the_checkpoints_that_it_begins_to_refer_to():
    """An artifact that was pruned may be wanted again before there is a pod."""
    world = World(dynamocheckpoints=[fakes.checkpoint()])
    mine = ("graph", "ns", "g")
    for section in (NAMED, AUTO):
        item = graph(w=section)
        assert world.event("dynamographdeployments", item) == {("checkpoint", "ns", "c"), mine}
        assert world.event("dynamographdeployments", item, known=True) == {mine}
        assert world.event("dynamographdeployments", item, gone=True) == {mine}


def test_everything_is_looked_at_again_when_the_platform_comes_or_goes():
    world = World(dynamocheckpoints=[fakes.checkpoint()], dynamographdeployments=[graph()])
    controllers.wake_all(world.cache, world.work)
    assert world.work.keys == {("checkpoint", "ns", "c"), ("graph", "ns", "g")}


def test_what_is_said_twice_is_kept_once():
    applied = "kubectl.kubernetes.io/last-applied-configuration"
    item = fakes.checkpoint(annotations={applied: "{}", "other": "kept"})
    (kept,) = World().keep("dynamocheckpoints", item).checkpoints["ns", "c"]
    assert kept["metadata"]["annotations"] == {"other": "kept"}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(client, "backoff", lambda failures: 0.01)


async def test_a_real_connection_fills_the_cache_before_anything_is_decided(impatient):
    async with watchable.Watchable() as server:
        for name in "abc":
            labels = {"nvidia.com/dynamo-graph-deployment-name": name}
            metadata = {"namespace": "ns", "name": name, "labels": labels}
            await server.put(name, metadata={**metadata, "resourceVersion": name})
        known = cache.Cache()
        credentials = api.Credentials(server=server.url, tls=None)
        async with api.Client(credentials) as connected:
            changes = controllers.Changes(known, Work())
            follower = controllers.Follower(connected, ["ns"], changes)
            task = asyncio.create_task(follower.run())
            await asyncio.wait_for(follower.synced(), 5)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        paths = {request[1].partition("?")[0] for request in server.requests}
        assert paths >= {
            "/apis/nvidia.com/v1alpha1/namespaces/ns/dynamocheckpoints",
            "/apis/batch/v1/namespaces/ns/jobs",
            "/api/v1/namespaces/ns/pods",
        }
        assert changes.listed
        everything = [("ns", name) for name in "abc"]
        for index in (known.checkpoints, known.jobs, known.graphs, known.deployments):
            assert sorted(index) == everything
