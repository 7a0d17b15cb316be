"""Which pods can be checkpointed at all, at admission and again in the agent."""

import pytest

from chrek import eligibility, errors, names
from chrek.agent import objects

MAIN = {"name": "main", "image": "llama:1", "command": ["/chrek/chrek-init", "--", "serve"]}

REFUSED = [
    ({"shareProcessNamespace": True}, {}, "SharedProcessNamespace"),
    ({"hostPID": True}, {}, "HostNamespace"),
    ({"hostIPC": True}, {}, "HostNamespace"),
    ({"hostNetwork": True}, {}, "HostNamespace"),
    ({"hostUsers": False}, {}, "UserNamespace"),
    ({}, {"tty": True}, "TerminalRequested"),
    ({"runtimeClassName": "kata-qemu"}, {}, "SandboxedRuntime"),
    ({"runtimeClassName": "gVisor"}, {}, "SandboxedRuntime"),
    ({"os": {"name": "windows"}}, {}, "Unsupported"),
    ({"nodeSelector": {"kubernetes.io/arch": "arm64"}}, {}, "Unsupported"),
    ({}, {"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}, "GpuPartitioned"),
    ({}, {"resources": {"limits": {"nvidia.com/mig-3g.40gb": 2}}}, "GpuPartitioned"),
]


@pytest.mark.parametrize(("spec", "container", "reason"), REFUSED)
def test_refused_with_its_reason_and_what_to_change(spec, container, reason):
    with pytest.raises(errors.UnsupportedError) as caught:
        eligibility.check(spec, container)
    assert caught.value.reason == reason
    assert caught.value.hint.startswith("remove ")


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"hostUsers": True, "hostNetwork": False},
        {"runtimeClassName": "nvidia"},
        {"nodeSelector": {"kubernetes.io/arch": "amd64"}},
    ],
)
@pytest.mark.parametrize(
    "limits", [None, {}, {"nvidia.com/gpu": "2"}, {"nvidia.com/mig-1g.10gb": "0"}]
)
def test_ordinary_pods_pass(spec, limits):
    eligibility.check(spec, {})
    eligibility.check(spec, {"resources": {"limits": limits}})


def test_a_part_of_a_gpu_is_named():
    container = {"resources": {"limits": {"memory": "1Gi", "nvidia.com/mig-1g.10gb": "1"}}}
    with pytest.raises(errors.UnsupportedError, match=r"limits\.nvidia\.com/mig-1g\.10gb cannot"):
        eligibility.check({}, container)


@pytest.mark.parametrize(("spec", "container", "reason"), REFUSED)
def test_the_agent_asks_again(spec, container, reason):
    item = {
        "metadata": {
            "namespace": "team",
            "name": "by-hand",
            "uid": "1",
            "annotations": {names.ANNOTATION_CHECKPOINT: "5941a4cb3c363457"},
        },
        "spec": {**spec, "containers": [{**MAIN, **container}]},
    }
    pod = objects.pod(item)
    assert pod is not None
    assert pod.refused is not None
    assert pod.refused[0] == reason


SECRETS = {
    "none": ({}, ()),
    "plain and others": (
        {
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
            "envFrom": [{"configMapRef": {"name": "c"}}],
        },
        (),
    ),
    "one": (
        {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        ("TOKEN",),
    ),
    "all of one": ({"envFrom": [{"secretRef": {"name": "s"}}]}, ("envFrom s",)),
    "absent lists": ({"env": None, "envFrom": None}, ()),
}


@pytest.mark.parametrize(("container", "found"), SECRETS.values(), ids=list(SECRETS))
def test_what_brings_secrets_into_the_environment(container, found):
    assert eligibility.secret_variables(container) == found


def test_secrets_that_nobody_acknowledged():
    eligibility.check_secrets([], allowed=False)
    eligibility.check_secrets(["TOKEN"], allowed=True)
    with pytest.raises(errors.UnsupportedError, match="values of Secrets: TOKEN") as caught:
        eligibility.check_secrets(["TOKEN"], allowed=False)
    assert caught.value.reason == names.Reason.SECRETS_NOT_ACKNOWLEDGED
    assert 'chrek.nvidia.com/acknowledge-secrets: "true"' in caught.value.hint


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [(None, False), ({}, False), ({"a": "true"}, False)]
    + [
        ({names.ANNOTATION_ACKNOWLEDGE_SECRETS: value}, value == "true")
        for value in ("true", "false", "", "True", "yes")
    ],
)
def test_acknowledgements(annotations, wanted):
    assert eligibility.acknowledged({"annotations": annotations}) is wanted
    assert eligibility.acknowledged({}) is False
