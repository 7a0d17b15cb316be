"""DynamoCheckpoints reconciled against an API server in memory."""

import contextlib
import datetime
import json

import msgspec
import pytest

from chrek import config, errors
from chrek.operator import (
    cache,
    checkpoints,
    conditions,
    controllers,
    deletion,
    housekeeper,
    jobs,
    metrics,
    queue,
    templates,
)
from fakes import captures as fakes
from fakes import memory, operator

HASH = fakes.HASH
PLAIN = f"checkpoint-{HASH}"
A = fakes.name_of()
SETTINGS = msgspec.structs.replace(operator.SETTINGS, deletionJobPath="/etc/chrek/job.yaml")


class Images:
    """What images run; none is known unless it was put here."""

    def __init__(self):
        self.commands = {}

    async def entrypoint(self, namespace, image, secrets):
        if image not in self.commands:
            raise errors.UnsupportedError(f"{image}: 401", reason="CommandUnknown")
        return self.commands[image], []


class World:
    def __init__(self, *items, settings=SETTINGS, **platform):
        self.api, self.deletions, self.cache = memory.Api(), memory.Deletions(), cache.Cache()
        self.images, self.templates = Images(), templates.Templates()
        self.owners = memory.owners(**platform)
        self.now = fakes.NOW
        self.settings = settings
        self.woken = []
        for item in items:
            self.api.add("dynamocheckpoints", item)
        self.restart()

    def restart(self):
        self.keeper = housekeeper.Housekeeper(
            self.cache,
            self.settings,
            wanted=self.templates,
            owners=self.owners,
            wake=lambda *key: self.woken.append(key),
            clock=lambda: self.now,
        )
        self.does = checkpoints.Checkpoints(
            self.api,
            self.cache,
            self.settings,
            wanted=self.templates,
            images=self.images,
            deletions=self.deletions,
            owners=self.owners,
            keeper=self.keeper,
            own="ns",
            instance="operator-0",
            clock=lambda: self.now,
        )

    async def look(self, name="c", *, fresh=True):
        if fresh:
            self.api.fill(self.cache)
        return await self.does.reconcile(queue.Key("checkpoint", "ns", name))

    async def settle(self, *names, most=30):
        """Reconcile until nothing is written; returns the status of the first."""
        names = names or ("c",)
        for _ in range(most):
            before = len(self.api.calls)
            for name in names:
                await self.look(name)
            if before == len(self.api.calls):
                return self.status(names[0])
        raise AssertionError(f"it never comes to rest: {self.api.calls[-6:]}")

    def item(self, name="c"):
        return self.api.one("dynamocheckpoints", name)

    def status(self, name="c"):
        item = self.item(name)
        return item and item.get("status", {})

    def job(self, name=PLAIN):
        return self.api.one("jobs", name)

    def pod(self, uid="p1", job=PLAIN, **fields):
        owner = self.job(job)["metadata"]["uid"]
        self.api.add("pods", fakes.pod_object(uid, owner=owner, **fields))

    def end(self, kind="Complete", job=PLAIN):
        found = self.job(job)
        found["status"] = fakes.job(kind)["status"]

    async def capture(self, uuid="u-1", *names, job=PLAIN, image="llama:1"):
        await self.settle(*names)
        self.pod(f"p-{uuid}", job, image=image)
        await self.settle(*names)
        result = fakes.success(uuid, image)
        self.pod(f"p-{uuid}", job, image=image, phase="Succeeded", result=result)
        self.end(job=job)
        return await self.settle(*names)


def told(status):
    return status["phase"], conditions.get(status, "Ready")["reason"]


async def test_a_life():
    world = World(fakes.checkpoint())
    made = await world.capture()
    assert told(made) == ("Ready", "Checkpointed")
    assert world.item()["metadata"]["finalizers"] == ["nvidia.com/chrek"]
    job = world.job()
    assert job["metadata"]["ownerReferences"][0]["uid"] == "c-uid"
    capture = job["spec"]["template"]["metadata"]["annotations"]["nvidia.com/chrek-capture"]
    assert json.loads(capture)["checkpoint"] == "c"
    assert [call[:2] for call in world.api.calls] == [
        ("patch", "dynamocheckpoints"),
        ("patch", "dynamocheckpoints/status"),
        ("create", "jobs"),
        *[("patch", "dynamocheckpoints/status")] * 2,
    ]
    told_of = [(kind, reason) for kind, reason, _ in world.api.events]
    assert told_of == [("Normal", "Checkpointed")], "the ordinary course is told when it ends"
    await world.look()
    assert len(world.api.calls) == 5, "none at rest"


@pytest.mark.parametrize("step", range(1, 7))
async def test_an_operator_killed_at_any_write_goes_on(step):
    world = World(fakes.checkpoint())
    left = step

    def kill():
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    check = world.api._check
    world.api._check = lambda verb, plural: (kill(), check(verb, plural))
    with contextlib.suppress(KeyboardInterrupt):
        for _ in range(10):
            await world.look()
            if world.job() and not world.api.of("pods"):
                world.pod()
            elif world.api.of("pods"):
                world.pod(phase="Succeeded", result=fakes.success())
                world.end()
    world.api._check = check
    assert left == 0, "it was killed"
    world.restart()
    await world.settle()
    made = world.status() if world.api.of("pods") else await world.capture()
    if made["phase"] != "Ready":
        made = await world.capture()
    assert told(made) == ("Ready", "Checkpointed")
    assert [c for c in world.api.calls if c[:2] == ("create", "jobs")] == [
        ("create", "jobs", PLAIN)
    ]


async def test_nothing_is_done_on_an_old_copy():
    world = World(fakes.checkpoint())
    await world.look()
    await world.look()
    await world.look()
    assert world.job()
    await world.look(fresh=False)
    assert len(world.api.of("jobs")) == 1
    world.api.fill(world.cache)
    world.api.one("dynamocheckpoints", "c")["metadata"]["resourceVersion"] = "999"
    world.pod()
    # The pod is seen, the newer checkpoint is not.
    stale = world.cache.checkpoints, world.cache.checkpoints_by_hash
    world.api.fill(world.cache)
    world.cache.checkpoints, world.cache.checkpoints_by_hash = stale
    with pytest.raises(errors.ApiError) as caught:
        await world.look(fresh=False)
    assert caught.value.status == 409


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"spec": {"identity": {"model": "m"}}}, "InvalidSpec"),
        ({"spec": {}}, "InvalidSpec"),
        ({"spec": None}, "InvalidSpec"),
        ({"spec": {"identity": "llama"}}, "InvalidSpec"),
    ],
)
async def test_objects_that_cannot_be_read(item, reason):
    """Another chart's CRD may let them in."""
    world = World({**fakes.checkpoint(), **item})
    assert told(await world.settle()) == ("Failed", reason)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}, "Container"),
        ({"containers": [{"name": "main", "image": "unknown"}]}, "CommandUnknown"),
        ({"hostNetwork": True}, "HostNamespace"),
    ],
)
async def test_templates_that_cannot_be_captured(spec, reason):
    template = {"spec": {**fakes.template()["spec"], **spec}}
    world = World(fakes.checkpoint(job={"podTemplateSpec": template}))
    made = await world.settle()
    assert made["phase"] == "Failed"
    assert conditions.get(made, "Ready")["reason"].startswith(reason)
    assert world.job() is None
    assert world.api.events[-1][0] == "Warning"


async def test_a_command_of_an_image():
    template = {"spec": {"containers": [{"name": "main", "image": "known"}]}}
    world = World(fakes.checkpoint(job={"podTemplateSpec": template}))
    world.images.commands["known"] = ["python3", "s.py"]
    await world.settle()
    command = world.job()["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[-2:] == ["python3", "s.py"]


async def test_a_registry_that_is_away_for_a_while():
    template = {"spec": {"containers": [{"name": "main", "image": "llama:1"}]}}
    world = World(fakes.checkpoint(job={"podTemplateSpec": template}))
    assert told(await world.settle()) == ("Failed", "CommandUnknown")
    assert await world.look() == checkpoints.LOOK_UP_SECONDS
    world.images.commands["llama:1"] = fakes.COMMAND
    made = await world.capture()
    assert told(made) == ("Ready", "Checkpointed")
    world.images.commands.clear()
    assert await world.settle() == made
    assert await world.look() == checkpoints.LOOK_UP_SECONDS
    # What is new cannot be captured.
    template["spec"]["containers"][0]["image"] = "llama:2"
    world.item()["spec"]["job"]["podTemplateSpec"] = template
    world.item()["metadata"]["generation"] = 2
    assert told(await world.settle()) == ("Failed", "CommandUnknown")


# What the API server says of the Job.


async def test_pods_that_are_not_admitted():
    world = World(fakes.checkpoint())
    world.api.refusals["dry-run", "pods"] = errors.ApiError("violates PodSecurity", status=403)
    made = await world.settle()
    assert told(made) == ("Pending", "PodRefused")
    assert "violates PodSecurity" in made["message"]
    assert await world.look() == checkpoints.REFUSED_SECONDS
    assert world.job() is None
    world.api.refusals.clear()
    assert (await world.capture())["phase"] == "Ready"


async def test_webhooks_that_answer_no_dry_run():
    world = World(fakes.checkpoint())
    world.api.refusals["dry-run", "pods"] = errors.ApiError("no dry run", status=400)
    await world.settle()
    assert world.job()


@pytest.mark.parametrize("verb", [("dry-run", "pods"), ("create", "jobs")])
async def test_a_template_that_the_server_does_not_take(verb):
    world = World(fakes.checkpoint())
    world.api.refusals[verb] = errors.ApiError("spec.nodeName: Invalid", status=422)
    made = await world.settle()
    assert told(made) == ("Failed", "InvalidSpec")
    assert "spec.job.podTemplateSpec: spec.nodeName: Invalid" in made["message"]
    world.api.refusals.clear()
    await world.settle()
    assert world.job() is None, "not before it is corrected"
    world.item()["spec"]["job"]["podTemplateSpec"] = fakes.template(nodeSelector={"a": "b"})
    await world.settle()
    assert world.job()


async def test_a_server_that_does_not_answer():
    world = World(fakes.checkpoint())
    world.api.refusals["create", "jobs"] = errors.ApiError("no answer", status=0)
    with pytest.raises(errors.ApiError):
        await world.settle()
    assert "no answer" in world.status()["message"]
    world.api.refusals.clear()
    assert (await world.capture())["phase"] == "Ready"


async def test_a_job_of_that_name_that_is_not_ours():
    world = World(fakes.checkpoint())
    world.api.add("jobs", fakes.job(name=PLAIN, owner="somebody"))
    made = await world.settle()
    assert told(made) == ("Pending", "NameTaken")
    assert await world.look() == checkpoints.TAKEN_SECONDS
    del world.api.objects["jobs", "ns", PLAIN]
    assert (await world.capture())["phase"] == "Ready"


async def test_a_job_that_goes_while_its_name_is_asked_for():
    world = World(fakes.checkpoint())
    world.api.refusals["create", "jobs"] = errors.ApiError("exists", status=409)
    await world.settle()
    assert await world.look() == checkpoints.GONE_SECONDS


async def test_a_deadline_lets_the_job_try_no_more():
    world = World(fakes.checkpoint())
    await world.settle()
    world.pod()
    await world.settle()
    world.pod(phase="Failed", why="DeadlineExceeded")
    assert told(await world.settle()) == ("Failed", "DeadlineExceeded")
    assert world.job()["spec"]["backoffLimit"] == 0


async def test_a_retry_replaces_the_job():
    world = World(fakes.checkpoint())
    await world.settle()
    first = jobs.attempt(world.job())
    world.pod(phase="Failed", result=fakes.CRIU)
    await world.settle()
    world.end("Failed")
    assert told(await world.settle()) == ("Failed", "CriuFailed")
    world.item()["metadata"]["annotations"] = {"chrek.nvidia.com/retry": "1"}
    await world.settle()
    assert jobs.attempt(world.job()) != first
    assert [c[0] for c in world.api.calls if c[1] == "jobs"] == ["create", "delete", "create"]
    assert (await world.capture("u-2"))["phase"] == "Ready"


# Several checkpoints of one identity.


def second(**fields):
    return fakes.checkpoint("second", creationTimestamp="2026-01-29T11:00:00Z", **fields)


async def test_one_artifact_for_an_identity():
    world = World(fakes.checkpoint(), second())
    await world.capture("u-1", "c", "second")
    assert told(world.status("second")) == ("Ready", "Checkpointed")
    assert conditions.get(world.status("second"), "SharedWith")
    assert world.status("second")["variants"] == world.status()["variants"]
    assert len(world.api.of("jobs")) == 1


async def test_the_next_one_takes_over():
    world = World(fakes.checkpoint(), second())
    await world.capture("u-1", "c", "second")
    await world.api.delete("v", "dynamocheckpoints", "ns", "c")
    await world.settle("c", "second")
    assert world.item() is None
    assert world.deletions.asked == []
    made = world.status("second")
    assert told(made) == ("Ready", "Checkpointed")
    assert conditions.get(made, "SharedWith") is None
    assert made["variants"][0]["uuid"] == "u-1"
    await world.api.delete("v", "dynamocheckpoints", "ns", "second")
    await world.settle("second")
    assert world.deletions.asked == [("ns", [HASH])]


async def test_the_template_of_the_second_is_captured_too():
    job = {"podTemplateSpec": fakes.template("llama:2")}
    world = World(fakes.checkpoint(), second(job=job))
    await world.settle("c", "second")
    assert world.status("second")["phase"] == "Pending"
    name = f"{PLAIN}-{fakes.name_of('llama:2')[:8]}"
    await world.capture("u-2", "c", "second", job=name, image="llama:2")
    assert world.status("second")["phase"] == "Ready"
    assert world.status("c")["phase"] == "Pending"


async def test_an_older_one_that_is_seen_later():
    """Created in the same second, the name decides; the Job's name must become free."""
    world = World(fakes.checkpoint("z"))
    await world.settle("z")
    assert world.job()["metadata"]["ownerReferences"][0]["name"] == "z"
    world.api.add("dynamocheckpoints", fakes.checkpoint("c"))
    await world.settle("z", "c")
    assert world.job()["metadata"]["ownerReferences"][0]["name"] == "c"
    await world.capture("u-1", "c", "z")
    assert world.status("z")["phase"] == world.status("c")["phase"] == "Ready"


async def test_an_older_one_with_an_unusable_spec():
    broken = {"spec": {"containers": [{"name": "main", "image": "unknown"}]}}
    world = World(fakes.checkpoint(job={"podTemplateSpec": broken}), second())
    await world.settle("c", "second")
    assert told(world.status("second")) == ("Failed", "CommandUnknown")
    await world.api.delete("v", "dynamocheckpoints", "ns", "c")
    await world.settle("c", "second")
    assert world.status("second")["phase"] == "Pending"
    assert world.job()


# Graphs and pods that want variants.


async def test_a_graph_s_template_is_another_variant():
    world = World(fakes.checkpoint())
    await world.capture()
    world.templates.put(("ns", "g"), {HASH: [fakes.wanted("llama:2")]})
    await world.settle()
    made = await world.capture("u-2", image="llama:2")
    assert [v["uuid"] for v in made["variants"]] == ["u-2", "u-1"]


async def test_a_restarted_operator_waits_for_the_graphs():
    world = World(fakes.checkpoint())
    await world.capture()
    graph = {"metadata": {"namespace": "ns", "name": "g"}, "spec": {}}
    world.api.add("dynamographdeployments", graph)
    world.templates.put(("ns", "g"), {HASH: [fakes.wanted("llama:2")]})
    before = await world.settle()
    assert world.job()
    world.templates = templates.Templates()
    world.restart()
    assert await world.settle() == before
    assert await world.look() is not None, "it looks again"
    world.templates.put(("ns", "g"), {})
    assert "captures" not in await world.settle()
    assert world.job() is None


def worker(uid="w", **fields):
    annotations = {"nvidia.com/chrek-identity": json.dumps(fakes.IDENTITY)}
    start = {"outcome": "cold", "reason": "NoMatchingVariant"}
    return fakes.pod_object(
        uid, source=False, start=start, annotations=annotations, ready=True, **fields
    )


async def test_a_serving_pod_of_another_image_is_another_variant():
    world = World(fakes.checkpoint(auto=True))
    await world.capture()
    world.api.add("pods", worker(image="llama:2"))
    await world.settle()
    container = world.job()["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "llama:2"
    assert container["command"].count("/chrek/chrek-init") == 1


async def test_a_serving_pod_is_captured_in_place():
    world = World(fakes.checkpoint(spec={"captureSource": "worker"}))
    assert told(await world.settle()) == ("Pending", "WaitingForWorker")
    world.api.add("pods", worker())
    made = await world.settle()
    assert made["captures"][0]["pods"] == [{"name": "pod-w", "uid": "w"}]
    world.api.add("pods", worker(result=fakes.success()))
    made = await world.settle()
    assert told(made) == ("Ready", "Checkpointed")
    assert world.api.of("jobs") == []


# Artifacts that go, and the end.


async def test_garbage_is_deleted_and_forgotten():
    world = World(fakes.checkpoint(auto=True))
    await world.capture()
    lost = {"outcome": "cold", "reason": "ArtifactMissing", "uuid": "u-1"}
    world.api.add("pods", fakes.pod_object("w", source=False, start=lost))
    await world.settle()
    world.now += datetime.timedelta(seconds=31)
    await world.settle()
    world.deletions.outcome = deletion.Outcome("running", "soon")
    made = await world.capture("u-2")
    assert made["garbage"] == [f"{A}/u-1"]
    assert await world.look() == 1.0
    world.deletions.outcome = deletion.Outcome("failed", "no volume")
    assert await world.look() == 30.0
    world.deletions.outcome = deletion.Outcome("done", "deleted")
    assert "garbage" not in await world.settle()
    assert set(map(str, world.deletions.asked)) == {str(("ns", [f"{HASH}/{A}/u-1"]))}


# Housekeeping.


def limited(*items, **limits):
    housekeeping = config.Housekeeping(**limits)
    return World(*items, settings=msgspec.structs.replace(SETTINGS, housekeeping=housekeeping))


async def kept_house(world, *names, seconds=60):
    """A minute passes, housekeeping looks, and what it woke comes to rest."""
    world.now += datetime.timedelta(seconds=seconds)
    world.api.fill(world.cache)
    await world.keeper.reconcile(controllers.HOUSEKEEPING)
    return await world.settle(*names)


def pruned(rule):
    labels = {"reason": rule}
    found = metrics.REGISTRY.get_sample_value("chrek_operator_pruned_artifacts_total", labels)
    return found or 0.0


async def test_an_unused_artifact_is_pruned_with_an_event_and_made_again_when_it_is_wanted():
    world = limited(fakes.checkpoint(auto=True), unusedSeconds=86400)
    await world.capture()
    assert told(await kept_house(world)) == ("Ready", "Checkpointed")
    before, counted = len(world.api.calls), pruned("unused")
    made = await kept_house(world, seconds=86400)
    assert told(made) == ("Pending", "Pruned")
    assert world.deletions.asked == [("ns", [f"{HASH}/{A}/u-1"])]
    assert "garbage" not in made
    assert [call[:2] for call in world.api.calls[before:]] == [
        ("patch", "dynamocheckpoints/status"),
        ("patch", "dynamocheckpoints/status"),
    ]
    (_, _, note) = world.api.events[-1]
    assert world.api.events[-1][:2] == ("Normal", "Pruned")
    assert note.startswith(f"variant {A}, 3.0Gi: not used since 2026-01-29T10:05:00Z")
    assert [reason for _, reason, _ in world.api.events] == ["Checkpointed", "Pruned"]
    assert pruned("unused") == counted + 1
    calls = len(world.api.calls)
    await kept_house(world, seconds=86400)
    assert len(world.api.calls) == calls, "none at rest"
    world.api.add("pods", fakes.pod_object("w", source=False))
    assert (await world.capture("u-2"))["phase"] == "Ready"


async def test_all_checkpoints_of_an_identity_say_that_it_is_gone():
    world = limited(fakes.checkpoint(auto=True), second(auto=True), unusedSeconds=86400)
    await world.capture("u-1", "c", "second")
    await kept_house(world, "c", "second", seconds=86460)
    assert told(world.status("second")) == ("Pending", "Pruned")
    assert "variants" not in world.status("second")


async def test_a_checkpoint_of_a_user_s_own_stays_ready():
    world = limited(fakes.checkpoint(), unusedSeconds=60, maxBytes=1)
    made = await world.settle()
    assert await world.look() is not None, "not before the first look at the store"
    await kept_house(world)
    await world.capture()
    made = await kept_house(world, seconds=86400 * 365)
    assert told(made) == ("Ready", "Checkpointed")
    assert world.deletions.asked == []


async def test_a_prune_that_cannot_be_written_is_tried_again():
    world = limited(fakes.checkpoint(auto=True), unusedSeconds=60)
    await world.capture()
    world.api.refusals["patch", "dynamocheckpoints"] = errors.ApiError("too old", status=409)
    counted = pruned("unused")
    with pytest.raises(errors.ApiError):
        await kept_house(world, seconds=120)
    assert (pruned("unused"), [reason for _, reason, _ in world.api.events]) == (
        counted, ["Checkpointed"],
    )  # fmt: skip
    world.api.refusals.clear()
    assert told(await world.settle()) == ("Pending", "Pruned")


async def test_a_capture_waits_until_there_is_room():
    world = limited(fakes.checkpoint(), maxBytes=3 << 30)
    await kept_house(world)
    await world.capture()
    other = fakes.checkpoint("d")
    other["spec"] = {**other["spec"], "identity": {**fakes.IDENTITY, "model": "other"}}
    world.api.add("dynamocheckpoints", other)
    made = await kept_house(world, "d")
    assert told(made) == ("Pending", "StoreNearlyFull")
    assert "3.0Gi of 3.0Gi" in made["message"]
    assert world.api.events[-1][:2] == ("Normal", "StoreNearlyFull")
    calls, world.woken[:] = len(world.api.calls), []
    await kept_house(world, "d")
    assert len(world.api.calls) == calls, "none at rest"
    assert world.woken == [("ns", made["identityHash"])], "it is looked at each minute"
    await world.api.delete("v", "dynamocheckpoints", "ns", "c")
    await world.settle("c")
    made = await kept_house(world, "d")
    assert told(made) == ("Pending", "WaitingForPod")
    assert world.job(made["jobName"])


async def test_the_end():
    world = World(fakes.checkpoint())
    await world.capture()
    await world.api.delete("v", "dynamocheckpoints", "ns", "c")
    world.deletions.outcome = deletion.Outcome("failed", "no volume")
    assert await world.look() == 30.0
    assert world.api.events[-1][:2] == ("Warning", "DeletionFailed")
    world.deletions.outcome = deletion.Outcome("done", "deleted")
    await world.settle()
    assert world.item() is None
    assert await world.look() is None


async def test_without_a_deletion_job_there_is_no_finalizer():
    world = World(fakes.checkpoint(), settings=operator.SETTINGS)
    await world.capture()
    assert not world.item()["metadata"].get("finalizers")


async def test_the_platform_s_checkpoints_are_left_alone():
    policy = config.Platform(checkpoints="platform")
    world = World(fakes.checkpoint(), policy=policy)
    assert await world.look() is None
    assert (world.api.calls, world.api.events) == ([], [])
