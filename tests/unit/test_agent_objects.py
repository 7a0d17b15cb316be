"""What the agent keeps of pods and DynamoCheckpoints."""

import copy
import json

import pytest

from chrek import manifest, names, variant
from chrek.agent import objects

ANNOTATIONS = {"nvidia.com/chrek-checkpoint": "llm", "nvidia.com/chrek-container": "worker"}
POD = {
    "metadata": {
        "namespace": "ns",
        "name": "p",
        "uid": "uid-1",
        "labels": {"nvidia.com/chrek-managed": "true"},
        "annotations": ANNOTATIONS,
    },
    "spec": {
        "initContainers": [{"name": "chrek-init", "image": "i"}],
        "containers": [
            {"name": "sidecar", "image": "s"},
            {
                "name": "worker",
                "image": "llm:1",
                "command": ["/chrek/chrek-init", "--wait", "20", "--", "serve", "--port", "1"],
                "env": [{"name": "A", "value": "1"}],
                "readinessProbe": {"httpGet": {"port": 1}},
            },
        ],
    },
    "status": {
        "phase": "Running",
        "containerStatuses": [
            {"name": "sidecar", "ready": False},
            {"name": "worker", "ready": True},
        ],
    },
}


def changed(*path, value):
    item = copy.deepcopy(POD)
    at = item
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return item


def test_a_pod():
    pod = objects.pod(POD)
    assert (pod.namespace, pod.name, pod.uid) == ("ns", "p", "uid-1")
    assert (pod.checkpoint, pod.container, pod.image) == ("llm", "worker", "llm:1")
    assert pod.command == ("serve", "--port", "1")
    assert pod.variant == variant.name("llm:1", ["serve", "--port", "1"])
    assert list(pod.environment) == ["A"]
    assert pod.has_readiness_probe
    assert pod.ready
    assert not pod.finished
    assert not pod.never_restarts
    assert pod.capture == {}
    assert pod.owner_job == ""


def test_a_pod_that_was_just_made():
    item = copy.deepcopy(POD)
    del item["status"]
    item["metadata"]["annotations"] = None
    item["metadata"]["labels"] = None
    item["spec"]["containers"][1]["name"] = "main"
    pod = objects.pod(item)
    assert (pod.checkpoint, pod.ready, pod.finished) == ("", False, False)


def test_a_pod_without_the_managed_container():
    wrong = {**ANNOTATIONS, "nvidia.com/chrek-container": "x"}
    assert objects.pod(changed("metadata", "annotations", value=wrong)) is None


@pytest.mark.parametrize(
    ("phase", "finished"), [("Pending", False), ("Running", False), ("Failed", True)]
)
def test_a_pod_that_ended(phase, finished):
    assert objects.pod(changed("status", "phase", value=phase)).finished is finished


def test_restart_policies():
    for policy, never in (("Never", True), ("OnFailure", False), ("Always", False)):
        item = changed("spec", "restartPolicy", value=policy)
        assert objects.pod(item).never_restarts is never


def source(capture):
    item = copy.deepcopy(POD)
    item["metadata"]["labels"]["nvidia.com/chrek-is-checkpoint-source"] = "true"
    item["metadata"]["annotations"]["nvidia.com/chrek-capture"] = capture
    item["metadata"]["ownerReferences"] = [
        {"kind": "Other", "name": "x"},
        {"kind": "Job", "name": "checkpoint-abc"},
    ]
    return objects.pod(item)


def test_a_checkpoint_job():
    pod = source(json.dumps({"checkpoint": "llm", "readiness": "file", "n": 1}))
    assert pod.capture == {"checkpoint": "llm", "readiness": "file", "n": "1"}
    assert pod.checkpoint == ""
    assert pod.owner_job == "checkpoint-abc"


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", '"x"'])
def test_a_request_that_cannot_be_read_is_none(text):
    assert source(text).capture == {}


def test_only_checkpoint_jobs_ask_for_captures():
    annotations = {**ANNOTATIONS, "nvidia.com/chrek-capture": '{"checkpoint": "llm"}'}
    assert objects.pod(changed("metadata", "annotations", value=annotations)).capture == {}


def environment(*env, env_from=()):
    return objects.environment({"env": list(env), "envFrom": list(env_from)})


def ref(kind, **fields):
    return {"name": "A", "valueFrom": {kind: fields}}


def test_variables_that_differ_by_nature_do_not_count():
    found = environment(
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        *({"name": name, "value": "x"} for name in names.ENV_ALIASES),
        *({"name": name, "value": "x"} for name in names.ENV_ALIASES.values()),
    )
    assert found == {}
    assert objects.environment({}) == objects.environment({"env": None, "envFrom": None}) == {}


def test_values_and_references_count():
    one = environment({"name": "A", "value": "1"})
    assert one == environment({"name": "A", "value": "1"})
    others = [
        environment({"name": "A", "value": "2"}),
        environment({"name": "A"}),
        environment({"name": "B", "value": "1"}),
        environment(ref("secretKeyRef", name="s", key="k")),
        environment(ref("secretKeyRef", name="s", key="l")),
        environment(ref("configMapKeyRef", name="s", key="k")),
        environment(env_from=[{"secretRef": {"name": "s"}}]),
        environment(env_from=[{"configMapRef": {"name": "s"}}]),
    ]
    texts = [json.dumps(found, sort_keys=True) for found in (one, *others)]
    assert len(set(texts)) == len(texts)
    assert environment({"name": "A", "value": ""}) == environment({"name": "A"})
    assert environment(ref("secretKeyRef", name="s", key="k")) == environment(
        ref("secretKeyRef", key="k", name="s")
    )


def test_values_are_not_kept():
    assert "hunter2" not in repr(environment({"name": "TOKEN", "value": "hunter2"}))


def volumes(volumes, mounts, *, other_mounts=(), init_mounts=(), alone=False):
    item = copy.deepcopy(POD)
    item["spec"]["volumes"] = [*volumes, {"name": "chrek", "emptyDir": {}}]
    containers = item["spec"]["containers"]
    containers[1]["volumeMounts"] = [*mounts, {"name": "chrek", "mountPath": "/chrek"}]
    containers[0]["volumeMounts"] = list(other_mounts)
    item["spec"]["initContainers"].append({"name": "fill", "volumeMounts": list(init_mounts)})
    if alone:
        del containers[0], item["spec"]["initContainers"][1]
    return {v.path: v.exclusive for v in objects.pod(item).volumes}


DATA = {"name": "data", "emptyDir": {}}
AT = {"name": "data", "mountPath": "/data"}


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([], {}),
        ([AT], {"/data": True}),
        ([{**AT, "mountPath": "/data/"}], {"/data": True}),
        ([{**AT, "mountPath": "data//x/../y/"}], {"/data/y": True}),
        ([{**AT, "readOnly": True}], {}),
        ([{**AT, "subPath": "x"}], {}),
        ([AT, {**AT, "mountPath": "/two"}], {"/data": True, "/two": True}),
        ([{"name": "host", "mountPath": "/h"}, {"name": "pvc", "mountPath": "/v"}], {}),
    ],
)
def test_empty_dirs_are_captured(mounts, expected):
    others = [{"name": "host", "hostPath": {}}, {"name": "pvc", "persistentVolumeClaim": {}}]
    found = volumes([DATA, *others], mounts, alone=True)
    assert found == {**expected, "/dev/shm": True}


def test_what_others_mount_is_not_exclusive():
    assert volumes([DATA], [AT]) == {"/data": True, "/dev/shm": False}
    assert volumes([DATA], [AT], other_mounts=[AT])["/data"] is False
    assert volumes([DATA], [AT], init_mounts=[AT])["/data"] is False
    memory = {"name": "shm", "emptyDir": {"medium": "Memory"}}
    shm = {"name": "shm", "mountPath": "/dev/shm"}
    assert volumes([memory], [shm]) == {"/dev/shm": True}
    assert isinstance(objects.pod(POD).volumes[0], manifest.Volume)


def test_a_checkpoint():
    item = {
        "metadata": {"namespace": "ns", "name": "llm"},
        "status": {
            "phase": "Ready",
            "identityHash": "0123456789abcdef",
            "variants": [{"name": "aaaa", "uuid": "u", "digest": "sha256:1", "bytes": 7}, {}],
        },
    }
    found = objects.checkpoint(item)
    assert (found.namespace, found.name, found.phase) == ("ns", "llm", "Ready")
    assert found.identity_hash == "0123456789abcdef"
    assert found.variants == (objects.Variant("aaaa", "u", "sha256:1"), objects.Variant(""))


@pytest.mark.parametrize("status", [None, {}, {"variants": None}])
def test_a_checkpoint_that_was_just_made(status):
    item = {"metadata": {"namespace": "ns", "name": "llm"}, "status": status}
    found = objects.checkpoint(item)
    assert (found.phase, found.variants) == ("", ())


def test_what_is_being_captured():
    item = {
        "metadata": {"namespace": "ns", "name": "llm", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "captureSource": "worker",
            "quiesce": {"http": {"port": 1, "path": "/sleep"}},
            "wake": {"exec": {"command": ["wake"]}},
        },
        "status": {
            "captures": [
                {
                    "variant": "aaaa",
                    "phase": "Creating",
                    "pods": [{"name": "a", "uid": "uid-1"}, {"name": "b", "uid": "uid-2"}],
                },
                {"variant": "bbbb", "phase": "Failed", "jobName": "checkpoint-0123"},
            ],
            "variants": [{"name": "aaaa", "image": "i", "createdAt": "t", "suspect": True}],
            "conditions": [{"type": "Ready", "reason": "Capturing", "message": "soon"}],
        },
    }
    found = objects.checkpoint(item)
    assert found.captures == (
        objects.Capture("aaaa", "Creating", "", frozenset({"uid-1", "uid-2"})),
        objects.Capture("bbbb", "Failed", "checkpoint-0123"),
    )
    assert found.variants == (objects.Variant("aaaa", "", "", "i", "t", suspect=True),)
    assert (found.capture_source, found.deleting) == ("worker", True)
    assert found.quiesce == {"http": {"port": 1, "path": "/sleep"}}
    assert found.wake == {"exec": {"command": ["wake"]}}
    assert (found.reason, found.message) == ("Capturing", "soon")


def container_status(**fields):
    statuses = [{"name": "worker", "containerID": "containerd://b2", **fields}]
    return objects.pod(changed("status", "containerStatuses", value=statuses))


def test_how_the_managed_container_ended():
    ended = {"terminated": {"exitCode": 7, "containerID": "containerd://a1"}}
    pod = container_status(lastState=ended, state={"running": {}})
    assert (pod.container_id, pod.exits) == ("b2", {"a1": 7})
    ended = {"terminated": {"exitCode": 0, "containerID": "cri-o://b2"}}
    assert container_status(state=ended, lastState={}).exits == {"b2": 0}
    assert container_status(state={"waiting": {}}).exits == {}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metadata", "deletionTimestamp"), "2026-01-01T00:00:00Z"),
        (("status", "reason"), "Evicted"),
        (("status", "conditions"), [{"type": "DisruptionTarget", "status": "True"}]),
    ],
)
def test_a_pod_that_is_ended_from_outside(path, value):
    assert objects.pod(changed(*path, value=value)).ending
    assert not objects.pod(POD).ending


def test_a_kubelet_that_probes_late():
    item = copy.deepcopy(POD)
    container = item["spec"]["containers"][1]
    assert objects.pod(item).probe_delay_seconds == 10
    container["readinessProbe"] = {"initialDelaySeconds": 120, "periodSeconds": 5}
    container["startupProbe"] = {"periodSeconds": 3, "successThreshold": 1}
    assert objects.pod(item).probe_delay_seconds == 128
    assert container_status().probe_delay_seconds == 10


def test_a_pod_that_its_checkpoint_is_made_from():
    item = copy.deepcopy(POD)
    item["metadata"]["annotations"]["nvidia.com/chrek-capture-source"] = "worker"
    item["status"]["podIP"] = "10.0.0.7"
    assert (objects.pod(item).capture_source, objects.pod(item).ip) == ("worker", "10.0.0.7")


VOLUMES = [
    ({"secret": {"secretName": "s"}}, "secret"),
    ({"configMap": {"name": "c"}}, "configMap"),
    ({"projected": {"sources": [{"configMap": {}}, {"secret": {}}]}}, "secret"),
    ({"projected": {"sources": [{"configMap": {}}]}}, "configMap"),
    ({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}, "changing"),
    ({"downwardAPI": {}}, "changing"),
    ({"emptyDir": {}}, "node"),
    ({"hostPath": {"path": "/x"}}, "node"),
    ({"persistentVolumeClaim": {"claimName": "c"}}, "shared"),
    ({"image": {"reference": "models:1"}}, "shared"),
    ({"nfs": {}}, "shared"),
]


def origin(volume=None, *, image="llm:1", image_id=None, **container):
    item = copy.deepcopy(POD)
    worker = item["spec"]["containers"][1]
    worker.update(container, image=image)
    if volume is not None:
        item["spec"]["volumes"] = [{"name": "v", **volume}]
        worker["volumeMounts"] = [{"name": "v", "mountPath": "/data/"}]
    if image_id is not None:
        item["status"]["containerStatuses"][1]["imageID"] = image_id
    return objects.pod(item).origin


@pytest.mark.parametrize(("volume", "kind"), VOLUMES)
def test_how_a_volume_is_compared(volume, kind):
    assert origin(volume).volumes == {"/data": kind}


def test_the_api_servers_own_volume_is_not_compared():
    volume = {"name": "kube-api-access-x", "projected": {"sources": [{"configMap": {}}]}}
    item = copy.deepcopy(POD)
    item["spec"]["volumes"] = [volume]
    mount = {"name": volume["name"], "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    item["spec"]["containers"][1]["volumeMounts"] = [mount]
    assert set(objects.pod(item).origin.volumes.values()) == {"changing"}


def test_files_of_a_projected_volume_that_are_another_pods():
    sources = [
        {"secret": {}},
        {"serviceAccountToken": {"path": "token"}},
        {"clusterTrustBundle": {"path": "ca.pem"}},
        {"downwardAPI": {"items": [{"path": "labels"}, {"path": "inner/name"}]}},
    ]
    found = origin({"projected": {"sources": sources}})
    assert found.changing == {"/data": ["token", "ca.pem", "labels", "inner/name"]}


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "image_id", "wanted"),
    [
        ("llm:1", f"registry/llm@{DIGEST}", DIGEST),
        ("llm:1", DIGEST, f"id:{DIGEST}"),
        ("llm:1", "", ""),
        ("llm:1", None, ""),
        (f"llm@{DIGEST}", None, DIGEST),
        (f"llm:1@{DIGEST}", f"x@sha256:{'b' * 64}", DIGEST),
    ],
)
def test_the_digest_of_what_runs(image, image_id, wanted):
    assert origin(image=image, image_id=image_id).image_digest == wanted


def test_where_variables_come_from():
    env = [
        {"name": "P", "value": "1"},
        ref("secretKeyRef", name="s", key="k"),
        {"name": "C", "valueFrom": {"configMapKeyRef": {}}},
        {"name": "F", "valueFrom": {"fieldRef": {}}},
    ]
    found = origin(env=env)
    assert found.variables == {"P": "", "A": "secret", "C": "configMap", "F": ""}
    assert found.every_variable == ""
    secret, config = {"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}
    for given, wanted in (
        ([config], "configMap"),
        ([secret], "secret"),
        ([secret, config], "secret"),
        ([config, secret], "secret"),
    ):
        assert origin(envFrom=given).every_variable == wanted


def test_acknowledged_secrets():
    item = copy.deepcopy(POD)
    item["spec"]["containers"][1]["envFrom"] = [{"secretRef": {"name": "s"}}]
    assert objects.pod(item).secret_variables == ("envFrom s",)
    assert not objects.pod(item).secrets_acknowledged
    yes = {"chrek.nvidia.com/acknowledge-secrets": "true"}
    item["metadata"]["annotations"] = {**ANNOTATIONS, **yes}
    assert objects.pod(item).secrets_acknowledged
    made = {"metadata": {"name": "c", "namespace": "ns", "annotations": yes}}
    assert objects.checkpoint(made).secrets_acknowledged
    del made["metadata"]["annotations"]
    assert not objects.checkpoint(made).secrets_acknowledged
