"""Kubeconfig files as kubectl merges them, and names from an API server."""

import json
import os
import ssl
import subprocess
import sys

import pytest

from chrek import errors
from chrek.kube import glance
from fakes import api_server, warm


def written(folder, name="config", **changes):
    """A kubeconfig file of one cluster."""
    raw = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        **changes,
    }
    path = folder / name
    path.write_text(json.dumps(raw))
    return {"KUBECONFIG": str(path)}


def test_a_context_of_one_file(tmp_path):
    environ = written(tmp_path)
    known = glance.plain(glance.read(environ), None, environ)
    assert (known.server, known.token, known.namespace, known.tls) == (
        *("http://127.0.0.1:1", "t", "team"),
        None,
    )


def test_earlier_files_count_and_files_are_named_from_their_own(tmp_path):
    (tmp_path / "b").mkdir()
    first = written(tmp_path, contexts=[], clusters=[], users=[])["KUBECONFIG"]
    users = [{"name": "u", "user": {"tokenFile": "token"}}]
    second = written(tmp_path / "b", users=users, **{"current-context": "other"})["KUBECONFIG"]
    (tmp_path / "b/token").write_text("from a file\n")
    environ = {"KUBECONFIG": f"{first}:{tmp_path}/missing:{second}"}
    config = glance.read(environ)
    assert config.current == "c"
    assert glance.plain(config, None, environ).bearer() == "from a file"


def test_the_file_in_the_home_directory(tmp_path, monkeypatch):
    (tmp_path / ".kube").mkdir()
    written(tmp_path / ".kube")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [*glance.read({}).contexts] == ["c"]


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "contexts: 3", "\x00"])
def test_a_file_that_is_no_kubeconfig(tmp_path, text):
    (tmp_path / "config").write_text(text)
    config = glance.read({"KUBECONFIG": str(tmp_path / "config")})
    assert config.contexts == {}
    with pytest.raises(errors.ConfigError, match="usable context"):
        glance.plain(config, None, {})


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"users": [{"name": "u", "user": {"exec": {"command": "aws"}}}]}, {}),
        ({"users": [{"name": "u", "user": {"token": "t", "as": "somebody"}}]}, {}),
        (
            {"clusters": [{"name": "k", "cluster": {"server": "http://a", "proxy-url": "b"}}]},
            {},
        ),
        ({}, {"https_proxy": "http://proxy"}),
    ],
)
def test_what_needs_the_official_client(tmp_path, changes, more):
    environ = {**written(tmp_path, **changes), **more}
    assert glance.plain(glance.read(environ), None, environ) is None


def test_certificates_that_are_not_there(tmp_path):
    cluster = {"server": "https://127.0.0.1:1", "certificate-authority": "ca.crt"}
    environ = written(tmp_path, clusters=[{"name": "k", "cluster": cluster}])
    with pytest.raises(errors.ConfigError, match=r"certificates cannot be used.*ca\.crt"):
        glance.plain(glance.read(environ), None, environ)


def test_without_verification(tmp_path):
    cluster = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": True}
    environ = written(tmp_path, clusters=[{"name": "k", "cluster": cluster}])
    known = glance.plain(glance.read(environ), "c", environ)
    assert known.tls.verify_mode is ssl.CERT_NONE


def test_in_a_pod_the_account_is_asked_for():
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOME": "/nonexistent"}
    with pytest.raises(errors.ConfigError, match="serviceaccount"):
        glance.plain(glance.Config(), None, environ)


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        warm.cluster(server, warm.checkpoint("one"), warm.checkpoint("two"))
        yield server


def server_of(api, folder):
    environ = {"KUBECONFIG": str(api.kubeconfig(folder, "team"))}
    return glance.Server(glance.plain(glance.read(environ), None, environ), seconds=5)


def test_names_of_a_namespace_and_of_what_has_none(api, tmp_path):
    api.add("/api/v1/namespaces", {}, name="team")
    server = server_of(api, tmp_path)
    assert server.names(("nvidia.com/v1alpha1", "dynamocheckpoints"), "team") == ["one", "two"]
    assert server.names(("v1", "namespaces")) == ["team"]
    server.close()
    assert [path for _, path, _, _ in api.requests] == [warm.CHECKPOINTS, "/api/v1/namespaces"]
    assert api.requests[0][2] == {"limit": "1000"}


def test_a_refusal_has_its_status(api, tmp_path):
    api.refuse("GET", warm.PODS, status=403, message="no")
    server = server_of(api, tmp_path)
    with pytest.raises(errors.ApiError) as caught:
        server.names(("v1", "pods"), "team")
    assert caught.value.status == 403
    server.close()


def test_nobody_answers(tmp_path):
    environ = written(tmp_path)
    server = glance.Server(glance.plain(glance.read(environ), None, environ), seconds=1)
    with pytest.raises(errors.ApiError, match="did not answer"):
        server.names(("v1", "pods"), "team")


def test_it_loads_neither_client():
    code = (
        "import sys, chrek.kube.glance\n"
        "assert not {'kubernetes', 'aiohttp', 'urllib3'} & sys.modules.keys(), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
