"""Deployments and checkpoints that are made of a graph's services."""

import copy

import pytest

from chrek import errors, variant
from chrek.operator import templates, workloads

IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm", "dtype": "bfloat16"}
HASH = "5941a4cb3c363457"
GRAPH = {"metadata": {"name": "my-llm", "namespace": "ns", "uid": "g1"}}
SERVICE = {
    "replicas": 2,
    "extraPodSpec": {
        "mainContainer": {
            "image": "vllm:1",
            "args": ["python3 -m dynamo.vllm --model m"],
            "resources": {"limits": {"memory": "2Gi", "nvidia.com/gpu": "4"}},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        },
        "nodeSelector": {"gpu": "a"},
    },
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
    "envs": [{"name": "B", "value": "3"}],
    "checkpoint": {"enabled": True, "mode": "auto", "identity": IDENTITY},
}


def template(service=SERVICE):
    return workloads.template("my-llm", "VllmWorker", service)


def test_the_pod_of_a_service():
    before = copy.deepcopy(SERVICE)
    pods = template()
    assert before == SERVICE
    (main,) = pods["spec"]["containers"]
    assert main["name"] == "main"
    assert main["command"] == ["/bin/sh", "-c"]
    assert main["args"] == ["python3 -m dynamo.vllm --model m"]
    assert main["resources"] == {"limits": {"memory": "2Gi", "nvidia.com/gpu": "1"}}
    assert main["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}]
    assert pods["spec"]["nodeSelector"] == {"gpu": "a"}
    assert "mainContainer" not in pods["spec"]


@pytest.mark.parametrize(
    ("main", "command", "args"),
    [
        ({"args": ["python3 -m x"]}, ["/bin/sh", "-c"], ["python3 -m x"]),
        ({"args": ["serve"]}, None, ["serve"]),
        ({"args": ["a b", "c"]}, None, ["a b", "c"]),
        ({"command": ["x"], "args": ["a b"]}, ["x"], ["a b"]),
        ({}, None, None),
    ],
)
def test_only_a_lone_command_line_needs_a_shell(main, command, args):
    service = {"extraPodSpec": {"mainContainer": {"image": "i", **main}}}
    made = template(service)["spec"]["containers"][0]
    assert (made.get("command"), made.get("args")) == (command, args)


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({}, "spec.services.VllmWorker.extraPodSpec.mainContainer.image: required"),
        (
            {"extraPodSpec": {"mainContainer": {"image": "i"}, "containers": [{"name": "main"}]}},
            "the name 'main' is that of mainContainer",
        ),
    ],
)
def test_a_service_that_makes_no_pod(service, message):
    with pytest.raises(errors.InputError, match=message):
        template(service)


@pytest.mark.parametrize(
    ("section", "reference", "auto"),
    [
        ({"enabled": True, "identity": IDENTITY}, HASH, True),
        ({"enabled": True, "mode": "Auto", "identity": IDENTITY}, HASH, True),
        ({"enabled": True, "checkpointRef": "llama3-8b-vllm-tp1"}, "llama3-8b-vllm-tp1", False),
        ({"enabled": True, "mode": "Reference", "checkpointRef": HASH}, HASH, False),
    ],
)
def test_modes(section, reference, auto):
    wish = workloads.wish({"checkpoint": section}, "x")
    assert (wish.reference, wish.known is not None) == (reference, auto)


@pytest.mark.parametrize("section", [None, {}, {"enabled": False, "identity": IDENTITY}])
def test_no_checkpoint(section):
    assert workloads.wish({"checkpoint": section}, "x") is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"enabled": True}, "x.identity.model: required"),
        ({"enabled": True, "mode": "reference"}, "x.checkpointRef: required"),
        (
            {"enabled": True, "identity": {"model": "m", "backendFramework": "tgi"}},
            "'tgi' is not one of vllm, sglang, trtllm",
        ),
    ],
)
def test_checkpoint_sections_that_cannot_be_used(section, message):
    with pytest.raises(errors.InputError, match=message):
        workloads.wish({"checkpoint": section}, "x")


def test_older_names_give_the_same_identity():
    older = {"model": "meta-llama/Llama-3-8B", "framework": "vllm", "dtype": "bfloat16"}
    wish = workloads.wish({"checkpoint": {"enabled": True, "identity": older}}, "x")
    assert wish.reference == HASH


@pytest.mark.parametrize(
    ("graph", "service", "name"),
    [
        ("my-llm", "VllmWorker", "my-llm-vllmworker"),
        ("a", "b_c.d", "a-b-c-d"),
        ("g" * 63, "s" * 63, None),
    ],
)
def test_names_of_deployments(graph, service, name):
    made = workloads.deployment_name(graph, service)
    assert len(made) <= 63
    assert name is None or made == name
    assert made != workloads.deployment_name(graph, service + "x")


def test_pods_are_opted_in():
    wish = workloads.wish(SERVICE, "x")
    pods = workloads.with_checkpoint(template(), wish)
    assert pods["metadata"]["annotations"] == {
        "nvidia.com/chrek-checkpoint": HASH,
        "nvidia.com/chrek-container": "main",
    }


def test_pods_whose_command_is_unknown_say_so_and_start_as_they_are():
    err = errors.UnsupportedError("no `command`", reason="CommandUnknown", hint="write it")
    before = template()
    pods = workloads.without_checkpoint(before, err)
    assert pods["spec"] == before["spec"]
    assert "annotations" not in before["metadata"]
    assert pods["metadata"]["annotations"] == {
        "nvidia.com/chrek-skipped": "CommandUnknown: no `command` (write it)"
    }


def current(made, **annotations):
    there = copy.deepcopy(made)
    there["metadata"]["annotations"].update(annotations)
    return there


def test_nothing_is_written_when_nothing_was_asked_anew():
    made = workloads.deployment(GRAPH, "VllmWorker", template(), 2)
    there = current(made, **{"deployment.kubernetes.io/revision": "7"})
    there["spec"]["replicas"] = 9
    assert workloads.changes(there, made) == []


def test_replicas_are_written_only_when_the_graph_changes_them():
    old = workloads.deployment(GRAPH, "VllmWorker", template(), 2)
    scaled = current(old)
    scaled["spec"]["replicas"] = 9
    newer = workloads.deployment(GRAPH, "VllmWorker", template({**SERVICE, "envs": []}), 2)
    paths = [step["path"] for step in workloads.changes(scaled, newer)]
    assert paths == ["/metadata/annotations/nvidia.com~1chrek-template", "/spec/template"]
    more = workloads.deployment(GRAPH, "VllmWorker", template(), 3)
    steps = {step["path"]: step["value"] for step in workloads.changes(scaled, more)}
    assert steps["/spec/replicas"] == 3
    assert "/spec/template" not in steps


def test_the_checkpoint_of_auto_mode():
    wish = workloads.wish(SERVICE, "x")
    made = workloads.checkpoint(GRAPH, "VllmWorker", wish, template())
    assert made["metadata"]["name"] == HASH
    assert made["metadata"]["labels"]["nvidia.com/chrek-auto"] == "true"
    assert made["metadata"]["annotations"] == {"nvidia.com/chrek-made-from": "my-llm/VllmWorker"}
    assert made["spec"]["identity"] == IDENTITY
    pod = made["spec"]["job"]["podTemplateSpec"]["spec"]
    assert pod["containers"] == template()["spec"]["containers"]
    assert "ownerReferences" not in made["metadata"], "graphs share it"
    assert workloads.references({"spec": {"services": {"VllmWorker": SERVICE}}}) == {HASH}


def section(**fields):
    given = {"enabled": True, "identity": IDENTITY, **fields}
    return workloads.wish({**SERVICE, "checkpoint": given}, "x")


def test_the_checkpoint_of_auto_mode_has_the_settings_of_the_service():
    quiesce = {"http": {"port": 8000, "path": "/sleep"}}
    wish = section(
        job={"backoffLimit": 1}, readiness="probe", deletionPolicy="Retain", quiesce=quiesce
    )
    spec = workloads.checkpoint(GRAPH, "VllmWorker", wish, template())["spec"]
    assert (spec["deletionPolicy"], spec["quiesce"]) == ("Retain", quiesce)
    assert spec["job"].pop("podTemplateSpec")
    assert spec["job"] == {"backoffLimit": 1, "readiness": "probe"}


def test_a_serving_pod_needs_no_job():
    wish = section(captureSource="worker")
    assert wish.from_worker
    spec = workloads.checkpoint(GRAPH, "VllmWorker", wish, template())["spec"]
    assert spec == {"identity": IDENTITY, "captureSource": "worker"}


def test_what_is_captured_and_what_runs_are_one_variant():
    wish = section()
    pods = {**template(), "spec": {**template()["spec"], "restartPolicy": "Always"}}
    runs = workloads.with_checkpoint(pods, wish)["spec"]["containers"][0]
    captured = workloads.captured(pods)
    assert "restartPolicy" not in captured["spec"]
    assert templates.wanted(captured).variant == variant.of_container(runs)


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"spec": None},
        {"spec": {"services": None}},
        {"spec": {"services": {"a": None, "b": [], "c": {"checkpoint": "yes"}, "d": {}}}},
        {"spec": {"services": {"a": {"checkpoint": {"enabled": True, "identity": [1]}}}}},
    ],
)
def test_graphs_of_another_kind_refer_to_nothing(graph):
    """The Dynamo platform's own are seen as well."""
    assert workloads.references(graph) == set()


# Services that wait for their checkpoint.


def test_a_service_that_waited_starts_once():
    assert section(startupPolicy="WaitForCheckpoint").waits
    assert not section().waits
    held = workloads.deployment(GRAPH, "VllmWorker", template(), 0)
    assert held["spec"]["replicas"] == 0
    free = workloads.deployment(GRAPH, "VllmWorker", template(), 2, started=True)
    steps = {step["path"]: step["value"] for step in workloads.changes(held, free)}
    assert steps == {
        "/metadata/annotations/nvidia.com~1chrek-replicas": "2",
        "/metadata/annotations/nvidia.com~1chrek-started": "true",
        "/spec/replicas": 2,
    }
    assert workloads.changes(current(free), free) == []
    # A policy that is no longer asked for takes nothing back.
    assert workloads.changes(free, workloads.deployment(GRAPH, "VllmWorker", template(), 2)) == []


def test_a_deployment_without_annotations_is_taken_over_whole():
    made = workloads.deployment(GRAPH, "VllmWorker", template(), 2)
    there = copy.deepcopy(made)
    del there["metadata"]["annotations"]
    steps = workloads.changes(there, made)
    assert steps[0] == {"op": "add", "path": "/metadata/annotations", "value": {}}
    assert {step["path"] for step in steps[1:]} > {"/spec/template", "/spec/replicas"}
