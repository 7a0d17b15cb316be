"""kopf's part, called as kopf calls it: what is kept of objects, and who is woken by them."""

import asyncio
import json

import kopf
import pytest

from chrek.operator import cache, controllers, queue
from fakes import captures as fakes
from fakes import memory

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
        self.registry = controllers.registry(self.cache, self.work)

    def _call(self, handlers, name, item, **fields):
        (fn,) = [h.fn for h in handlers.get_all_handlers() if name in (h.id, h.fn.__name__)]
        return asyncio.run(fn(body=kopf.Body(item), **fields))

    def index(self, name, item):
        return self._call(self.registry._indexing, name, item)

    def event(self, name, item, type_="MODIFIED"):
        self._call(self.registry._watching, name, item, event={"type": type_})
        found, self.work.keys = self.work.keys, set()
        return found


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
    world = World()
    kept = world.index("checkpoints", item)["ns", "c"]
    assert kept["status"]["identityHash"] == HASH, "wherever its status is"
    assert kept["metadata"]["managedFields"] == [{"manager": "x", "subresource": "status"}]
    assert world.index("checkpoints_by_hash", item)["ns", HASH] == kept


@pytest.mark.parametrize("spec", [None, {}, {"identity": None}, {"identity": {"model": 1}}])
def test_objects_that_cannot_be_read_are_kept_by_name_alone(spec):
    item = {**fakes.checkpoint(), "spec": spec}
    world = World(dynamocheckpoints=[item])
    assert world.index("checkpoints", item)
    assert world.index("checkpoints_by_hash", item) == {}
    assert ("checkpoint", "ns", "c") in world.event("checkpoint_changed", item)


def test_of_thousands_of_jobs_little_is_kept():
    item = {**fakes.job("Complete"), "spec": {"template": {"large": 1}}}
    item["metadata"]["managedFields"] = SKIPPED
    kept = World().index("jobs", item)["ns", "j"]
    assert kept == fakes.job("Complete")


def test_pods_are_kept_by_what_they_are_looked_up_with():
    world = World()
    pod = fakes.pod_object("p")
    assert world.index("pods", pod).keys() == {("ns", "job j1")}
    labels = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    pod = fakes.pod_object("p", source=False, labels=labels)
    assert world.index("pods", pod).keys() == {("ns", f"checkpoint {HASH}"), ("ns", "graph g")}


def test_graphs_are_kept_by_what_they_refer_to():
    item = graph(a=NAMED, b=AUTO, c={})
    world = World()
    assert world.index("graphs_by_reference", item) == {("ns", "c"): "g", ("ns", HASH): "g"}
    assert world.index("graphs_by_reference", {"metadata": item["metadata"]}) == {}


def test_of_deployments_the_number_of_replicas_is_kept():
    labels = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    item = {"metadata": {"name": "d", "namespace": "ns", "labels": labels}}
    item["spec"] = {"replicas": 3, "template": {"large": 1}}
    kept = World().index("deployments", item)["ns", "g"]
    assert kept["spec"] == {"replicas": 3}
    del item["spec"]
    assert World().index("deployments", item)["ns", "g"]["spec"] == {"replicas": 1}


def test_a_checkpoint_wakes_those_of_its_identity_and_the_graphs_that_refer_to_it():
    second = fakes.checkpoint("second")
    world = World(
        dynamocheckpoints=[fakes.checkpoint(), second],
        dynamographdeployments=[graph("named", w=NAMED), graph("auto", w=AUTO), graph("none")],
    )
    assert world.event("checkpoint_changed", fakes.checkpoint()) == {
        ("checkpoint", "ns", "c"),
        ("checkpoint", "ns", "second"),
        ("graph", "ns", "named"),
        ("graph", "ns", "auto"),
    }


def test_a_deleted_checkpoint_wakes_the_next_owner():
    world = World(dynamocheckpoints=[fakes.checkpoint("second")])
    woken = world.event("checkpoint_changed", fakes.checkpoint(), "DELETED")
    assert ("checkpoint", "ns", "second") in woken


def test_pods_wake_their_checkpoint_and_their_graph():
    world = World(dynamocheckpoints=[fakes.checkpoint()])
    hashed = {"nvidia.com/chrek-checkpoint-hash": HASH}
    checkpoint = ("checkpoint", "ns", "c")
    assert world.event("pod_changed", fakes.pod_object(labels=hashed)) == {checkpoint}
    of_graph = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    worker = fakes.pod_object(source=False, labels=of_graph)
    assert world.event("pod_changed", worker) == {checkpoint, ("graph", "ns", "g")}
    by_name = {"nvidia.com/chrek-checkpoint": "c", "nvidia.com/chrek-identity": "{}"}
    named = fakes.pod_object(source=False, annotations=by_name)
    assert world.event("pod_changed", named) == {
        checkpoint,
        (controllers.ADOPTION, "ns", "c"),
    }


def test_a_pod_that_was_skipped_is_told_about_once():
    world = World()
    pod = fakes.pod_object(source=False, labels={"nvidia.com/chrek-managed": "skipped"})
    assert world.event("pod_changed", pod, "ADDED") == {(controllers.SKIPPED_POD, "ns", "pod-p1")}
    assert world.event("pod_changed", pod) == set()


def test_jobs_wake_their_checkpoint_and_deployments_their_graph():
    world = World(dynamocheckpoints=[fakes.checkpoint()])
    job = fakes.job()
    assert world.event("job_changed", job) == set()
    job["metadata"]["labels"] = {"nvidia.com/chrek-checkpoint-hash": HASH}
    assert world.event("job_changed", job) == {("checkpoint", "ns", "c")}
    labels = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    item = {"metadata": {"name": "d", "namespace": "ns", "labels": labels}}
    assert world.event("deployment_changed", item) == {("graph", "ns", "g")}
    assert world.event("graph_changed", graph()) == {("graph", "ns", "g")}


def test_everything_is_looked_at_again_when_the_platform_comes_or_goes():
    world = World(dynamocheckpoints=[fakes.checkpoint()], dynamographdeployments=[graph()])
    controllers.wake_all(world.cache, world.work)
    assert world.work.keys == {("checkpoint", "ns", "c"), ("graph", "ns", "g")}


def test_kopf_writes_nothing():
    made = controllers.settings()
    assert made.posting.enabled is False
    registry = World().registry
    assert not registry._changing.get_all_handlers(), "those would add finalizers and annotations"
    assert queue.Key("a", "b", "c") == ("a", "b", "c")
