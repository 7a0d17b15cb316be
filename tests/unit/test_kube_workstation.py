import decimal
import time
import urllib.error

import pytest
from kubernetes import client

from chrek import errors
from chrek.kube import workstation
from fakes import api_server, kubelet

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

PODS = "/api/v1/namespaces/team/pods"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def cluster(api):
    configuration = client.Configuration()
    configuration.host = api.url
    return workstation.Cluster(configuration)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("v1", "nodes"), "/api/v1/nodes"),
        (("v1", "pods", "team"), PODS),
        (("v1", "pods", "team", "a"), f"{PODS}/a"),
        (("apps/v1", "daemonsets", "team", "a"), "/apis/apps/v1/namespaces/team/daemonsets/a"),
        (("v1", "pods", "te/am", "../a"), "/api/v1/namespaces/te%2Fam/pods/..%2Fa"),
    ],
)
def test_path(args, expected):
    assert workstation.path(*args) == expected


def test_quantity():
    assert workstation.quantity("1Gi") == decimal.Decimal(2**30)
    assert workstation.quantity("100Gi") > workstation.quantity("100G")
    with pytest.raises(errors.InputError, match="'much' is no quantity"):
        workstation.quantity("much")


def test_get_tells_nothing_from_refused(api, cluster):
    assert cluster.get(f"{PODS}/a") is None
    api.add(PODS, {"metadata": {"name": "a"}})
    assert cluster.get(f"{PODS}/a") == {"metadata": {"name": "a"}}
    api.refuse("GET", f"{PODS}/a", status=403, message="pods is forbidden")
    with pytest.raises(errors.ApiError, match=r"GET .*/a: pods is forbidden \(403\)") as caught:
        cluster.get(f"{PODS}/a")
    assert caught.value.status == 403


def test_find_selects_by_labels(api, cluster):
    api.add(PODS, {}, name="a", labels={"app": "x", "tier": "y"})
    api.add(PODS, {}, name="b", labels={"app": "x"})
    assert len(cluster.find(PODS)) == 2
    found = cluster.find(PODS, labels={"app": "x", "tier": "y"})
    assert [pod["metadata"]["name"] for pod in found] == ["a"]


def test_find_selects_by_fields(api, cluster):
    api.add(PODS, {}, name="a")
    assert len(cluster.find(PODS, fields={"spec.nodeName": "n1", "status.phase": "Running"})) == 1
    assert api.requests[-1][2] == {"fieldSelector": "spec.nodeName=n1,status.phase=Running"}


def test_the_beginning_of_a_log(api, cluster):
    assert cluster.log_start("team", "a", container="main", most_bytes=9) == ""
    api.texts[f"{PODS}/a/log"] = b"first"
    assert cluster.log_start("team", "a", container="main", most_bytes=9) == "first"
    assert api.requests[-1][2] == {"container": "main", "limitBytes": "9"}


def test_a_dry_run_creates_nothing(api, cluster):
    cluster.create(PODS, {"metadata": {"name": "a"}}, dry_run=True)
    assert api.requests[-1][2] == {"dryRun": "All"}
    assert cluster.get(f"{PODS}/a") is None
    cluster.create(PODS, {"metadata": {"name": "a"}})
    assert cluster.get(f"{PODS}/a") is not None


def test_apply_is_server_side_and_takes_over(api, cluster):
    cluster.apply(f"{PODS}/a", {"metadata": {"name": "a"}}, manager="me")
    method, path, query, body = api.requests[-1]
    assert (method, path) == ("PATCH", f"{PODS}/a")
    assert query == {"fieldManager": "me", "force": "true"}
    assert body == {"metadata": {"name": "a"}}


def test_merge_changes_what_the_patch_names(api, cluster):
    api.add(PODS, {"spec": {"a": 1, "b": 2}}, name="a")
    assert cluster.merge(f"{PODS}/a", {"spec": {"b": 3}})["spec"] == {"a": 1, "b": 3}


def test_delete_says_whether_there_was_one(api, cluster):
    api.add(PODS, {"metadata": {"name": "a"}})
    assert cluster.delete(f"{PODS}/a") is True
    assert cluster.delete(f"{PODS}/a") is False
    assert api.requests[-1][3] == {"propagationPolicy": "Background"}


def test_log_of_a_container_that_has_not_started_is_empty(api, cluster):
    path = f"{PODS}/a/log"
    api.refuse("GET", path, status=400, message="container is waiting to start")
    assert cluster.log("team", "a", container="main") == ""
    del api.refusals["GET", path]
    api.texts[path] = b"one\ntwo \xff\n"
    assert cluster.log("team", "a", container="main") == "one\ntwo �\n"
    assert api.requests[-1][2] == {"container": "main", "tailLines": "50"}


def test_no_answer_names_the_address(cluster, api):
    api.__exit__()
    with pytest.raises(errors.ApiError, match=f"no answer from {api.url}") as caught:
        cluster.get(f"{PODS}/a")
    assert caught.value.status == 0
    assert not isinstance(caught.value.__cause__, urllib.error.URLError)


def test_connect_says_how_to_name_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(errors.ConfigError, match="set KUBECONFIG to a kubeconfig file"):
        workstation.connect()


def test_an_impatient_connection_asks_once(api, cluster):
    answered = api.texts

    class Slow(dict):
        def __contains__(self, _):
            time.sleep(1.5)
            return False

    api.texts = Slow()
    # It will answer to nobody.
    api._server.handle_error = lambda *_: None
    with pytest.raises(errors.ApiError, match="no answer from") as caught:
        cluster.impatient(0.5, parallel=3).get(f"{PODS}/a")
    assert caught.value.status == 0
    assert len(api.requests) == 1
    api.texts = answered
    api.add(PODS, {"metadata": {"name": "a"}})
    assert cluster.impatient(5, parallel=3).get(f"{PODS}/a") is not None
    assert cluster.get(f"{PODS}/a") is not None


@pytest.fixture
def kubeconfig(tmp_path):
    file = tmp_path / "config"
    file.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "contexts:\n"
        "- {name: a, context: {cluster: a, user: a}}\n"
        "- {name: b, context: {cluster: a, user: a, namespace: team}}\n"
        "clusters: [{name: a, cluster: {server: 'http://192.0.2.2:1'}}]\n"
        "users: [{name: a, user: {}}]\n"
    )
    return file


def test_the_default_namespace_is_the_contexts(kubeconfig, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    assert workstation.default_namespace() == "default"
    kubeconfig.write_text(
        kubeconfig.read_text().replace("current-context: a", "current-context: b")
    )
    assert workstation.default_namespace() == "team"
    kubeconfig.unlink()
    assert workstation.default_namespace() == "default"


def test_a_context_of_the_kubeconfig(kubeconfig, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    assert workstation.default_namespace("b") == "team"
    assert workstation.default_namespace("a") == "default"
    kubeconfig.write_text(
        kubeconfig.read_text()
        .replace("clusters: [", "clusters: [{name: d, cluster: {server: 'http://192.0.2.3:1'}}, ")
        .replace("name: b, context: {cluster: a", "name: b, context: {cluster: d")
    )
    assert "192.0.2.3" in host(workstation.connect(context="b"))
    assert "192.0.2.2" in host(workstation.connect())
    with pytest.raises(errors.ConfigError, match="nowhere") as caught:
        workstation.connect(context="nowhere")
    assert "one of its contexts" in caught.value.hint


def test_a_context_counts_inside_a_pod_as_well(kubeconfig, monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.9")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert "192.0.2.2" in host(workstation.connect(kubeconfig, context="b"))
    with pytest.raises(errors.ConfigError, match="cannot tell how to reach a cluster"):
        workstation.connect(context="nowhere")


def host(cluster):
    return cluster._api.configuration.host


def test_connect_prefers_the_file_given(kubeconfig, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    assert workstation.connect(kubeconfig)._api.configuration.host == "http://192.0.2.2:1"


@pytest.mark.parametrize(
    ("item", "found", "is_true"),
    [
        ({}, {}, False),
        ({"status": {"conditions": None}}, {}, False),
        ({"status": {"conditions": [{"type": "Other", "status": "True"}]}}, {}, False),
        (
            {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "r"}]}},
            {"type": "Ready", "status": "False", "reason": "r"},
            False,
        ),
        (
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"type": "Ready", "status": "True"},
            True,
        ),
    ],
)
def test_conditions(item, found, is_true):
    assert workstation.condition(item, "Ready") == found
    assert workstation.is_true(item, "Ready") is is_true


def watched(cluster, version="2"):
    return cluster.watch(PODS, fields={"metadata.name": "a"}, resource_version=version, seconds=1)


def test_a_watch_tells_each_change():
    with kubelet.Kubelet() as api:
        configuration = client.Configuration()
        configuration.host = api.url
        cluster = workstation.Cluster(configuration)
        pod = {"metadata": {"name": "a"}, "spec": {"containers": [{"command": ["x"]}]}}
        version = cluster.create(PODS, pod)["metadata"]["resourceVersion"]
        found = list(watched(cluster, version))
        assert [kind for kind, _ in found] == ["MODIFIED"] * 3, "it ends by itself"
        versions = [int(item["metadata"]["resourceVersion"]) for _, item in found]
        assert versions == sorted(versions)
        query = api.requests[-1][2]
        assert (query["fieldSelector"], query["timeoutSeconds"]) == ("metadata.name=a", "1")
        for kind, _ in watched(cluster, version):
            assert kind == "MODIFIED"
            break
        assert cluster.get(f"{PODS}/a"), "whoever stops listening can ask on"


def test_a_watch_that_is_refused_or_too_old(api, cluster):
    api.refuse("GET", PODS, status=410, message="too old resource version")
    with pytest.raises(errors.ApiError, match="too old") as caught:
        list(watched(cluster))
    assert caught.value.status == 410
    api.refusals.clear()
    gone = b'{"type": "ERROR", "object": {"code": 410, "message": "expired"}}\n'
    api.texts[PODS] = b'{"type": "ADDED", "object": {}}\n' + gone
    found = watched(cluster)
    assert next(found) == ("ADDED", {})
    with pytest.raises(errors.ApiError, match="expired") as caught:
        next(found)
    assert caught.value.status == 410
