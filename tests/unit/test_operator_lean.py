"""kopf's stream with lean objects, through kopf's own function."""

import copy

from kopf._cogs.clients import watching

from chrek.operator import lean, pods

OWNERS = [
    {"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}},
    {"manager": "platform", "subresource": "status", "fieldsV1": {"f:status": {}}},
]


def item(kind="DynamoCheckpoint", **metadata):
    return {"kind": kind, "metadata": {"name": "a", **metadata}, "spec": {"a": 1}, "status": {}}


async def collected(stream):
    return [event async for event in stream]


async def test_objects_become_lean_and_marks_pass(monkeypatch):
    async def stream(**_):
        yield {"type": None, "object": item(managedFields=copy.deepcopy(OWNERS))}
        yield watching.Bookmark.LISTED
        yield {"type": "BOOKMARK", "object": {"kind": "Pod"}}

    monkeypatch.setattr(watching, "continuous_watch", stream)
    lean.install()
    lean.install()
    assert watching.continuous_watch.__wrapped__ is stream, "once, however often it is asked for"
    owners = [
        {"manager": "kubectl", "subresource": ""},
        {"manager": "platform", "subresource": "status"},
    ]
    assert await collected(watching.continuous_watch(resource="pods")) == [
        {"type": None, "object": item(managedFields=owners)},
        watching.Bookmark.LISTED,
        {"type": "BOOKMARK", "object": {"kind": "Pod"}},
    ]


def test_of_jobs_nobody_reads_the_spec():
    job = item("Job")
    lean.strip(job)
    assert "spec" not in job
    assert job["status"] == {}


def test_what_was_applied_last_is_in_the_object_anyway():
    applied = "kubectl.kubernetes.io/last-applied-configuration"
    made = item(annotations={applied: "{}", "other": "kept"})
    lean.strip(made)
    assert made["metadata"]["annotations"] == {"other": "kept"}
    assert made["spec"] == {"a": 1}


WORKER = {"name": "main", "image": "llama:1", "command": ["run"], "args": ["--fast"]}
READY = {"type": "Ready", "status": "True"}


def pod(**annotations):
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "namespace": "ns",
            "name": "p",
            "uid": "u",
            "annotations": annotations,
            "labels": {"nvidia.com/chrek-managed": "true"},
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{**WORKER, "env": [{"name": "A", "value": "b"}]}],
            "volumes": [{"name": "models"}],
        },
        "status": {"phase": "Running", "conditions": [READY], "containerStatuses": [{"name": "x"}]},
    }


def test_of_pods_what_is_made_of_them_is_the_same():
    whole, made = pod(), pod()
    lean.strip(made)
    assert made["spec"] == {"nodeName": "n1", "containers": [WORKER]}
    assert made["status"] == {"phase": "Running", "conditions": [READY]}
    assert pods.project(made) == pods.project(whole)


def test_a_pod_that_a_checkpoint_may_be_made_from_is_kept_whole():
    made = pod(**{"nvidia.com/chrek-identity": "{}"})
    lean.strip(made)
    assert made == pod(**{"nvidia.com/chrek-identity": "{}"})
