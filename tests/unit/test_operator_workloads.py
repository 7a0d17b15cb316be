"""Deployments and checkpoints that are made of a graph's services."""

import copy

import pytest

from chrek import errors
from chrek.operator import workloads

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
    pods = workloads.with_checkpoint(template(), wish, None)
    assert pods["metadata"]["annotations"] == {
        "nvidia.com/chrek-checkpoint": HASH,
        "nvidia.com/chrek-container": "main",
    }


def test_an_image_alone_takes_the_command_of_the_checkpoint():
    service = {"extraPodSpec": {"mainContainer": {"image": "vllm:1"}}}
    wish = workloads.Wish(known=None, reference="my-ckpt")
    known = workloads.with_checkpoint(template(service), wish, ["python3", "s.py"])
    assert known["spec"]["containers"][0]["command"] == ["python3", "s.py"]
    unknown = workloads.with_checkpoint(template(service), wish, None)
    assert "command" not in unknown["spec"]["containers"][0]
    skipped = unknown["metadata"]["annotations"]["nvidia.com/chrek-skipped"]
    assert skipped.startswith("CommandUnknown: ")
    assert "nvidia.com/chrek-checkpoint" not in unknown["metadata"]["annotations"]


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
    made = workloads.checkpoint("ns", wish, IDENTITY, template())
    assert made["metadata"]["name"] == HASH
    assert made["spec"]["identity"] == IDENTITY
    pod = made["spec"]["job"]["podTemplateSpec"]["spec"]
    assert pod["containers"] == template()["spec"]["containers"]
    assert "ownerReferences" not in made["metadata"], "graphs share it"
    assert HASH in workloads.references({"spec": {"services": {"VllmWorker": SERVICE}}})
