"""Each check with an environment that passes, with each way to fail, and the line a user reads."""

import pytest

from chrek import errors
from chrek.checks import cluster as cluster_checks
from chrek.checks import report
from fakes import api_server, release

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

POD = {"metadata": {"labels": {}}, "spec": {"containers": []}}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        release.healthy(server)
        yield server


@pytest.fixture
def cluster(api):
    return release.connect(api)


def version(api, major, minor, text):
    api.texts["/version"] = (
        f'{{"major": "{major}", "minor": "{minor}", "gitVersion": "{text}"}}'.encode()
    )


@pytest.mark.parametrize(
    ("major", "minor", "status"),
    [
        ("1", "29", report.Status.OK),
        ("1", "34+", report.Status.OK),
        ("2", "0", report.Status.OK),
        ("1", "28", report.Status.FAILED),
        ("1", "", report.Status.WARNING),
    ],
)
def test_kubernetes_version(api, cluster, major, minor, status):
    version(api, major, minor, "v1.2.3")
    found = cluster_checks.kubernetes_version(cluster, release.config())
    assert found.status is status
    assert "v1.2.3" in found.detail
    if status is report.Status.FAILED:
        assert found.hint == "upgrade the cluster to 1.29 or later"


def test_namespaces(api, cluster):
    assert cluster_checks.namespaces(cluster, release.config()).status is report.Status.OK
    found = cluster_checks.namespaces(cluster, release.config(watchNamespaces=["team", "x", "y"]))
    assert found.status is report.Status.FAILED
    assert found.detail == "x, y: not found"
    assert "kubectl create namespace x && kubectl create namespace y" in found.hint


def test_crds_of_ours(api, cluster):
    found = cluster_checks.crds(cluster, release.config())
    assert found == report.ok("crds", release.CRD)


def test_crds_missing(api, cluster):
    del api.objects[f"{release.CRDS}/{release.CRD}"]
    found = cluster_checks.crds(cluster, release.config())
    assert found.status is report.Status.FAILED
    assert found.detail == f"{release.CRD}: not found"
    assert "files/crds/" in found.hint


def test_crds_of_another_chart_are_named(api, cluster):
    annotations = {
        "meta.helm.sh/release-name": "dynamo",
        "meta.helm.sh/release-namespace": "platform",
    }
    api.add(release.CRDS, release.crd(labels={}, annotations=annotations))
    found = cluster_checks.crds(cluster, release.config())
    assert found.status is report.Status.WARNING
    assert f"{release.CRD} by helm release platform/dynamo" in found.detail
    api.add(release.CRDS, release.crd(labels={}))
    assert "by 'dynamo-platform'" in cluster_checks.crds(cluster, release.config()).detail


@pytest.mark.parametrize("crd", [release.crd(version="v1"), release.crd(served=False)])
def test_crds_of_another_version(api, cluster, crd):
    api.add(release.CRDS, crd)
    found = cluster_checks.crds(cluster, release.config())
    assert found.status is report.Status.FAILED
    assert "version v1alpha1 is not served" in found.detail


def test_identities(cluster):
    good = {"model": "m", "backendFramework": "vllm"}
    found = cluster_checks.identities(cluster, release.config(identities=[good]))
    assert found == report.ok("identities", "1 to hash")
    found = cluster_checks.identities(cluster, release.config(identities=[good, {"model": "m"}]))
    assert found.status is report.Status.FAILED
    assert "identities[1].backendFramework: required" in found.detail


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        (
            'pods "a" is forbidden: violates PodSecurity "baseline:latest": privileged',
            "kubectl label namespace team pod-security.kubernetes.io/enforce=privileged "
            "--overwrite",
        ),
        ('pods "a" is forbidden: exceeded quota: q', "raise the quota of namespace team"),
        ("failed quota: q: must specify limits.memory", "set agent.resources to fit it"),
        ("no PriorityClass with name x was found", "correct what the message names"),
    ],
)
def test_pod_security_refused(api, cluster, message, hint):
    api.refuse("POST", release.PODS, status=403, message=message)
    found = cluster_checks.pod_security(cluster, POD, namespace="team")
    assert found.status is report.Status.FAILED
    assert message in found.detail
    assert hint in found.hint


def test_pod_security_only_asks(api, cluster):
    found = cluster_checks.pod_security(cluster, POD, namespace="team")
    assert found.status is report.Status.OK
    method, path, query, _ = api.requests[-1]
    assert (method, path, query) == ("POST", release.PODS, {"dryRun": "All"})
    assert not [path for path in api.objects if path.startswith(release.PODS)]


def test_pod_security_does_not_judge_a_server_that_fails(api, cluster):
    api.refuse("POST", release.PODS, status=500, message="etcd is gone")
    with pytest.raises(errors.ApiError, match="etcd is gone"):
        cluster_checks.pod_security(cluster, POD, namespace="team")
