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
        "cachePath": "/var/lib/chrek/cache/team-chrek",
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
    ("wanted", "nodes", "allowed"),
    [("0", 9, 0), ("3", 9, 3), ("10%", 9, 0), ("10%", 10, 1), ("10%", 19, 1), ("50%", 4, 2)],
)
def test_allowed_unavailable_rounds_down(tmp_path, wanted, nodes, allowed):
    config = settings.load(write(tmp_path, maxUnavailableNodes=wanted))
    assert config.allowed_unavailable(nodes) == allowed
