"""The Job that is made of a DynamoCheckpoint."""

import copy
import json

import msgspec
import pytest

from chrek import config, errors
from chrek.operator import jobs, pods, templates
from fakes import operator

HASH = "5941a4cb3c363457"
MAIN = {
    "name": "main",
    "image": "vllm:1",
    "command": ["python3", "-m", "dynamo.vllm"],
    "args": ["--model", "m"],
    "livenessProbe": {"exec": {}},
    "startupProbe": {"exec": {}},
    "readinessProbe": {"httpGet": {"path": "/health", "port": 1}},
    "lifecycle": {"preStop": {}},
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
}


def checkpoint(spec=None, job=None, **template):
    pods = {"spec": {"containers": [copy.deepcopy(MAIN)], **(spec or {})}, **template}
    return {
        "metadata": {"name": "my-ckpt", "namespace": "ns", "uid": "u1", "generation": 3},
        "spec": {"identity": {}, "job": {"podTemplateSpec": pods, **(job or {})}},
    }


ENTRY = {"variant": "v", "phase": "Pending", "jobName": f"checkpoint-{HASH}", "attempt": "a.b.0"}


def build(item, wanted=None):
    section = item["spec"]["job"]
    wanted = wanted or templates.wanted(section["podTemplateSpec"], job=section)
    return jobs.build(item, wanted, ENTRY, identity_hash=HASH, settings=operator.SETTINGS, own="ns")


def test_a_job_whose_artifact_goes_to_a_server():
    """The operator's configuration names bucket and prefix; the location has the hash."""
    item = checkpoint()
    storage = config.Storage(type="s3", s3=config.S3(uri="s3://bucket/p"))
    settings = msgspec.structs.replace(operator.SETTINGS, storage=storage)
    section = item["spec"]["job"]
    wanted = templates.wanted(section["podTemplateSpec"], job=section)
    job = jobs.build(item, wanted, ENTRY, identity_hash=HASH, settings=settings, own="other")
    container = job["spec"]["template"]["spec"]["containers"][0]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert env["DYN_CHECKPOINT_STORAGE_TYPE"] == "s3"
    assert env["DYN_CHECKPOINT_LOCATION"] == f"s3://bucket/p/ns/ns/{HASH}"
    assert "DYN_CHECKPOINT_PATH" not in env
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert volumes == [{"name": "chrek", "emptyDir": {}}], "only the agent reaches the store"


def test_the_job():
    item = checkpoint()
    before = copy.deepcopy(item)
    job = build(item)
    assert item == before
    assert job["metadata"]["name"] == f"checkpoint-{HASH}"
    assert job["metadata"]["labels"]["nvidia.com/chrek-is-checkpoint-source"] == "true"
    assert job["metadata"]["labels"]["nvidia.com/checkpoint-source"] == "true"
    assert pods.owner_uid(job) == "u1"
    assert jobs.attempt(job) == "a.b.0"
    spec = job["spec"]
    assert spec["backoffLimit"] == 3
    # Time without a node does not count: the deadline is the pod's.
    assert "activeDeadlineSeconds" not in spec
    assert spec["template"]["spec"]["activeDeadlineSeconds"] == 3600
    assert spec["podReplacementPolicy"] == "Failed"
    assert "ttlSecondsAfterFinished" not in spec
    pod = spec["template"]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["metadata"]["labels"]["nvidia.com/chrek-managed"] == "true"
    assert json.loads(pod["metadata"]["annotations"]["nvidia.com/chrek-capture"]) == {
        "checkpoint": "my-ckpt",
        "identityHash": HASH,
        "readiness": "auto",
    }
    assert pod["metadata"]["annotations"]["nvidia.com/chrek-container"] == "main"


def test_numbers_of_the_job():
    numbers = {"backoffLimit": 0, "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 0}
    spec = build(checkpoint(job=numbers))["spec"]
    found = {**spec, **spec["template"]["spec"]}
    assert {key: found[key] for key in numbers} == numbers


def test_the_captured_container():
    (main,) = build(checkpoint())["spec"]["template"]["spec"]["containers"]
    assert main["command"] == [
        *["/chrek/chrek-init", "--source", "--wait", "300", "--"],
        *["python3", "-m", "dynamo.vllm", "--model", "m"],
    ]
    for removed in ("args", "livenessProbe", "startupProbe", "lifecycle"):
        assert removed not in main
    assert main["readinessProbe"] == MAIN["readinessProbe"]
    assert main["resources"] == MAIN["resources"]


def test_labels_are_replaced_and_annotations_kept():
    """No Service of the user's may select the pod that is being captured."""
    given = {
        "labels": {"app": "my-llm"},
        "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma", "nvidia.com/chrek-checkpoint": "x"},
    }
    metadata = build(checkpoint(metadata=given))["spec"]["template"]["metadata"]
    assert "app" not in metadata["labels"]
    assert metadata["annotations"]["k8s.v1.cni.cncf.io/networks"] == "rdma"
    assert "nvidia.com/chrek-checkpoint" not in metadata["annotations"]
    assert metadata["annotations"]["sidecar.istio.io/inject"] == "false"
    assert metadata["annotations"]["linkerd.io/inject"] == "disabled"
    assert metadata["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


def test_the_rest_of_the_pod_passes_through():
    given = {
        "nodeSelector": {"gpu": "a"},
        "imagePullSecrets": [{"name": "s"}],
        "restartPolicy": "Always",
        "initContainers": [{"name": "proxy", "image": "p", "restartPolicy": "Always"}],
        "fieldOfTheFuture": [1],
    }
    spec = build(checkpoint(spec=given))["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"gpu": "a"}
    assert spec["imagePullSecrets"] == [{"name": "s"}]
    assert spec["fieldOfTheFuture"] == [1]
    assert [c["name"] for c in spec["initContainers"]] == ["chrek-init", "proxy"]
    assert spec["restartPolicy"] == "Never"


OTHER = {"name": "proxy", "image": "p"}


@pytest.mark.parametrize(
    ("spec", "job", "reason", "message"),
    [
        ({"containers": [MAIN, OTHER]}, {}, "Unsupported", "native sidecars"),
        ({"containers": [MAIN]}, {"container": "x"}, "ContainerUnknown", "no container is named"),
        ({"containers": [OTHER]}, {}, "CommandUnknown", "has no `command`"),
        ({"hostNetwork": True}, {}, "HostNamespace", "hostNetwork"),
        ({"hostUsers": False}, {}, "UserNamespace", "hostUsers"),
        ({"volumes": [{"name": "chrek"}]}, {}, "MountPathTaken", "a volume named chrek"),
    ],
)
def test_what_is_refused(spec, job, reason, message):
    with pytest.raises(errors.UnsupportedError) as caught:
        build(checkpoint(spec=copy.deepcopy(spec), job=job))
    assert caught.value.reason == reason
    assert message in str(caught.value)


def test_names_of_jobs():
    assert jobs.name(HASH) == f"checkpoint-{HASH}"
    assert jobs.name(HASH, "0123456789ab") == f"checkpoint-{HASH}-01234567"
    assert jobs.attempt({"metadata": {}}) == ""


def test_another_variant_is_made_with_the_settings_of_the_checkpoint():
    """A serving pod of another image says nothing of deadlines and readiness."""
    settings = {"backoffLimit": 1, "activeDeadlineSeconds": 9, "readiness": "file"}
    item = checkpoint(job=settings)
    other = {**MAIN, "image": "vllm:2"}
    job = build(item, templates.wanted({"metadata": {}, "spec": {"containers": [other]}}))
    pod = job["spec"]["template"]
    assert job["spec"]["backoffLimit"] == 1
    assert pod["spec"]["activeDeadlineSeconds"] == 9
    assert pod["spec"]["containers"][0]["image"] == "vllm:2"
    capture = json.loads(pod["metadata"]["annotations"]["nvidia.com/chrek-capture"])
    assert capture["readiness"] == "file"


def test_what_a_serving_pod_carries_does_not_reach_the_job_s():
    notes = {
        f"nvidia.com/chrek-{name}": "x"
        for name in ("checkpoint", "identity", "capture-source", "skipped", "result", "start")
    }
    pod = build(checkpoint(metadata={"annotations": notes}))["spec"]["template"]
    assert not notes.keys() & pod["metadata"]["annotations"].keys()


def test_the_pod_that_the_api_server_is_asked_about():
    job = build(checkpoint())
    pod = jobs.pod(job)
    assert pod["metadata"]["name"] == f"checkpoint-{HASH}"
    assert pod["metadata"]["namespace"] == "ns"
    assert pod["spec"] == job["spec"]["template"]["spec"]
    assert "generateName" not in job["spec"]["template"]["metadata"]


REQUIRED = msgspec.structs.replace(
    operator.SETTINGS, envFromSecrets=config.EnvFromSecrets.REQUIRE_ACKNOWLEDGEMENT
)
TOKEN = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}


def with_secret(*, item=None, pod=None):
    made = checkpoint({"containers": [{**MAIN, "env": [TOKEN]}]}, metadata={"annotations": pod})
    made["metadata"]["annotations"] = item
    return made


def build_with(item, settings):
    section = item["spec"]["job"]
    wanted = templates.wanted(section["podTemplateSpec"], job=section)
    return jobs.build(item, wanted, ENTRY, identity_hash=HASH, settings=settings, own="ns")


ACKNOWLEDGED = {"chrek.nvidia.com/acknowledge-secrets": "true"}


def test_secrets_that_are_not_acknowledged():
    build_with(with_secret(), operator.SETTINGS)
    build_with(checkpoint(), REQUIRED)
    with pytest.raises(errors.UnsupportedError, match="Secrets: TOKEN") as caught:
        build_with(with_secret(), REQUIRED)
    assert caught.value.reason == "SecretsNotAcknowledged"


@pytest.mark.parametrize("where", ["item", "pod"])
def test_secrets_that_are_acknowledged(where):
    job = build_with(with_secret(**{where: ACKNOWLEDGED}), REQUIRED)
    # The agent asks again, and sees the pod.
    assert ACKNOWLEDGED.items() <= job["spec"]["template"]["metadata"]["annotations"].items()
