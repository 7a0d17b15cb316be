import pytest
import yaml

from chrek import errors
from chrek.checks import settings

RAW = {
    "apiVersion": "chrek.nvidia.com/v1alpha1",
    "kind": "ReleaseConfig",
    "helmRelease": "chrek",
    "release": "team-chrek",
    "namespace": "team",
    "watchNamespaces": ["team"],
    "crds": ["dynamocheckpoints.nvidia.com"],
    "store": {
        "kind": "Claim",
        "name": "chrek-pvc",
        "create": True,
        "storageClassName": "",
        "accessModes": ["ReadWriteMany"],
        "size": "100Gi",
    },
    "agentName": "chrek-agent",
    "agentLabels": {"app.kubernetes.io/component": "agent"},
    "operatorName": "chrek-operator",
    "operatorLabels": {"app.kubernetes.io/component": "operator"},
    "webhookName": "team-chrek",
    "testPodName": "chrek-test-round-trip",
    "identitiesName": "chrek-identities",
    "identities": [],
    "timeoutSeconds": 1,
    "maxUnavailableNodes": "10%",
    "agentHttpPort": 8089,
    "prewarm": [],
    "nodePaths": ["/var/lib/chrek/signals/team-chrek"],
}


def write(tmp_path, **changes):
    path = tmp_path / "release.yaml"
    path.write_text(yaml.safe_dump({**RAW, **changes}))
    return path


def test_load(tmp_path):
    config = settings.load(write(tmp_path))
    assert isinstance(config.store, settings.Claim)
    assert config.store.name == "chrek-pvc"


def test_load_of_a_store_on_a_server(tmp_path):
    store = {
        "kind": "Server",
        "type": "s3",
        "uri": "s3://bucket/prefix",
        "endpoint": "",
        "plainHttp": False,
        "credentialsSecret": "s3-creds",
        "caConfigMap": "",
        "keySecret": "",
    }
    loaded = settings.load(write(tmp_path, store=store)).store
    assert isinstance(loaded, settings.Server)
    assert loaded.credentialsSecret == "s3-creds"
    message = r"Invalid enum value 'nfs' - at `\$\.store\.type`"
    with pytest.raises(errors.ConfigError, match=message):
        settings.load(write(tmp_path, store={**store, "type": "nfs"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"store": {"kind": "Claim"}}, r"missing required field `name` - at `\$\.store`"),
        ({"store": {"kind": "Disk"}}, r"Invalid value 'Disk' - at `\$\.store\.kind`"),
        ({"kind": "AgentConfig"}, "Invalid value 'AgentConfig'"),
        ({"surplus": 1}, "unknown field `surplus`"),
        ({"prewarm": [{"name": "a"}]}, r"missing required field `namespace`.*`\$\.prewarm"),
        ({"timeoutSeconds": "1"}, r"Expected `int`, got `str` - at `\$\.timeoutSeconds`"),
    ],
)
def test_load_names_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(errors.ConfigError, match=message):
        settings.load(write(tmp_path, **changes))


def test_load_of_no_file(tmp_path):
    with pytest.raises(errors.ConfigError, match="No such file"):
        settings.load(tmp_path / "none")
    assert settings.load_pod(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("[", "pod.yaml: while parsing"), ("a: 2026-99-99", "pod.yaml: "), ("spec: {}", "not a pod")],
)
def test_a_pod_that_is_none(tmp_path, text, message):
    path = tmp_path / "pod.yaml"
    path.write_text(text)
    with pytest.raises(errors.ConfigError, match=message):
        settings.load_pod(path)


@pytest.mark.parametrize(
    ("wanted", "nodes", "allowed"),
    [("0", 9, 0), ("3", 9, 3), ("10%", 9, 0), ("10%", 10, 1), ("10%", 19, 1), ("50%", 4, 2)],
)
def test_allowed_unavailable_rounds_down(tmp_path, wanted, nodes, allowed):
    config = settings.load(write(tmp_path, maxUnavailableNodes=wanted))
    assert config.allowed_unavailable(nodes) == allowed


def test_the_label_of_a_release_is_short_and_its_own(tmp_path):
    assert settings.load(write(tmp_path)).label() == "team-chrek"
    long = [f"{'n' * 63}-{name}" for name in ("chrek-a", "chrek-b")]
    labels = [settings.load(write(tmp_path, release=name)).label() for name in long]
    assert [len(label) for label in labels] == [63, 63]
    assert labels[0] != labels[1]
