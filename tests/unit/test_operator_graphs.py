"""DynamoGraphDeployments reconciled against an API server in memory."""

import copy

import pytest

from chrek import config, errors
from chrek.operator import cache, conditions, graphs, queue, templates, workloads
from fakes import captures as fakes
from fakes import memory, operator

HASH = fakes.HASH
AUTO = {"enabled": True, "identity": fakes.IDENTITY}
WAITS = {**AUTO, "startupPolicy": "WaitForCheckpoint"}
NAMED = {"enabled": True, "checkpointRef": "my-ckpt"}
WAITS_NAMED = {**NAMED, "startupPolicy": "WaitForCheckpoint"}


class Images:
    def __init__(self):
        self.known = {}

    async def entrypoint(self, namespace, image, secrets):
        if image not in self.known:
            raise errors.UnsupportedError(f"{image}: 401", reason="CommandUnknown")
        return self.known[image], []


def service(section=None, image="llama:1", replicas=2, **fields):
    main = {"image": image, "command": fakes.COMMAND}
    made = {"replicas": replicas, "extraPodSpec": {"mainContainer": main, **fields}}
    return {**made, "checkpoint": section} if section else made


def graph(name="g", **services):
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": f"{name}-uid", "generation": 1},
        "spec": {"services": services},
    }


class World:
    def __init__(self, *items, **platform):
        self.api, self.cache = memory.Api(), cache.Cache()
        self.images, self.templates = Images(), templates.Templates()
        self.woken = []
        for item in items:
            self.api.add("dynamographdeployments", item)
        self.does = graphs.Graphs(
            self.api,
            self.cache,
            operator.SETTINGS,
            wanted=self.templates,
            images=self.images,
            owners=memory.owners(**platform),
            wake=lambda namespace, digest: self.woken.append(digest),
            instance="operator-0",
            clock=lambda: fakes.NOW,
        )

    async def look(self, name="g", *, fresh=True):
        if fresh:
            self.api.fill(self.cache)
        return await self.does.reconcile(queue.Key("graph", "ns", name))

    async def settle(self, name="g"):
        for _ in range(10):
            before = len(self.api.calls)
            await self.look(name)
            if before == len(self.api.calls):
                return self.item(name)["status"]
        raise AssertionError(f"it never comes to rest: {self.api.calls[-6:]}")

    def item(self, name="g"):
        return self.api.one("dynamographdeployments", name)

    def change(self, section=None, **fields):
        self.item()["spec"]["services"]["w"] = service(section, **fields)

    def deployment(self, name="g-w"):
        return self.api.one("deployments", name)

    def checkpoint(self, name=HASH):
        return self.api.one("dynamocheckpoints", name)

    def status(self, name=HASH, **status):
        """What the checkpoint's controller has written."""
        self.checkpoint(name)["status"] = {"identityHash": HASH, **status}

    def ready(self, name=HASH, image="llama:1"):
        variant = {"name": fakes.name_of(image), "uuid": "u", "digest": "d"}
        self.status(name, phase="Ready", variants=[variant])


def replicas(world):
    return world.deployment()["spec"]["replicas"]


def failed(reason="CriuFailed", phase="Failed", image="llama:1"):
    entry = {"variant": fakes.name_of(image), "phase": phase, "reason": reason, "message": "why"}
    return {"phase": phase, "message": "why", "captures": [entry]}


async def test_a_service_in_auto_mode():
    world = World(graph(w=service(AUTO)))
    made = await world.settle()
    assert world.checkpoint()["metadata"]["annotations"] == {"nvidia.com/chrek-made-from": "g/w"}
    annotations = world.deployment()["spec"]["template"]["metadata"]["annotations"]
    assert annotations["nvidia.com/chrek-checkpoint"] == HASH
    assert replicas(world) == 2, "pods start cold while it is made"
    found = made["services"]["w"]
    assert (found["checkpointName"], found["identityHash"], found["ready"]) == (HASH, HASH, False)
    assert found["reason"] == "WaitingForReplicas"
    assert [one.variant for one in world.templates.of("ns", HASH)] == [fakes.name_of()]
    assert world.woken == [HASH]
    world.ready()
    world.deployment()["status"] = {"readyReplicas": 2}
    made = await world.settle()
    assert made["services"]["w"]["ready"] is True
    assert conditions.get(made, "Ready")["status"] == "True"
    assert made["observedGeneration"] == 1
    calls = len(world.api.calls)
    await world.look()
    assert (len(world.api.calls), world.woken) == (calls, [HASH]), "nothing at rest"


async def test_graphs_of_one_identity_share_a_checkpoint():
    world = World(graph(w=service(AUTO)), graph("h", w=service(AUTO, image="llama:2")))
    await world.look("g")
    await world.look("h", fresh=False)
    await world.settle("g")
    await world.settle("h")
    assert len(world.api.of("dynamocheckpoints")) == 1
    assert {one.image for one in world.templates.of("ns", HASH)} == {"llama:1", "llama:2"}


async def test_what_a_deleted_graph_wanted_is_wanted_no_more():
    world = World(graph(w=service(AUTO)))
    await world.settle()
    del world.api.objects["dynamographdeployments", "ns", "g"]
    await world.look()
    assert world.templates.of("ns", HASH) == []
    assert world.woken == [HASH, HASH]


async def test_a_reference_waits_for_what_does_not_exist_yet():
    world = World(graph(w=service(NAMED)))
    made = await world.settle()
    assert made["services"]["w"]["reason"] == "CheckpointNotFound"
    assert "my-ckpt" in made["services"]["w"]["message"]
    assert replicas(world) == 2
    assert world.api.of("dynamocheckpoints") == []
    world.api.add("dynamocheckpoints", fakes.checkpoint("my-ckpt"))
    world.ready("my-ckpt")
    made = await world.settle()
    assert (made["services"]["w"]["ready"], made["services"]["w"]["identityHash"]) == (True, HASH)
    assert world.templates.of("ns", HASH) == [], "its owner says what is captured"


# Services that wait.


async def test_no_pods_before_the_checkpoint_is_ready():
    world = World(graph(w=service(WAITS)))
    made = await world.settle()
    assert replicas(world) == 0
    assert made["services"]["w"]["reason"] == "WaitingForCheckpoint"
    assert conditions.get(made, "Ready")["status"] == "False"
    world.status(phase="Creating", message="a pod starts the worker", captures=[])
    made = await world.settle()
    assert (replicas(world), "a pod starts" in made["services"]["w"]["message"]) == (0, True)
    world.ready()
    await world.settle()
    assert replicas(world) == 2
    # Whatever becomes of the checkpoint: a service that serves is not stopped.
    world.status(phase="Pending", captures=[])
    await world.settle()
    assert replicas(world) == 2
    del world.api.objects["dynamocheckpoints", "ns", HASH]
    await world.settle()
    assert replicas(world) == 2
    world.change(WAITS, image="llama:2")
    await world.settle()
    assert replicas(world) == 2


@pytest.mark.parametrize(
    "status",
    [
        failed(),
        {"phase": "Failed", "message": "spec.identity"},
        {**failed("TooManyVariants", "Pending"), "phase": "Ready"},
        {
            "phase": "Failed",
            "message": "suspect",
            "variants": [{"name": fakes.name_of(), "uuid": "u", "digest": "d", "suspect": True}],
        },
    ],
    ids=["failed", "unusable", "too many", "suspect"],
)
async def test_pods_start_cold_once_it_has_failed(status):
    world = World(graph(w=service(WAITS)))
    await world.settle()
    assert replicas(world) == 0
    world.status(**status)
    made = await world.settle()
    assert replicas(world) == 2
    assert "they start cold, the checkpoint failed" in made["services"]["w"]["message"]


async def test_what_is_captured_from_a_serving_pod_is_not_waited_for():
    world = World(graph(w=service({**WAITS, "captureSource": "worker"})))
    await world.settle()
    assert replicas(world) == 2
    assert world.checkpoint()["spec"] == {"identity": fakes.IDENTITY, "captureSource": "worker"}


async def test_a_reference_to_a_checkpoint_of_other_pods_is_not_waited_for():
    world = World(graph(w=service(WAITS_NAMED, image="llama:2")))
    await world.settle()
    assert replicas(world) == 0, "it does not exist yet"
    world.api.add("dynamocheckpoints", fakes.checkpoint("my-ckpt"))
    world.status("my-ckpt", phase="Creating", captures=[])
    await world.settle()
    assert replicas(world) == 0
    world.ready("my-ckpt")
    await world.settle()
    assert replicas(world) == 2


async def test_a_service_that_serves_is_not_stopped_by_a_new_policy():
    world = World(graph(w=service(AUTO)))
    await world.settle()
    world.change(WAITS)
    await world.settle()
    assert replicas(world) == 2


async def test_an_autoscaler_keeps_what_it_sets_after_the_release():
    world = World(graph(w=service(WAITS)))
    await world.settle()
    world.ready()
    await world.settle()
    world.deployment()["spec"]["replicas"] = 7
    world.change(WAITS, nodeSelector={"a": "b"})
    await world.settle()
    assert replicas(world) == 7


# The checkpoint of auto mode follows its service while that helps.


@pytest.mark.parametrize(
    ("status", "followed"),
    [
        (failed(), True),
        ({"phase": "Pending", "reason": "WaitingForResources"}, True),
        ({"phase": "Pending", "reason": "PodRefused"}, True),
        ({"phase": "Pending", "reason": "WaitingForPod"}, False),
        ({"phase": "Creating", "reason": "Capturing"}, False),
        ({"phase": "Ready", "reason": "Checkpointed"}, False),
    ],
)
async def test_a_corrected_service_corrects_its_checkpoint(status, followed):
    world = World(graph(w=service(AUTO)))
    await world.settle()
    why = status.pop("reason", "CriuFailed")
    ready = conditions.with_condition(
        {}, "Ready", value=False, reason=why, message="", now=fakes.NOW
    )
    world.status(**status, **ready)
    world.change(AUTO, nodeSelector={"gpu": "a"})
    await world.settle()
    spec = world.checkpoint()["spec"]["job"]["podTemplateSpec"]["spec"]
    assert ("nodeSelector" in spec) == followed


async def test_the_checkpoint_of_another_is_not_corrected():
    world = World(graph(w=service(AUTO)), graph("h", w=service(AUTO, nodeSelector={"a": "b"})))
    await world.settle()
    before = copy.deepcopy(world.checkpoint()["spec"])
    world.status(**failed())
    await world.settle("h")
    assert world.checkpoint()["spec"] == before


# Images without a command.


async def test_the_command_of_an_image_is_looked_up():
    only = {"replicas": 1, "extraPodSpec": {"mainContainer": {"image": "i"}}, "checkpoint": AUTO}
    world = World(graph(w=only))
    made = await world.settle()
    assert made["services"]["w"]["reason"] == "CommandUnknown"
    assert await world.look() == graphs.LOOK_UP_SECONDS
    pod = world.deployment()["spec"]["template"]
    assert pod["metadata"]["annotations"]["nvidia.com/chrek-skipped"].startswith("CommandUnknown")
    assert world.checkpoint() is None
    world.images.known["i"] = ["python3", "s.py"]
    await world.settle()
    main = world.deployment()["spec"]["template"]["spec"]["containers"][0]
    assert main["command"] == ["python3", "s.py"]
    assert world.checkpoint()


# Deployments.


async def test_services_that_are_gone():
    world = World(graph(w=service(AUTO), other=service()))
    await world.settle()
    assert world.deployment("g-other")
    del world.item()["spec"]["services"]["other"]
    made = await world.settle()
    assert world.deployment("g-other") is None
    assert made["services"].keys() == {"w"}


async def test_reasons_that_are_gone_leave_the_status():
    world = World(graph(w=service(AUTO)))
    labels = workloads.labels("g", "w")
    world.api.add("pods", fakes.pod_object("p", source=False, labels=labels, start={
        "outcome": "cold", "reason": "AgentBusy"}))  # fmt: skip
    made = await world.settle()
    assert made["services"]["w"]["coldReasons"] == {"AgentBusy": 1}
    world.api.add("pods", fakes.pod_object("p", source=False, labels=labels, start={
        "outcome": "restored", "reason": "Restored"}))  # fmt: skip
    made = await world.settle()
    assert "coldReasons" not in made["services"]["w"]
    assert (made["services"]["w"]["restored"], made["services"]["w"]["cold"]) == (1, 0)


async def test_two_services_of_one_name():
    world = World(graph(**{"a-b": service(), "a_b": service()}))
    made = await world.settle()
    assert sorted(e["reason"] for e in made["services"].values()) == [
        "NameTaken",
        "WaitingForReplicas",
    ]
    assert len(world.api.of("deployments")) == 1


async def test_a_deployment_that_belongs_to_something_else():
    world = World(graph(w=service()))
    mine = workloads.deployment(graph("other"), "w", {"metadata": {}, "spec": {}}, 1)
    mine["metadata"] |= {"name": "g-w"}
    world.api.add("deployments", mine, uid="d")
    made = await world.settle()
    assert made["services"]["w"]["reason"] == "NameTaken"
    assert conditions.get(made, "Ready")["status"] == "False"


@pytest.mark.parametrize("status", [400, 422])
async def test_a_pod_spec_that_the_server_does_not_take(status):
    world = World(graph(w=service()))
    refusal = errors.ApiError("nodeSelector: Invalid", status=status)
    world.api.refusals["create", "deployments"] = refusal
    made = await world.settle()
    assert made["services"]["w"]["reason"] == "InvalidSpec"
    assert world.api.events == [
        ("Warning", "InvalidSpec", "service w: extraPodSpec: nodeSelector: Invalid")
    ]


async def test_an_operator_that_is_killed_makes_nothing_twice():
    world = World(graph(w=service(AUTO), x=service(AUTO, image="llama:2")))
    await world.look()
    with pytest.raises(errors.ApiError) as caught:
        await world.look(fresh=False)
    assert caught.value.status == 409
    made = await world.settle()
    assert len([c for c in world.api.calls if c[0] == "create"]) == 3
    assert made["services"].keys() == {"w", "x"}


async def test_the_platform_s_graphs_are_left_alone():
    world = World(graph(w=service(AUTO)), policy=config.Platform(graphs="platform"))
    assert await world.look() is None
    assert world.api.calls == []
    assert world.templates.complete([("ns", "g")])
