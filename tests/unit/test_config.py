"""Configuration files: defaults, and a message with the path of what is wrong."""

import pytest
import yaml

from chrek import config, errors

AGENT = {
    "apiVersion": "chrek.nvidia.com/v1alpha1",
    "kind": "AgentConfig",
    "release": "team-chrek",
    "watchNamespaces": ["team"],
}
OPERATOR = {
    "apiVersion": "chrek.nvidia.com/v1alpha1",
    "kind": "OperatorConfig",
    "release": "team-chrek",
    "watchNamespaces": ["team"],
    "initImage": "chrek-init:0.1.0",
    "leaseName": "chrek-operator",
    "webhookName": "team-chrek",
    "webhookServiceName": "chrek-webhook",
    "certificateSecretName": "chrek-webhook-cert",
    "agentServiceAccountName": "chrek-agent",
}

BAD = [
    ({"kind": "OperatorConfig"}, "OperatorConfig"),
    ({"apiVersion": "v1"}, "$.apiVersion"),
    ({"release": None}, "$.release"),
    ({"watchNamespaces": "team"}, "$.watchNamespaces"),
    ({"httpPort": "8089"}, "$.httpPort"),
    ({"logLevel": "loud"}, "$.logLevel"),
    ({"htpPort": 1}, "htpPort"),
    ({"envFromSecrets": "allow"}, "$.envFromSecrets"),
    ({"ignoreDifferences": ["images"]}, "$.ignoreDifferences"),
    ({"storage": {"type": "nfs"}}, "$.storage.type"),
    ({"gpu": {"driverRoots": ["opt/nvidia"]}}, "$.gpu.driverRoots"),
    ({"gpu": {"lockTimeoutSeconds": 0}}, "$.gpu.lockTimeoutSeconds"),
    ({"gpu": {"roots": []}}, "$.gpu"),
    ({"storage": {"pvc": {"name": "x"}}}, "$.storage.pvc"),
]


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def test_defaults(tmp_path):
    loaded = config.load(write(tmp_path / "agent.yaml", AGENT), config.AgentConfig)
    assert loaded.storage.pvc.basePath == "/checkpoints"
    assert loaded.storage.pvc.pvcName == "chrek-pvc"
    assert loaded.signalHostPath == "/var/lib/chrek/signals"
    assert loaded.startupTaint == ""
    assert (loaded.gpu.driverRoots, loaded.gpu.lockTimeoutSeconds) == ([], 60)
    assert loaded.silenceTimeoutSeconds < loaded.restoreTimeoutSeconds < loaded.dumpTimeoutSeconds


def test_operator(tmp_path):
    loaded = config.load(write(tmp_path / "operator.yaml", OPERATOR), config.OperatorConfig)
    assert loaded.agentWaitSeconds == 20
    assert loaded.webhookPort == 9443
    limits = loaded.housekeeping
    assert (limits.maxBytes, limits.unusedSeconds, limits.nearlyFullPercent) == (0, 0, 90)


@pytest.mark.parametrize(
    "limits", [{"maxBytes": -1}, {"unusedSeconds": "30d"}, {"nearlyFullPercent": 0}, {"quota": 1}]
)
def test_housekeeping_that_cannot_be(tmp_path, limits):
    path = write(tmp_path / "operator.yaml", {**OPERATOR, "housekeeping": limits})
    with pytest.raises(errors.ConfigError, match="housekeeping"):
        config.load(path, config.OperatorConfig)


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_named(tmp_path, change, message):
    path = write(tmp_path / "agent.yaml", AGENT | change)
    with pytest.raises(errors.ConfigError) as caught:
        config.load(path, config.AgentConfig)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert "schemas/config.schema.json" in caught.value.hint


@pytest.mark.parametrize("text", ["a: [", "- a", "", "just text"])
def test_what_is_no_object(tmp_path, text):
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(errors.ConfigError):
        config.load(path, config.AgentConfig)


def test_a_missing_file(tmp_path):
    with pytest.raises(errors.ConfigError, match="No such file"):
        config.load(tmp_path / "none.yaml", config.AgentConfig)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(errors.ConfigError):
        config.load(path, config.AgentConfig)
