"""The webhook's answer for one pod, applied as the API server applies it."""

import copy

import msgspec
import pytest

from chrek.operator import injection, place
from fakes import operator

READY = injection.Checkpoint(
    name="my-ckpt",
    identity_hash="5941a4cb3c363457",
    ready=True,
    image="llama:1",
    command=("python3",),
    args=("s.py",),
)
MAIN = {"name": "main", "image": "llama:1", "command": ["python3"], "args": ["s.py"]}


def pod(container=MAIN, annotations=None, labels=None, **spec):
    metadata = {"annotations": {"nvidia.com/chrek-checkpoint": "my-ckpt", **(annotations or {})}}
    if labels:
        metadata["labels"] = labels
    return {"metadata": metadata, "spec": {"containers": [container], **spec}}


def decide(item, found=READY):
    where = place.Place("pvc", "/checkpoints")
    return injection.decide(item, lambda reference: found, settings=operator.SETTINGS, where=where)


def applied(item, patch):
    """JSON patch (RFC 6902) with the operations that are used: add, replace, remove."""
    item = copy.deepcopy(item)
    for step in patch:
        *parents, last = (
            part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
        )
        place = item
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        key = int(last) if isinstance(place, list) else last
        if step["op"] in ("replace", "remove"):
            assert place[key] is not None
        if step["op"] == "remove":
            del place[key]
        else:
            place[key] = step["value"]
    return item


def test_a_pod_is_injected():
    item = pod(labels={"app": "x"})
    verdict = decide(item)
    assert verdict.outcome == "injected"
    made = applied(item, verdict.patch)
    assert made["metadata"]["labels"] == {"app": "x", "nvidia.com/chrek-managed": "true"}
    assert made["metadata"]["annotations"]["nvidia.com/chrek-container"] == "main"
    main = made["spec"]["containers"][0]
    assert main["command"] == ["/chrek/chrek-init", "--wait", "20", "--", "python3", "s.py"]
    assert "args" not in main
    env = {variable["name"]: variable["value"] for variable in main["env"]}
    assert env["DYN_CHECKPOINT_HASH"] == "5941a4cb3c363457"
    assert env["DYN_CHECKPOINT_PATH"] == "/checkpoints"
    assert "DYN_READY_FOR_CHECKPOINT_FILE" not in env
    assert made["spec"]["initContainers"][0]["image"] == "chrek-init:1"


def test_a_second_call_changes_nothing():
    item = pod()
    made = applied(item, decide(item).patch)
    assert decide(made) == injection.Verdict([], "unchanged")


@pytest.mark.parametrize(
    ("found", "seconds"),
    [(READY, "20"), (msgspec.UNSET, "1"), (None, "1")],
    ids=["ready", "not ready", "unknown"],
)
def test_pods_wait_long_only_for_a_ready_checkpoint(found, seconds):
    if found is msgspec.UNSET:
        found = injection.Checkpoint(name="my-ckpt", identity_hash="5941a4cb3c363457")
    item = pod()
    main = applied(item, decide(item, found).patch)["spec"]["containers"][0]
    assert main["command"][:3] == ["/chrek/chrek-init", "--wait", seconds]


@pytest.mark.parametrize(
    ("reference", "known"),
    [("5941a4cb3c363457", True), ("llama3-8b-vllm-tp1", False)],
)
def test_the_hash_of_a_checkpoint_that_does_not_exist_yet(reference, known):
    item = pod(annotations={"nvidia.com/chrek-checkpoint": reference})
    main = applied(item, decide(item, None).patch)["spec"]["containers"][0]
    env = {variable["name"]: variable["value"] for variable in main["env"]}
    assert env.get("DYN_CHECKPOINT_HASH") == (reference if known else None)


def test_a_pod_without_command_takes_that_of_a_checkpoint_of_its_image():
    item = pod(container={"name": "main", "image": "llama:1"})
    main = applied(item, decide(item).patch)["spec"]["containers"][0]
    assert main["command"][-2:] == ["python3", "s.py"]


IMAGE = {"name": "main", "image": "llama:1"}


@pytest.mark.parametrize(
    ("item", "found", "reason", "message"),
    [
        (pod(container=IMAGE), None, "CommandUnknown", "has no `command`"),
        (pod(container={**IMAGE, "image": "llama:2"}), READY, "CommandUnknown", "llama:2"),
        (pod(container={**IMAGE, "args": ["other"]}), READY, "CommandUnknown", "`command`"),
        (pod(shareProcessNamespace=True), READY, "SharedProcessNamespace", "shareProcess"),
        (pod(hostPID=True), READY, "HostNamespace", "hostPID"),
        (pod(container={**MAIN, "tty": True}), READY, "TerminalRequested", "tty"),
        (
            pod(annotations={"nvidia.com/chrek-container": "nope"}),
            READY,
            "ContainerUnknown",
            "no container is named 'nope'",
        ),
    ],
)
def test_a_pod_that_cannot_be_managed_only_says_why(item, found, reason, message):
    verdict = decide(item, found)
    assert verdict.outcome == reason
    made = applied(item, verdict.patch)
    assert made["spec"] == item["spec"]
    assert made["metadata"]["labels"]["nvidia.com/chrek-managed"] == "false"
    skipped = made["metadata"]["annotations"]["nvidia.com/chrek-skipped"]
    assert skipped.startswith(f"{reason}: ")
    assert message in skipped


def test_a_pod_that_another_webhook_repaired_is_injected_when_asked_again():
    item = pod(container=IMAGE)
    refused = applied(item, decide(item, None).patch)
    refused["spec"]["containers"][0]["command"] = ["python3"]
    made = applied(refused, decide(refused, None).patch)
    assert "nvidia.com/chrek-skipped" not in made["metadata"]["annotations"]
    assert made["metadata"]["labels"]["nvidia.com/chrek-managed"] == "true"


@pytest.mark.parametrize(
    "item",
    [
        {"metadata": {}, "spec": {"containers": [MAIN]}},
        {"metadata": {"annotations": {"a": "b"}}, "spec": {"containers": [MAIN]}},
        pod(labels={"nvidia.com/chrek-is-checkpoint-source": "true"}),
        {},
    ],
    ids=["no metadata", "not opted in", "checkpoint job", "empty"],
)
def test_pods_that_are_left_alone(item):
    assert decide(item) == injection.Verdict([], "unchanged")


def test_what_is_remembered_of_a_checkpoint():
    spec = {"containers": [{"name": "proxy"}, {**MAIN}]}
    item = {
        "metadata": {"name": "my-ckpt"},
        "spec": {"job": {"podTemplateSpec": {"spec": spec}}},
        "status": {"phase": "Ready", "identityHash": "5941a4cb3c363457"},
    }
    assert injection.project(item) == READY
    bare = {"metadata": {"name": "n"}, "spec": {}}
    assert injection.project(bare) == injection.Checkpoint(name="n")
