"""Where the API server is: the service account's files, or a kubeconfig."""

import base64
import datetime
import ssl

import pytest
import yaml

from chrek import errors
from chrek.kube import credentials
from chrek.operator import certificates


@pytest.fixture(scope="module")
def bundle():
    now = datetime.datetime.now(datetime.UTC)
    return certificates.renewed(None, ["localhost"], now=now)


@pytest.fixture
def account(tmp_path, bundle):
    (tmp_path / "ca.crt").write_bytes(bundle.authorities)
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text("my-team")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "server"),
    [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")],
)
def test_in_a_cluster(account, host, server):
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    found = credentials.in_cluster(environ, directory=account)
    assert (found.server, found.namespace, found.bearer()) == (server, "my-team", "first")
    assert found.tls.verify_mode is ssl.CERT_REQUIRED


def test_a_rotated_token_is_read_again(account, monkeypatch):
    found = credentials.in_cluster({"KUBERNETES_SERVICE_HOST": "h"}, directory=account)
    assert found.bearer() == "first"
    (account / "token").write_text("second")
    assert found.bearer() == "first"
    monkeypatch.setattr(credentials, "TOKEN_SECONDS", 0.0)
    assert found.bearer() == "second"
    (account / "token").unlink()
    assert found.bearer() == "second", "a token that is being replaced is no reason to stop"


def kubeconfig(path, bundle, **user):
    data = base64.b64encode(bundle.authorities).decode()
    cluster = {"server": "https://localhost:6443/", "certificate-authority-data": data}
    raw = {
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "c", "user": "u", "namespace": "x"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(raw))
    return credentials.credentials({"KUBECONFIG": str(path)})


def test_a_kubeconfig_with_a_client_certificate(tmp_path, bundle):
    (tmp_path / "client.key").write_bytes(bundle.key)
    found = kubeconfig(
        tmp_path / "config",
        bundle,
        **{
            "client-certificate-data": base64.b64encode(bundle.certificate).decode(),
            "client-key": "client.key",
        },
    )
    assert (found.server, found.namespace) == ("https://localhost:6443", "x")
    assert found.bearer() == ""


def test_a_kubeconfig_with_a_token(tmp_path, bundle):
    assert kubeconfig(tmp_path / "config", bundle, token="t").bearer() == "t"


def test_credential_plugins_are_refused(tmp_path, bundle):
    with pytest.raises(errors.ConfigError, match="authenticates with a plugin"):
        kubeconfig(tmp_path / "config", bundle, exec={"command": "aws"})


@pytest.mark.parametrize("text", ["", "[]", "a: b", "current-context: x", "{"])
def test_what_is_no_kubeconfig(tmp_path, text):
    (tmp_path / "config").write_text(text)
    with pytest.raises(errors.ConfigError, match="cannot be used as a kubeconfig"):
        credentials.credentials({"KUBECONFIG": str(tmp_path / "config")})


def test_no_api_server_at_all():
    with pytest.raises(errors.ConfigError, match="neither KUBECONFIG nor KUBERNETES_SERVICE_HOST"):
        credentials.credentials({})


def test_a_service_account_that_is_not_mounted(tmp_path):
    with pytest.raises(errors.ConfigError, match="automountServiceAccountToken"):
        credentials.in_cluster({"KUBERNETES_SERVICE_HOST": "h"}, directory=tmp_path / "no")
