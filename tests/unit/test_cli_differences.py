"""What differs between two containers, as far as objects tell."""

import pytest

from chrek.cli import differences
from fakes import warm


def side(**fields):
    spec = fields.pop("spec", {})
    return differences.of_pod(warm.pod(injected=False, container=fields, **spec))


def compare(captured, present):
    found = differences.compare(captured, present)
    return {(one.what, one.reason): one.detail for one in found}


def test_nothing():
    assert compare(side(), side()) == {}


def test_what_chrek_and_the_api_server_add_is_no_difference():
    token = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/x", "readOnly": True}
    chrek = {"name": "chrek", "mountPath": "/chrek"}
    env = [{"name": "DYN_CHECKPOINT_PATH", "value": "/checkpoints"}]
    pod = warm.pod(container={"volumeMounts": [token, chrek], "env": env})
    assert (
        differences.compare(differences.of_checkpoint(warm.checkpoint()), differences.of_pod(pod))
        == []
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image": "llama:2"}, {("image", "ImageDiffers"): "captured llama:1, here llama:2"}),
        (
            {"command": ["python3"], "args": ["-m", "other"]},
            {
                ("command", "CommandDiffers"): "captured python3 -m dynamo.vllm, "
                "here python3 -m other"
            },
        ),
        (
            {"resources": {"limits": {"nvidia.com/gpu": "2"}}},
            {("number of GPUs", "GpuCountDiffers"): "captured 0, here 2"},
        ),
        (
            {"securityContext": {"runAsUser": 7, "runAsGroup": 8}},
            {
                (
                    "user",
                    "UserDiffers",
                ): "uids captured nothing, here 7; gids captured nothing, here 8"
            },
        ),
        (
            {"resources": {"limits": {"memory": "4Gi"}, "requests": {"cpu": "1"}}},
            {
                ("resources.limits.memory", ""): "captured none, here 4Gi",
                ("resources.requests.cpu", ""): "captured none, here 1",
            },
        ),
    ],
)
def test_one_difference(fields, expected):
    assert compare(side(), side(**fields)) == expected


def test_values_of_variables_are_never_told():
    here = side(env=[{"name": "TOKEN", "value": "hunter2"}, {"name": "NEW", "value": "x"}])
    captured = side(env=[{"name": "TOKEN", "value": "hunter1"}])
    (text,) = compare(captured, here).values()
    assert text == "differ from the captured ones: NEW (not captured), TOKEN"


def test_what_differs_between_pods_by_nature_is_no_difference():
    source = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert compare(side(), side(env=[{"name": "POD", **source}])) == {}


def volumes(*pairs):
    mounts = [{"name": f"v{n}", "mountPath": path} for n, (path, _) in enumerate(pairs)]
    made = [{"name": f"v{n}", **volume} for n, (_, volume) in enumerate(pairs)]
    return {"volumeMounts": mounts, "spec": {"volumes": made}}


def test_every_mount_is_told():
    captured = side(**volumes(("/a", {"hostPath": {}}), ("/b", {"hostPath": {}})))
    assert compare(captured, side()) == {
        ("mounts", "MountsDiffer"): "nothing is mounted at /a, captured disk writable; "
        "nothing is mounted at /b, captured disk writable"
    }
    assert compare(side(), captured) == {("more mounts here", ""): "/a, /b"}


def test_memory_is_no_disk():
    captured = side(**volumes(("/a/", {"emptyDir": {"medium": "Memory"}})))
    here = side(**volumes(("//a", {"emptyDir": {}})))
    assert compare(captured, here) == {
        ("mounts", "MountsDiffer"): "/a: captured memory writable, here disk writable"
    }


@pytest.mark.parametrize(
    ("limit", "told"),
    [("1Gi", True), (None, False), ("nonsense", False)],
)
def test_shared_memory(limit, told):
    memory = {"medium": "Memory", **({"sizeLimit": limit} if limit else {})}
    captured = side(**volumes(("/dev/shm", {"emptyDir": memory})))
    found = compare(captured, side())
    assert (("bytes of /dev/shm", "SharedMemoryTooSmall") in found) == told


def test_gpus_of_another_kind():
    one = side(resources={"limits": {"nvidia.com/gpu": 1}})
    other = side(resources={"limits": {"nvidia.com/mig-1g.10gb": 1}})
    text = "captured nvidia.com/gpu, here nvidia.com/mig-1g.10gb"
    assert compare(one, other) == {("GPUs", "GpuDiffers"): text}


def test_groups_of_pod_and_container():
    spec = {"securityContext": {"fsGroup": 5, "supplementalGroups": [7, 6]}}
    found = compare(side(), side(spec=spec))
    assert found == {("user", "UserDiffers"): "groups captured nothing, here 5 6 7"}


def test_a_checkpoint_of_serving_pods_has_no_container():
    assert differences.of_checkpoint(warm.checkpoint(worker=True)) is None


def test_variants_on_another_kind_of_machine(monkeypatch):
    assert side().variant == warm.artifact()["name"]
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert side().variant == ""
