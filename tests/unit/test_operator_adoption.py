"""Checkpoints made of pods that carry an identity."""

import json

import pytest

from chrek import errors, identity, variant
from chrek.operator import adoption, cache, injection, place, pods, queue
from fakes import jsonpatch, operator

IDENTITY = {"model": "meta-llama/Llama-3-8B", "framework": "vllm", "dtype": "bfloat16"}
HASH = "5941a4cb3c363457"
MAIN = {"name": "worker", "image": "llama:1", "command": ["python3"], "args": ["s.py"]}


def injected(annotations=None, labels=None, **status):
    """A pod as the webhook lets it in."""
    annotations = {"nvidia.com/chrek-identity": json.dumps(IDENTITY), **(annotations or {})}
    metadata = {"name": "web-1", "namespace": "ns", "uid": "u", "annotations": annotations}
    metadata["labels"] = dict(labels or {})
    item = {"metadata": metadata, "spec": {"containers": [MAIN]}, "status": status}
    where = place.Place("pvc", "/checkpoints")
    verdict = injection.decide(item, lambda _: None, settings=operator.SETTINGS, where=where)
    return jsonpatch.applied(item, verdict.patch)


def missing(item, checkpoints=()):
    return adoption.missing(pods.project(item), checkpoints)


def test_the_first_pod_of_an_identity_makes_its_checkpoint():
    item = injected({"nvidia.com/chrek-container": "worker", "team": "a"})
    main = {"name": "worker", "image": "llama:1", "command": ["python3", "s.py"]}
    assert missing(item) == {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoCheckpoint",
        "metadata": {
            "name": HASH,
            "namespace": "ns",
            "labels": {
                "app.kubernetes.io/managed-by": "chrek-operator",
                "nvidia.com/chrek-auto": "true",
            },
            "finalizers": ["nvidia.com/chrek"],
        },
        "spec": {
            "identity": IDENTITY,
            "job": {
                "container": "worker",
                "podTemplateSpec": {
                    "metadata": {
                        "annotations": {"team": "a", "nvidia.com/chrek-container": "worker"}
                    },
                    "spec": {"containers": [main]},
                },
            },
        },
    }


def test_its_variant_is_that_of_the_pod():
    item = injected()
    made = missing(item)["spec"]["job"]["podTemplateSpec"]["spec"]["containers"][0]
    ran = item["spec"]["containers"][0]
    assert ran["command"][0] == "/chrek/chrek-init"
    assert variant.of_container(made) == variant.of_container(ran) == variant.of_container(MAIN)


def test_a_serving_pod_is_captured_without_a_job():
    spec = missing(injected({"nvidia.com/chrek-capture-source": "worker"}))["spec"]
    assert spec == {"identity": IDENTITY, "captureSource": "worker"}


def test_a_pod_of_the_platform_says_what_its_checkpoint_was_made_for():
    labels = {
        "nvidia.com/dynamo-graph-deployment-name": "llama",
        "nvidia.com/dynamo-component": "worker",
    }
    annotations = missing(injected(labels=labels))["metadata"]["annotations"]
    assert annotations == {"nvidia.com/chrek-made-from": "llama/worker"}


def test_nothing_is_missing_where_there_is_one():
    assert missing(injected(), [{"metadata": {"name": "any"}}]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"nvidia.com/chrek-identity": ""},
        {"nvidia.com/chrek-identity": "{"},
        {"nvidia.com/chrek-identity": '{"model": "m"}'},
        {"nvidia.com/chrek-identity": json.dumps({**IDENTITY, "model": "another"})},
        {"nvidia.com/chrek-checkpoint": "my-ckpt"},
    ],
    ids=["none", "not JSON", "incomplete", "changed afterwards", "another checkpoint"],
)
def test_pods_that_make_none(change):
    item = injected()
    item["metadata"]["annotations"].update(change)
    assert missing(item) is None


def test_pods_that_end_make_none():
    assert missing(injected(phase="Succeeded")) is None
    item = injected()
    item["metadata"]["deletionTimestamp"] = "2025-01-01T00:00:00Z"
    assert missing(item) is None


def test_a_checkpoint_job_s_pod_makes_none():
    item = injected()
    item["metadata"]["labels"]["nvidia.com/chrek-is-checkpoint-source"] = "true"
    assert missing(item) is None


def test_the_annotation():
    raw, known = adoption.parse(json.dumps(IDENTITY))
    assert (raw, known.hash()) == (IDENTITY, HASH)
    assert adoption.parse(known.canonical())[1] == known == identity.parse(IDENTITY)
    with pytest.raises(errors.InputError) as caught:
        adoption.parse("{")
    assert "not JSON" in str(caught.value)
    assert "backendFramework" in caught.value.hint


class Created:
    """The API server's part: remembers what is created, or refuses it."""

    def __init__(self, status=0):
        self.bodies = []
        self.status = status

    async def create(self, group_version, plural, namespace, body):
        assert (group_version, plural, namespace) == (
            "nvidia.com/v1alpha1",
            "dynamocheckpoints",
            "ns",
        )
        self.bodies.append(body)
        if self.status:
            raise errors.ApiError("refused", status=self.status)
        return body


def adopter(server, *items, checkpoints=()):
    found = cache.Cache()
    found.pods = {("ns", f"checkpoint {HASH}"): [pods.project(item) for item in items]}
    found.checkpoints_by_hash = {("ns", HASH): list(checkpoints)}
    return adoption.Adopter(server, found)


KEY = queue.Key("pods without a checkpoint", "ns", HASH)


async def test_one_checkpoint_is_created_for_all_pods_of_an_identity():
    server = Created()
    await adopter(server, injected(), injected()).reconcile(KEY)
    assert [body["metadata"]["name"] for body in server.bodies] == [HASH]


async def test_none_is_created_where_there_is_one_or_nobody_wants_one():
    server = Created()
    other = {"metadata": {"name": "any"}}
    await adopter(server, injected(), checkpoints=[other]).reconcile(KEY)
    await adopter(server).reconcile(KEY)
    assert server.bodies == []


async def test_a_checkpoint_that_somebody_else_has_just_created():
    await adopter(Created(409), injected()).reconcile(KEY)


async def test_an_api_server_that_refuses_is_asked_again():
    with pytest.raises(errors.ApiError):
        await adopter(Created(500), injected()).reconcile(KEY)
