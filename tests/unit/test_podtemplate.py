"""A template made of a pod: nothing of chrek, the kubelet or the scheduler is left in it."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import podtemplate, variant
from chrek.operator import place, podshape

WHERE = place.Place("pvc", "/checkpoints")


def injected(spec, index=0, *, source=False):
    """The spec as the webhook makes it."""
    return podshape.shape(
        spec,
        index=index,
        command=variant.worker_command(spec["containers"][index]),
        arguments=["--source", "--wait", "300"] if source else ["--wait", "20"],
        environment=podshape.environment(WHERE, identity_hash="5941a4cb3c363457", source=source),
        image="chrek-init:1",
        pull_policy="IfNotPresent",
    )


def started(spec):
    """The spec as API server, admission and scheduler complete it."""
    made = copy.deepcopy(spec)
    token = {"name": "kube-api-access-x7k2p", "mountPath": "/var/run/secrets", "readOnly": True}
    for container in [*made["containers"], *made.get("initContainers", [])]:
        container["volumeMounts"] = [*container.get("volumeMounts", []), token]
    made["volumes"] = [
        *made.get("volumes", []),
        {"name": "kube-api-access-x7k2p", "projected": {"sources": []}},
    ]
    made["tolerations"] = made.get("tolerations", []) + [
        {
            "key": f"node.kubernetes.io/{taint}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 300,
        }
        for taint in ("not-ready", "unreachable")
    ]
    return {
        **made,
        "nodeName": "node-1",
        "enableServiceLinks": True,
        "overhead": {"cpu": "1"},
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "restartPolicy": "Always",
        "schedulingGates": [],
        "securityContext": {},
        "serviceAccount": "default",
        "serviceAccountName": "default",
        "ephemeralContainers": [{"name": "debugger"}],
    }


MAIN = {
    "name": "main",
    "image": "llama:1",
    "command": ["python3", "-m", "s", "--", "--x"],
    "env": [{"name": "A", "value": "1"}],
    "volumeMounts": [{"name": "models", "mountPath": "/models"}],
}
SPEC = {
    "containers": [MAIN, {"name": "proxy", "image": "proxy:1"}],
    "initContainers": [{"name": "first", "image": "first:1"}],
    "volumes": [{"name": "models", "emptyDir": {}}],
    "priorityClassName": "high",
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
}


def test_a_pod_that_runs_becomes_what_its_owner_wrote():
    pod = {
        "metadata": {
            "name": "web-0",
            "labels": {"app": "x"},
            "annotations": {
                "prometheus.io/scrape": "true",
                "nvidia.com/chrek-checkpoint": "5941a4cb3c363457",
                "nvidia.com/chrek-container": "main",
                "nvidia.com/chrek-nccl": "keep",
                "chrek.nvidia.com/retry": "1",
                "cni.projectcalico.org/podIP": "10.0.0.1",
                "kubectl.kubernetes.io/restartedAt": "now",
            },
        },
        "spec": started(injected(SPEC)),
        "status": {"phase": "Running"},
    }
    before = copy.deepcopy(pod)
    assert podtemplate.from_pod(pod) == {
        "metadata": {
            "annotations": {
                "prometheus.io/scrape": "true",
                "nvidia.com/chrek-container": "main",
                "nvidia.com/chrek-nccl": "keep",
            }
        },
        "spec": SPEC,
    }
    assert pod == before, "the argument is not changed"


def test_a_checkpoint_job_s_pod_as_well():
    pod = {"metadata": {}, "spec": started(injected(SPEC, source=True))}
    assert podtemplate.from_pod(pod) == {"metadata": {}, "spec": SPEC}


def test_the_command_line_is_whole():
    container = {"name": "main", "image": "i", "command": ["python3"], "args": ["s.py", "--x"]}
    pod = {"spec": injected({"containers": [container]})}
    made = podtemplate.from_pod(pod)["spec"]["containers"][0]
    assert made == {"name": "main", "image": "i", "command": ["python3", "s.py", "--x"]}


def test_a_template_is_only_rid_of_what_was_added():
    template = {
        "metadata": {"annotations": {"a": "b"}, "labels": {"app": "x"}},
        "spec": {**SPEC, "restartPolicy": "Always", "hostname": "h"},
    }
    made = podtemplate.from_template(template)
    assert made == {"metadata": {"annotations": {"a": "b"}}, "spec": {**SPEC, "hostname": "h"}}


def test_what_carries_our_names_in_a_pod_that_was_not_injected_is_its_owners():
    spec = {
        "containers": [
            {
                "name": "main",
                "image": "i",
                "args": ["x"],
                "env": [{"name": "DYN_CHECKPOINT_PATH", "value": "/mine"}],
                "volumeMounts": [{"name": "chrek", "mountPath": "/data"}],
            }
        ],
        "volumes": [{"name": "chrek", "emptyDir": {}}],
    }
    assert podtemplate.from_pod({"spec": spec}) == {"metadata": {}, "spec": spec}


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("StatefulSet", False), ("Job", False), ("ReplicaSet", True)],
)
def test_names_that_a_controller_gave(kind, kept):
    pod = {
        "metadata": {"name": "web-0", "ownerReferences": [{"kind": kind, "controller": True}]},
        "spec": {"containers": [MAIN], "hostname": "web-0", "subdomain": "web"},
    }
    spec = podtemplate.from_pod(pod)["spec"]
    assert ("hostname" in spec, "subdomain" in spec) == (kept, kept)


@pytest.mark.parametrize(
    "field",
    [
        {"serviceAccountName": "worker"},
        {"enableServiceLinks": False},
        {"securityContext": {"runAsUser": 1000}},
        {"priorityClassName": "high"},
        {"runtimeClassName": "nvidia"},
        {"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]},
        {"imagePullSecrets": [{"name": "registry"}]},
        {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}]},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_the_owner_may_have_meant_stays(field):
    spec = {"containers": [MAIN], **field}
    assert podtemplate.from_pod({"spec": spec})["spec"] == spec


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
ARGV = st.lists(st.one_of(WORDS, st.sampled_from(["--", "-c", "python3"])), max_size=5)
NAMES = st.sampled_from(["A", "PATH", "DYN_CHECKPOINT_HASH", "DYNAMO_CHECKPOINT_PATH"])
CONTAINER = st.fixed_dictionaries(
    {"image": WORDS, "command": ARGV.filter(bool)},
    optional={
        "args": ARGV,
        "env": st.lists(st.fixed_dictionaries({"name": NAMES, "value": WORDS}), max_size=3),
        "volumeMounts": st.lists(
            st.fixed_dictionaries({"name": WORDS, "mountPath": WORDS}), max_size=2
        ),
    },
)
SPECS = st.fixed_dictionaries(
    {"containers": st.lists(CONTAINER, min_size=1, max_size=3)},
    optional={
        "initContainers": st.lists(st.fixed_dictionaries({"name": st.just("i"), "image": WORDS})),
        "volumes": st.lists(st.fixed_dictionaries({"name": st.just("v")}), max_size=2),
    },
)


@given(spec=SPECS, data=st.data())
def test_pod_and_template_are_of_one_variant(spec, data):
    for number, container in enumerate(spec["containers"]):
        container["name"] = f"c{number}"
    index = data.draw(st.integers(0, len(spec["containers"]) - 1))
    pod = {"spec": started(injected(spec, index, source=data.draw(st.booleans())))}
    made = podtemplate.from_pod(pod)
    for written, ran, again in zip(
        spec["containers"], pod["spec"]["containers"], made["spec"]["containers"], strict=True
    ):
        assert variant.of_container(written) == variant.of_container(ran)
        assert variant.of_container(again) == variant.of_container(ran)
    assert {"name": "chrek", "emptyDir": {}} not in made["spec"].get("volumes", [])
    assert podtemplate.from_template(made) == made, "done twice it is the same"
    assert podtemplate.from_pod({"spec": injected(made["spec"], index)}) == made
