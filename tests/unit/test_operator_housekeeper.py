"""When it is looked at what may go, who is woken, and what the metrics tell."""

import datetime

import msgspec
import pytest

from chrek import config, names
from chrek.operator import cache, conditions, controllers, housekeeper, metrics, templates
from fakes import captures as fakes
from fakes import memory, operator

HASH = fakes.HASH
GB = 1 << 30
LLAMA, OTHER = fakes.name_of("llama:1"), fakes.name_of("llama:2")
KEY = controllers.HOUSEKEEPING


class World:
    def __init__(self, *items, quota=0, seconds=0, deletes=True, **platform):
        self.api, self.cache, self.templates = memory.Api(), cache.Cache(), templates.Templates()
        self.now, self.woken = fakes.NOW, []
        limits = config.Housekeeping(maxBytes=quota * GB, unusedSeconds=seconds)
        job = "/etc/chrek/job.yaml" if deletes else ""
        self.keeper = housekeeper.Housekeeper(
            self.cache,
            msgspec.structs.replace(operator.SETTINGS, housekeeping=limits, deletionJobPath=job),
            wanted=self.templates,
            owners=memory.owners(**platform),
            wake=lambda *key: self.woken.append(key),
            clock=lambda: self.now,
        )
        for item in items:
            self.api.add("dynamocheckpoints", item)

    def later(self, seconds):
        self.now += datetime.timedelta(seconds=seconds)

    async def look(self):
        """Look at it; returns who is woken."""
        self.api.fill(self.cache)
        self.woken.clear()
        self.again = await self.keeper.reconcile(KEY)
        return list(self.woken)

    def chosen(self, digest=HASH):
        return {uuid: str(one.rule) for uuid, one in self.keeper.removals("ns", digest).items()}


def one(uuid, image="llama:1", *, days=10, size=10, **fields):
    at = conditions.timestamp(fakes.NOW - datetime.timedelta(days=days))
    found = {"name": fakes.name_of(image), "uuid": uuid, "bytes": size * GB, "createdAt": at}
    return {**found, "image": image, **fields}


def checkpoint(*variants, name="c", captures=(), auto=True, model="", **metadata):
    made = fakes.checkpoint(name, auto=auto, **metadata)
    digest = HASH
    if model:
        made["spec"] = {**made["spec"], "identity": {**fakes.IDENTITY, "model": model}}
        digest = controllers._digest(made)
    status = {"identityHash": digest, "variants": list(variants), "captures": list(captures)}
    return {**made, "status": status}


def sample(name, **labels):
    return metrics.REGISTRY.get_sample_value(f"chrek_operator_{name}", labels)


async def test_what_is_unused_is_chosen_and_its_checkpoint_woken():
    world = World(checkpoint(one("a")), seconds=86400)
    assert await world.look() == [("ns", HASH)]
    assert world.chosen() == {"a": "unused"}
    assert world.again == housekeeper.INTERVAL_SECONDS


async def test_without_settings_nothing_goes_and_nobody_is_woken():
    world = World(checkpoint(one("a", days=4000, size=4000)))
    assert await world.look() == []
    assert (world.chosen(), world.keeper.room("ns", HASH)) == ({}, "")


async def test_a_release_that_deletes_nothing_prunes_nothing():
    world = World(checkpoint(one("a")), seconds=1, quota=1, deletes=False)
    assert await world.look() == []
    assert "10.0Gi of 1.0Gi" in world.keeper.room("ns", HASH)


async def test_the_platform_s_checkpoints_are_not_touched_nor_counted():
    policy = config.Platform(checkpoints="platform")
    world = World(checkpoint(one("a")), seconds=1, policy=policy)
    assert await world.look() == []
    assert sample("store_bytes", namespace="ns") is None


async def test_what_is_used_after_it_was_chosen_stays():
    world = World(checkpoint(one("a")), seconds=1)
    await world.look()
    assert world.chosen()
    world.api.add("pods", fakes.pod_object("w", source=False))
    world.api.fill(world.cache)
    assert world.chosen() == {}


async def test_what_was_seen_in_use_is_unused_from_then_on():
    """A pod runs for weeks after the restore that its artifact's status tells."""
    world = World(checkpoint(one("a", days=40)), seconds=86400)
    world.api.add("pods", fakes.pod_object("w", source=False))
    assert await world.look() == []
    del world.api.objects["pods", "ns", "pod-w"]
    for _ in range(2):
        world.later(86400 / 2)
        assert await world.look() == []
    world.later(60)
    assert await world.look() == [("ns", HASH)]


@pytest.mark.parametrize(("reference", "kept"), [(HASH, True), ("c", True), ("another", False)])
async def test_a_graph_that_names_it_keeps_it(reference, kept):
    graph = {"metadata": {"namespace": "ns", "name": "g"}}
    section = {"enabled": True, "checkpointRef": reference}
    world = World(checkpoint(one("a")), seconds=1)
    world.api.add(
        "dynamographdeployments", {**graph, "spec": {"services": {"w": {"checkpoint": section}}}}
    )
    assert await world.look() == [], "nothing goes before the graphs were looked at"
    world.templates.put(("ns", "g"), {})
    world.later(60)
    assert bool(await world.look()) != kept


async def test_what_a_graph_asks_for_stays():
    world = World(checkpoint(one("new", "llama:2"), one("old")), seconds=1)
    world.templates.put(("ns", "g"), {HASH: [fakes.wanted("llama:2")]})
    await world.look()
    assert world.chosen() == {"old": "unused"}


async def test_over_the_quota_the_least_recently_used_of_all_checkpoints_goes():
    other = checkpoint(one("b", days=20), name="d", model="m")
    world = World(checkpoint(one("a")), other, quota=15)
    digest = other["status"]["identityHash"]
    assert await world.look() == [("ns", digest)]
    assert (world.chosen(), world.chosen(digest)) == ({}, {"b": "quota"})


async def test_what_runs_needs_room():
    going = {"variant": OTHER, "phase": "Creating", "reason": "Capturing"}
    other = checkpoint(one("b", days=20), name="d", model="m")
    world = World(checkpoint(one("a"), captures=[going]), other, quota=25)
    assert await world.look() == [("ns", other["status"]["identityHash"])]


async def test_it_is_looked_at_once_a_minute_at_rest_and_soon_after_a_change():
    world = World(checkpoint(one("a")), seconds=86400 * 365)
    await world.look()
    world.later(2)
    await world.look()
    assert world.again == housekeeper.SHORTEST_SECONDS - 2
    world.later(3)
    await world.look()
    assert world.again == housekeeper.INTERVAL_SECONDS
    world.later(-86400)
    await world.look()
    assert world.again == housekeeper.INTERVAL_SECONDS, "the clock was set back"
    idle = World(checkpoint(one("a")))
    await idle.look()
    idle.later(20)
    await idle.look()
    assert idle.again == housekeeper.INTERVAL_SECONDS - 20


# Whether there is room.


async def test_nothing_begins_before_the_first_look():
    world = World(quota=100)
    world.api.fill(world.cache)
    assert world.keeper.room("ns", HASH) is None
    await world.look()
    assert world.keeper.room("ns", HASH) == ""


async def test_a_full_store_refuses_and_what_waits_is_woken():
    waits = {"variant": OTHER, "phase": "Pending", "reason": names.Reason.STORE_NEARLY_FULL}
    world = World(checkpoint(one("a"), captures=[waits], auto=False), quota=11)
    assert await world.look() == [("ns", HASH)]
    assert "10.0Gi of 11.0Gi" in world.keeper.room("ns", HASH)
    del world.api.objects["dynamocheckpoints", "ns", "c"]
    world.later(60)
    assert await world.look() == []
    assert world.keeper.room("ns", HASH) == ""


async def test_room_is_given_once():
    """Two captures that wait for the same room do not both begin."""
    other = checkpoint(one("b"), name="d", model="m", auto=False)
    digest = other["status"]["identityHash"]
    world = World(checkpoint(one("a"), auto=False), other, quota=30)
    await world.look()
    assert world.keeper.room("ns", HASH) == ""
    assert world.keeper.room("ns", HASH) == "", "it is the same one"
    assert "run need about 10.0Gi" in world.keeper.room("ns", digest)
    world.later(30)
    await world.look()
    assert world.keeper.room("ns", digest), "its Job may still be on its way"
    world.later(30)
    await world.look()
    assert world.keeper.room("ns", digest) == "", "it has not begun after all"


async def test_room_that_is_used_is_counted_once():
    going = {"variant": OTHER, "phase": "Creating", "reason": "Capturing"}
    other = checkpoint(one("b"), name="d", model="m", auto=False)
    world = World(checkpoint(one("a"), auto=False), other, quota=45)
    await world.look()
    assert world.keeper.room("ns", HASH) == ""
    world.api.add("dynamocheckpoints", checkpoint(one("a"), auto=False, captures=[going]))
    world.later(5)
    await world.look()
    assert world.keeper.room("ns", other["status"]["identityHash"]) == ""


# What the metrics tell.


async def test_sizes_by_namespace():
    shared = checkpoint(one("a"), name="d", creationTimestamp="2026-01-29T11:00:00Z")
    there = checkpoint(one("b", size=3), name="e", namespace="other")
    world = World(checkpoint(one("a"), one("c", "llama:2")), shared, there, quota=100)
    await world.look()
    assert sample("store_bytes", namespace="ns") == 20 * GB, "what is shared is there once"
    assert sample("store_artifacts", namespace="ns") == 2
    assert sample("store_bytes", namespace="other") == 3 * GB
    assert sample("store_quota_bytes") == 100 * GB
    assert sample("store_over_quota_bytes") == 0
    world.api.objects.clear()
    world.later(60)
    await world.look()
    assert sample("store_artifacts", namespace="ns") is None, "a namespace that holds none is gone"


async def test_what_there_is_of_checkpoints():
    world = World(checkpoint(one("a", suspect=True)), checkpoint(one("b"), name="d"))
    await world.look()
    phases = ("Pending", "Creating", "Ready", "Failed")
    assert sum(sample("checkpoints", namespace="ns", phase=phase) for phase in phases) == 2
    assert sample("suspect_checkpoints", namespace="ns") == 1
    at = (fakes.NOW - datetime.timedelta(days=10)).timestamp()
    assert sample("oldest_artifact_timestamp_seconds", namespace="ns") == at


async def test_a_quota_that_cannot_be_met_is_told_once(caplog):
    caplog.set_level("INFO")
    world = World(checkpoint(one("a", size=13), auto=False), quota=10)
    await world.look()
    assert sample("store_over_quota_bytes") == 3 * GB
    world.later(60)
    await world.look()
    world.api.objects.clear()
    world.later(60)
    await world.look()
    assert sample("store_over_quota_bytes") == 0
    assert [record.getMessage() for record in caplog.records] == [
        "the store's quota is passed, and nothing more may go",
        "the store's quota is met again",
    ]
