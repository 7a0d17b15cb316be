"""What chrek changes in a pod, and what it refuses."""

import copy

import pytest

from chrek import errors, names
from chrek.operator import place, podshape

WHERE = place.Place("pvc", "/checkpoints")
MAIN = {"name": "main", "image": "llama:1", "command": ["python3", "s.py"], "args": ["--x"]}


def shaped(spec, **changed):
    settings = {
        "index": 0,
        "command": ["python3", "s.py", "--x"],
        "arguments": ["--wait", "20"],
        "environment": [{"name": "DYN_CHECKPOINT_HASH", "value": "abc"}],
        "image": "chrek-init:1",
        "pull_policy": "IfNotPresent",
    }
    return podshape.shape(spec, **{**settings, **changed})


@pytest.mark.parametrize(
    ("containers", "wanted", "index"),
    [
        (["main"], None, 0),
        (["worker"], None, 0),
        (["proxy", "main"], None, 1),
        (["proxy", "worker"], "worker", 1),
        (["proxy", "main"], "proxy", 0),
    ],
)
def test_the_managed_container(containers, wanted, index):
    spec = {"containers": [{"name": name} for name in containers]}
    assert podshape.container_index(spec, wanted) == index


@pytest.mark.parametrize(
    ("containers", "wanted", "message"),
    [
        (["a", "b"], None, "which container is the worker? There are: a, b"),
        (["main"], "worker", "no container is named 'worker'; there are: main"),
        (["main", "b"], "main,b", "one container of a pod can be managed"),
        ([], None, "which container is the worker?"),
    ],
)
def test_an_unknown_container(containers, wanted, message):
    spec = {"containers": [{"name": name} for name in containers]}
    with pytest.raises(errors.UnsupportedError) as caught:
        podshape.container_index(spec, wanted)
    assert caught.value.reason == names.Reason.CONTAINER_UNKNOWN
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "container", "reason", "message"),
    [
        ({"shareProcessNamespace": True}, {}, "SharedProcessNamespace", "shareProcessNamespace"),
        ({"hostPID": True}, {}, "HostNamespace", "hostPID"),
        ({"hostIPC": True}, {}, "HostNamespace", "hostIPC"),
        ({"hostNetwork": True}, {}, "HostNamespace", "hostNetwork"),
        ({"hostUsers": False}, {}, "UserNamespace", "hostUsers: false"),
        ({}, {"tty": True}, "TerminalRequested", "tty"),
        ({"runtimeClassName": "kata-qemu"}, {}, "SandboxedRuntime", "kata-qemu"),
        ({"runtimeClassName": "gVisor"}, {}, "SandboxedRuntime", "gVisor"),
        ({"os": {"name": "windows"}}, {}, "Unsupported", "windows"),
        ({"nodeSelector": {"kubernetes.io/arch": "arm64"}}, {}, "Unsupported", "arm64"),
        (
            {},
            {"resources": {"limits": {"nvidia.com/mig-1g.5gb": "1"}}},
            "GpuPartitioned",
            "nvidia.com/mig-1g.5gb",
        ),
        ({}, {"volumeMounts": [{"mountPath": "/chrek/"}]}, "MountPathTaken", "/chrek"),
        ({}, {"volumeMounts": [{"mountPath": "/chrek/x"}]}, "MountPathTaken", "/chrek/x"),
        ({"volumes": [{"name": "chrek"}]}, {}, "MountPathTaken", "a volume named chrek"),
        ({"initContainers": [{"name": "chrek-init"}]}, {}, "MountPathTaken", "init container"),
    ],
)
def test_what_cannot_be_managed(spec, container, reason, message):
    with pytest.raises(errors.UnsupportedError) as caught:
        podshape.check(spec, container)
    assert caught.value.reason == reason
    assert message in str(caught.value)
    assert caught.value.hint.startswith("remove ")


@pytest.mark.parametrize(
    ("spec", "container"),
    [
        ({}, {}),
        ({"hostUsers": True, "runtimeClassName": "nvidia"}, {}),
        ({"nodeSelector": {"kubernetes.io/arch": "amd64"}, "os": {"name": "linux"}}, {}),
        ({"volumes": [{"name": "models"}]}, {"volumeMounts": [{"mountPath": "/chrekx"}]}),
    ],
)
def test_what_can_be_managed(spec, container):
    podshape.check(spec, container)


def test_the_shape_of_a_pod():
    spec = {
        "containers": [{**MAIN, "env": [{"name": "A", "value": "1"}]}, {"name": "proxy"}],
        "initContainers": [{"name": "first"}],
        "volumes": [{"name": "models"}],
        "unknownField": {"kept": True},
    }
    before = copy.deepcopy(spec)
    made = shaped(spec)
    assert spec == before, "the argument is not changed"
    main = made["containers"][0]
    assert main["command"] == [
        *["/chrek/chrek-init", "--wait", "20", "--"],
        *["python3", "s.py", "--x"],
    ]
    assert "args" not in main
    assert main["env"] == [
        {"name": "DYN_CHECKPOINT_HASH", "value": "abc"},
        {"name": "A", "value": "1"},
    ]
    assert main["volumeMounts"] == [{"name": "chrek", "mountPath": "/chrek"}]
    assert made["containers"][1] == {"name": "proxy"}
    assert [c["name"] for c in made["initContainers"]] == ["chrek-init", "first"]
    assert made["volumes"] == [{"name": "models"}, {"name": "chrek", "emptyDir": {}}]
    assert made["unknownField"] == {"kept": True}
    assert podshape.is_shaped(made)
    assert not podshape.is_shaped(spec)


def test_variables_of_chrek_replace_those_of_the_pod():
    spec = {"containers": [{**MAIN, "env": [{"name": "DYN_CHECKPOINT_HASH", "value": "mine"}]}]}
    assert shaped(spec)["containers"][0]["env"] == [{"name": "DYN_CHECKPOINT_HASH", "value": "abc"}]


def test_the_init_container_is_restricted_and_fits_a_quota():
    init = shaped({"containers": [MAIN]})["initContainers"][0]
    context = init["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert init["resources"]["requests"] == init["resources"]["limits"]
    assert set(init["resources"]["limits"]) == {"cpu", "memory"}
    assert init["command"] == ["/chrek-init", "--install", "/chrek/chrek-init"]


def test_a_limit_on_ephemeral_storage_is_met_only_where_the_worker_has_one():
    """A limit of the init container alone would be the limit of the whole pod."""
    resources = {"requests": {"ephemeral-storage": "1Gi"}, "limits": {}}
    init = shaped({"containers": [{**MAIN, "resources": resources}]})["initContainers"][0]
    assert "ephemeral-storage" in init["resources"]["requests"]
    assert "ephemeral-storage" not in init["resources"]["limits"]


def test_the_environment_of_workers_and_of_checkpoint_jobs():
    def of(source, digest="5941a4cb3c363457"):
        made = podshape.environment(WHERE, identity_hash=digest, source=source)
        return {variable["name"]: variable["value"] for variable in made}

    assert of(source=False) == {
        "DYN_CHECKPOINT_STORAGE_TYPE": "pvc",
        "DYN_CHECKPOINT_PATH": "/checkpoints",
        "DYN_CHECKPOINT_HASH": "5941a4cb3c363457",
        "DYNAMO_CHECKPOINT_STORAGE_TYPE": "pvc",
        "DYNAMO_CHECKPOINT_PATH": "/checkpoints",
        "DYNAMO_CHECKPOINT_HASH": "5941a4cb3c363457",
    }
    assert of(source=True) == {
        "DYN_CHECKPOINT_STORAGE_TYPE": "pvc",
        "DYN_CHECKPOINT_LOCATION": "/checkpoints/5941a4cb3c363457",
        "DYN_CHECKPOINT_HASH": "5941a4cb3c363457",
        "DYN_READY_FOR_CHECKPOINT_FILE": "/chrek/ready-for-checkpoint",
        "DYN_SNAPSHOT_CONTROL_DIR": "/chrek",
        "DYNAMO_CHECKPOINT_STORAGE_TYPE": "pvc",
        "DYNAMO_CHECKPOINT_LOCATION": "/checkpoints/5941a4cb3c363457",
        "DYNAMO_CHECKPOINT_HASH": "5941a4cb3c363457",
        "DYNAMO_CHECKPOINT_SIGNAL_FILE": "/chrek/ready-for-checkpoint",
    }
    assert "DYN_CHECKPOINT_HASH" not in of(source=False, digest="")


@pytest.mark.parametrize("kind", ["s3", "oci"])
def test_the_environment_with_a_store_on_a_server(kind):
    """There is no path; workers get the location as well."""
    where = place.Place(kind, f"{kind}://a/b")

    def of(source, digest="5941a4cb3c363457"):
        made = podshape.environment(where, identity_hash=digest, source=source)
        return {variable["name"]: variable["value"] for variable in made}

    told = {
        "DYN_CHECKPOINT_STORAGE_TYPE": kind,
        "DYN_CHECKPOINT_LOCATION": f"{kind}://a/b/5941a4cb3c363457",
        "DYN_CHECKPOINT_HASH": "5941a4cb3c363457",
        "DYNAMO_CHECKPOINT_STORAGE_TYPE": kind,
        "DYNAMO_CHECKPOINT_LOCATION": f"{kind}://a/b/5941a4cb3c363457",
        "DYNAMO_CHECKPOINT_HASH": "5941a4cb3c363457",
    }
    assert of(source=False) == told
    assert of(source=True) == told | {
        "DYN_READY_FOR_CHECKPOINT_FILE": "/chrek/ready-for-checkpoint",
        "DYN_SNAPSHOT_CONTROL_DIR": "/chrek",
        "DYNAMO_CHECKPOINT_SIGNAL_FILE": "/chrek/ready-for-checkpoint",
    }
    assert of(source=False, digest="") == {
        "DYN_CHECKPOINT_STORAGE_TYPE": kind,
        "DYNAMO_CHECKPOINT_STORAGE_TYPE": kind,
    }
