"""The webhook's answer for one pod, applied as the API server applies it."""

import dataclasses
import json

import pytest

from chrek import identity, variant
from chrek.operator import injection, place
from fakes import operator
from fakes.jsonpatch import applied

HASH = "5941a4cb3c363457"
IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm", "dtype": "bfloat16"}
WHERE = place.Place("pvc", "/checkpoints")
VARIANT = variant.name("llama:1", ["python3", "s.py"])
READY = injection.Checkpoint(
    name="my-ckpt",
    identity_hash=HASH,
    variants=frozenset({VARIANT}),
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


def decide(item, found=READY, where=WHERE, **options):
    return injection.decide(
        item, lambda reference: found, settings=operator.SETTINGS, where=where, **options
    )


def test_a_pod_is_injected():
    item = pod(labels={"app": "x"})
    verdict = decide(item)
    assert verdict.outcome == "injected"
    made = applied(item, verdict.patch)
    assert made["metadata"]["labels"] == {
        "app": "x",
        "nvidia.com/chrek-managed": "true",
        "nvidia.com/chrek-checkpoint-hash": HASH,
    }
    assert made["metadata"]["annotations"]["nvidia.com/chrek-container"] == "main"
    main = made["spec"]["containers"][0]
    assert main["command"] == ["/chrek/chrek-init", "--wait", "20", "--", "python3", "s.py"]
    assert "args" not in main
    env = {variable["name"]: variable["value"] for variable in main["env"]}
    assert env["DYN_CHECKPOINT_HASH"] == "5941a4cb3c363457"
    assert env["DYN_CHECKPOINT_PATH"] == "/checkpoints"
    assert "DYN_READY_FOR_CHECKPOINT_FILE" not in env
    assert made["spec"]["initContainers"][0]["image"] == "chrek-init:1"


def test_a_start_can_be_followed_through_the_logs():
    item = pod()
    made = applied(item, decide(item, trace="uid-of-admission").patch)
    assert made["metadata"]["annotations"]["nvidia.com/chrek-trace"] == "uid-of-admission"
    untraced = applied(item, decide(item).patch)["metadata"]["annotations"]
    assert "nvidia.com/chrek-trace" not in untraced


@pytest.mark.parametrize("kind", ["s3", "oci"])
def test_a_worker_learns_where_on_a_server_its_checkpoint_is(kind):
    item = pod()
    made = applied(item, decide(item, where=place.Place(kind, f"{kind}://a/b")).patch)
    env = {variable["name"]: variable["value"] for variable in made["spec"]["containers"][0]["env"]}
    assert env["DYN_CHECKPOINT_STORAGE_TYPE"] == kind
    assert env["DYN_CHECKPOINT_LOCATION"] == f"{kind}://a/b/{HASH}"
    assert "DYN_CHECKPOINT_PATH" not in env
    assert env["DYN_CHECKPOINT_HASH"] == HASH


def test_a_second_call_changes_nothing():
    item = pod()
    made = applied(item, decide(item).patch)
    assert decide(made) == injection.Verdict([], "unchanged")


@pytest.mark.parametrize(
    ("found", "container", "seconds"),
    [
        (READY, MAIN, "20"),
        (READY, {**MAIN, "args": ["other.py"]}, "1"),
        (READY, {**MAIN, "image": "llama:2"}, "1"),
        (dataclasses.replace(READY, variants=frozenset()), MAIN, "1"),
        (None, MAIN, "1"),
        (READY, {"name": "main", "image": "llama:1"}, "20"),
    ],
    ids=["usable", "other command", "other image", "no artifact", "unknown", "command of another"],
)
def test_pods_wait_long_only_for_an_artifact_of_their_variant(found, container, seconds):
    item = pod(container)
    main = applied(item, decide(item, found).patch)["spec"]["containers"][0]
    assert main["command"][:3] == ["/chrek/chrek-init", "--wait", seconds]


def test_the_gpus_that_a_pod_asks_for_are_of_its_variant():
    """An artifact of a worker with another number of GPUs is none for it."""

    def wait(count, captured):
        limits = {"nvidia.com/gpu": count}
        found = dataclasses.replace(
            READY, variants=frozenset({variant.name("llama:1", ["python3", "s.py"], captured)})
        )
        item = pod({**MAIN, "resources": {"limits": limits}})
        main = applied(item, decide(item, found).patch)["spec"]["containers"][0]
        return main["command"][2]

    assert wait("1", "nvidia.com/gpu=1") == "20"
    assert wait("2", "nvidia.com/gpu=1") == "1"
    assert wait("1", "") == "1"


@pytest.mark.parametrize(
    ("reference", "known"),
    [("5941a4cb3c363457", True), ("llama3-8b-vllm-tp1", False)],
)
def test_the_hash_of_a_checkpoint_that_does_not_exist_yet(reference, known):
    item = pod(annotations={"nvidia.com/chrek-checkpoint": reference})
    main = applied(item, decide(item, None).patch)["spec"]["containers"][0]
    env = {variable["name"]: variable["value"] for variable in main["env"]}
    assert env.get("DYN_CHECKPOINT_HASH") == (reference if known else None)
    labels = applied(item, decide(item, None).patch)["metadata"]["labels"]
    assert labels.get("nvidia.com/chrek-checkpoint-hash") == (reference if known else None)


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


def with_identity(text, **annotations):
    annotations = {"nvidia.com/chrek-identity": text, **annotations}
    return {"metadata": {"annotations": annotations}, "spec": {"containers": [MAIN]}}


def test_a_pod_with_an_identity_refers_to_its_hash():
    seen = []
    item = with_identity(json.dumps(IDENTITY))
    verdict = injection.decide(
        item, lambda ref: seen.append(ref), settings=operator.SETTINGS, where=WHERE
    )
    assert seen == [HASH]
    made = applied(item, verdict.patch)
    assert made["metadata"]["annotations"] == {
        "nvidia.com/chrek-identity": json.dumps(IDENTITY),
        "nvidia.com/chrek-checkpoint": HASH,
        "nvidia.com/chrek-container": "main",
    }
    assert made["metadata"]["labels"]["nvidia.com/chrek-checkpoint-hash"] == HASH


def test_a_named_checkpoint_goes_before_the_identity():
    item = with_identity("{", **{"nvidia.com/chrek-checkpoint": "my-ckpt"})
    verdict = decide(item)
    assert verdict.outcome == "injected"
    annotations = applied(item, verdict.patch)["metadata"]["annotations"]
    assert annotations["nvidia.com/chrek-checkpoint"] == "my-ckpt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "annotation nvidia.com/chrek-identity: not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected an object, got list"),
        ('{"model": "m"}', "nvidia.com/chrek-identity.backendFramework: required"),
        (json.dumps({**IDENTITY, "gpu": 1}), "nvidia.com/chrek-identity.gpu: unknown field"),
        (json.dumps({**IDENTITY, "tensorParallelSize": "2"}), "expected a whole number"),
    ],
)
def test_an_identity_that_cannot_be_used_is_told(text, message):
    item = with_identity(text)
    verdict = decide(item)
    assert verdict.outcome == "InvalidSpec"
    assert message in verdict.message
    made = applied(item, verdict.patch)
    assert made["spec"] == item["spec"]
    assert made["metadata"]["annotations"]["nvidia.com/chrek-skipped"].startswith("InvalidSpec: ")


def of_graph(**changed):
    labels = {
        "nvidia.com/dynamo-graph-deployment-name": "llama",
        "nvidia.com/dynamo-component": "worker",
        **changed,
    }
    return {"metadata": {"labels": labels}, "spec": {"containers": [MAIN]}}


def services(**section):
    def find(graph, name):
        return (
            injection.Service("Worker", section) if (graph, name) == ("llama", "worker") else None
        )

    return find


def test_a_pod_of_the_platform_in_auto_mode():
    item = of_graph()
    section = {"enabled": True, "identity": IDENTITY, "captureSource": "worker"}
    verdict = decide(item, None, services=services(**section))
    assert verdict.outcome == "injected"
    metadata = applied(item, verdict.patch)["metadata"]
    assert metadata["annotations"] == {
        "nvidia.com/chrek-checkpoint": HASH,
        "nvidia.com/chrek-identity": identity.parse(IDENTITY).canonical(),
        "nvidia.com/chrek-capture-source": "worker",
        "nvidia.com/chrek-container": "main",
    }
    assert metadata["labels"]["nvidia.com/chrek-checkpoint-hash"] == HASH
    assert metadata["labels"]["nvidia.com/dynamo-component"] == "worker"


def test_a_pod_of_the_platform_in_reference_mode():
    item = of_graph()
    section = {"enabled": True, "mode": "Reference", "checkpointRef": "my-ckpt"}
    verdict = decide(item, services=services(**section))
    metadata = applied(item, verdict.patch)["metadata"]
    assert metadata["annotations"] == {
        "nvidia.com/chrek-checkpoint": "my-ckpt",
        "nvidia.com/chrek-container": "main",
    }
    assert metadata["labels"]["nvidia.com/chrek-checkpoint-hash"] == HASH


def test_a_pod_of_the_platform_whose_section_cannot_be_used():
    item = of_graph()
    verdict = decide(item, services=services(enabled=True, identity={"model": "m"}))
    assert verdict.outcome == "InvalidSpec"
    where = "DynamoGraphDeployment llama: spec.services.Worker.checkpoint.identity.backendFramework"
    assert verdict.message.startswith(f"{where}: required")
    assert applied(item, verdict.patch)["spec"] == item["spec"]


@pytest.mark.parametrize(
    ("item", "section"),
    [
        (of_graph(), {"enabled": False, "identity": IDENTITY}),
        (of_graph(), {}),
        (of_graph(**{"nvidia.com/dynamo-component": "frontend"}), {"enabled": True}),
        (of_graph(**{"nvidia.com/dynamo-component": ""}), {"enabled": True}),
    ],
    ids=["disabled", "no section", "another service", "no service"],
)
def test_pods_of_the_platform_that_are_left_alone(item, section):
    assert decide(item, services=services(**section)) == injection.Verdict([], "unchanged")
    assert decide(item) == injection.Verdict([], "unchanged"), "graphs are not the platform's"


def test_what_is_remembered_of_a_checkpoint():
    spec = {"containers": [{"name": "proxy"}, {**MAIN}]}
    made = [{"name": VARIANT}, {"name": "0123456789ab", "suspect": True}]
    item = {
        "metadata": {"name": "my-ckpt"},
        "spec": {"job": {"podTemplateSpec": {"spec": spec}}},
        "status": {"phase": "Creating", "identityHash": HASH, "variants": made},
    }
    assert injection.project(item) == READY
    bare = {"metadata": {"name": "n"}, "spec": {}}
    assert injection.project(bare) == injection.Checkpoint(name="n")
    new = {"metadata": {"name": "n"}, "spec": {"identity": IDENTITY}}
    assert injection.project(new) == injection.Checkpoint(name="n", identity_hash=HASH)


def test_a_status_that_the_crd_dropped_is_remembered_from_the_annotation():
    status = {"variants": [{"name": VARIANT, "uuid": "u", "digest": "d"}]}
    annotations = {"nvidia.com/chrek-state": json.dumps(status)}
    item = {
        "metadata": {"name": "n", "annotations": annotations},
        "spec": {"identity": IDENTITY},
        "status": {"phase": "Ready"},
    }
    assert injection.project(item).variants == {VARIANT}
