"""Which pods an argument means."""

import pytest

from chrek import errors
from chrek.cli import pods, reading
from fakes import api_server, warm

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def reader(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    return reading.connect(None, None)


def named(found):
    label, items = found
    return label, [item["metadata"]["name"] for item in items]


@pytest.mark.parametrize("text", ["llm-1", "pod/llm-1", "po/llm-1"])
def test_a_pod(api, reader, text):
    api.add(warm.PODS, warm.pod())
    assert named(pods.find(reader, text)) == ("pod/llm-1", ["llm-1"])


def test_a_pod_that_is_not_there(reader):
    with pytest.raises(errors.InputError, match="no pod llm-1 in namespace team") as caught:
        pods.find(reader, "llm-1")
    assert "kubectl get pods -n team" in caught.value.hint


def test_pods_of_a_deployment_the_newest_first(api, reader):
    api.add(warm.DEPLOYMENTS, warm.deployment())
    for number, hour in enumerate((9, 11, 10)):
        when = f"2026-01-29T{hour:02}:00:00Z"
        api.add(warm.PODS, warm.pod(f"llm-{number}", metadata={"creationTimestamp": when}))
    api.add(warm.PODS, warm.pod("other", labels={"app": "other"}))
    assert named(pods.find(reader, "deploy/llm")) == ("deployment/llm", ["llm-1", "llm-2", "llm-0"])


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ({"key": "app", "operator": "In", "values": ["llm"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["llm"]}, False),  # codespell:ignore
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
    ],
)
def test_selectors_with_expressions(api, reader, expression, chosen):
    body = warm.deployment()
    body["spec"]["selector"] = {"matchExpressions": [expression]}
    api.add(warm.DEPLOYMENTS, body)
    api.add(warm.PODS, warm.pod())
    if chosen:
        assert named(pods.find(reader, "deployment/llm"))[1] == ["llm-1"]
    else:
        with pytest.raises(errors.InputError, match="deployment/llm has no pods"):
            pods.find(reader, "deployment/llm")


def test_a_workload_that_is_not_there_or_may_not_be_read(api, reader):
    with pytest.raises(errors.InputError, match="no Deployment llm"):
        pods.find(reader, "deployment/llm")
    api.refuse("GET", f"{warm.DEPLOYMENTS}/llm", status=403, message="forbidden")
    with pytest.raises(
        errors.ApiError, match=r"you may not get deployments.apps in namespace team"
    ):
        pods.find(reader, "deployment/llm")
    with pytest.raises(errors.InputError, match="not the name of a workload"):
        pods.find(reader, "service/llm")


def test_what_makes_a_pod():
    assert pods.workload_of(warm.pod(**warm.of_deployment())) == ("Deployment", "llm")
    assert pods.workload_of(warm.pod(**warm.owned("ReplicaSet", "llm-x"))) == (
        "ReplicaSet",
        "llm-x",
    )
    assert pods.workload_of(warm.pod(**warm.owned("Job", "j"))) == ("Job", "j")
    assert pods.workload_of(warm.pod()) == ("", "")
