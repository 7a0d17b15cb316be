"""The end of a DynamoCheckpoint."""

import pytest

from chrek import errors
from chrek.operator import cache, deletion, finalization
from fakes import captures as fakes
from fakes import memory

FINALIZER = "nvidia.com/chrek"
PLAIN = f"checkpoint-{fakes.HASH}"
VARIANT = {"name": "v", "uuid": "u", "digest": "d"}


class World:
    def __init__(self, *items):
        self.api, self.deletions, self.cache = memory.Api(), memory.Deletions(), cache.Cache()
        for item in items:
            self.api.add("dynamocheckpoints", item)
        self.does = finalization.Finalization(self.api, self.cache, self.deletions)

    def item(self, name="c"):
        return self.api.one("dynamocheckpoints", name)

    async def run(self):
        self.api.fill(self.cache)
        return await self.does.run(self.item())


def going(name="c", spec=None, **status):
    item = fakes.checkpoint(name, deletionTimestamp="2026-01-29T11:00:00Z", finalizers=[FINALIZER])
    item["spec"] |= spec or {}
    return {**item, "status": status}


@pytest.mark.parametrize(
    ("policy", "wanted", "before", "after"),
    [
        (None, True, [], [FINALIZER]),
        ("Delete", True, ["other/one"], ["other/one", FINALIZER]),
        ("Delete", True, [FINALIZER], None),
        ("Retain", True, [FINALIZER, "other/one"], ["other/one"]),
        ("Retain", True, [], None),
        ("Delete", False, [FINALIZER], []),
        ("Delete", False, [], None),
    ],
)
async def test_the_finalizer_follows_the_policy(policy, wanted, before, after):
    item = fakes.checkpoint(finalizers=before)
    if policy:
        item["spec"]["deletionPolicy"] = policy
    world = World(item)
    assert await world.does.mark(world.item(), wanted=wanted) == (after is not None)
    assert world.item()["metadata"]["finalizers"] == (before if after is None else after)
    assert await world.does.mark(world.item(), wanted=wanted) is False


async def test_an_old_copy_takes_no_finalizer_of_others_away():
    world = World(fakes.checkpoint())
    stale = world.item()
    world.api.add("dynamocheckpoints", fakes.checkpoint(finalizers=["other/one"]))
    with pytest.raises(errors.ApiError):
        await world.does.mark(stale, wanted=True)
    assert world.item()["metadata"]["finalizers"] == ["other/one"]


async def test_the_last_one_takes_the_artifacts_with_it():
    world = World(going(variants=[VARIANT]))
    world.deletions.outcome = deletion.Outcome("running", "soon")
    assert (await world.run()).state == "running"
    assert world.item() is not None
    world.deletions.outcome = deletion.Outcome("failed", "no volume")
    assert (await world.run()).message == "no volume"
    world.deletions.outcome = deletion.Outcome("done", "deleted")
    assert await world.run() is None
    assert world.item() is None
    assert world.deletions.asked == [("ns", [fakes.HASH])] * 3


@pytest.mark.parametrize(
    "item",
    [
        going(),
        going(phase="Pending", identityHash=fakes.HASH),
        going(spec={"deletionPolicy": "Retain"}, variants=[VARIANT]),
        going(spec={"identity": {"model": "m"}}, variants=[VARIANT]),
        going(spec={"identity": None}),
        {**going(), "spec": None},
    ],
    ids=["never looked at", "no artifact", "kept", "not an identity", "no identity", "no spec"],
)
async def test_nothing_to_delete(item):
    world = World(item)
    assert await world.run() is None
    assert (world.item(), world.deletions.asked) == (None, [])


async def test_others_go_on_with_the_artifacts():
    world = World(
        going(variants=[VARIANT], garbage=["v/old"]), fakes.checkpoint("second"), going("third")
    )
    assert await world.run() is None
    assert world.deletions.asked == [("ns", [f"{fakes.HASH}/v/old"])]
    world = World(going(variants=[VARIANT]), fakes.checkpoint("second"))
    assert await world.run() is None
    assert world.deletions.asked == []


async def test_one_that_goes_as_well_goes_on_with_nothing():
    world = World(going(variants=[VARIANT]), going("second", variants=[VARIANT]))
    assert await world.run() is None
    assert world.deletions.asked == [("ns", [fakes.HASH])]


async def test_no_artifact_is_deleted_under_a_pod_that_may_write():
    capture = {"variant": "v", "phase": "Creating", "jobName": PLAIN, "jobUID": "j1"}
    world = World(going(captures=[capture]))
    world.api.add("jobs", fakes.job(name=PLAIN))
    world.api.add("pods", fakes.pod_object("p1"))
    assert (await world.run()).message == "its jobs are being stopped"
    assert world.api.one("jobs", PLAIN) is None
    assert world.deletions.asked == []
    # The Job goes at once, its pod has a grace period.
    assert (await world.run()).message == "its jobs are being stopped"
    world.api.objects.pop(("pods", "ns", "pod-p1"))
    assert await world.run() is None
    assert world.deletions.asked == [("ns", [fakes.HASH])]


async def test_the_job_of_another_is_left_alone():
    world = World(going(jobName=PLAIN, variants=[VARIANT]))
    world.api.add("jobs", fakes.job(name=PLAIN, owner="somebody"))
    await world.run()
    assert world.api.one("jobs", PLAIN) is not None


@pytest.mark.parametrize("status", [404, 409])
async def test_a_job_that_is_gone_already(status):
    world = World(going(jobName=PLAIN, variants=[VARIANT]))
    world.api.add("jobs", fakes.job(name=PLAIN))
    world.api.refusals["delete", "jobs"] = errors.ApiError("gone", status=status)
    assert await world.run() is None


async def test_an_object_of_which_somebody_took_the_finalizer_away():
    item = going(variants=[VARIANT])
    item["metadata"]["finalizers"] = ["other/one"]
    world = World(item)
    assert await world.run() is None
    assert world.api.calls == []


def test_when_to_ask_again():
    assert finalization.again_seconds(deletion.Outcome("running", "")) == 1.0
    assert finalization.again_seconds(deletion.Outcome("failed", "")) == 30.0
