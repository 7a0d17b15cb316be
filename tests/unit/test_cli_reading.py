"""What commands ask, and what they say when the API server refuses."""

import click
import pytest

from chrek import errors
from chrek.cli import reading
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


def test_the_namespace(api, tmp_path, reader):
    assert reader.namespace == "team"
    assert reading.connect("other", None).namespace == "other"
    assert reading.connect(None, None, all_namespaces=True).namespace == ""
    with pytest.raises(click.UsageError, match=r"--namespace or --all-namespaces"):
        reading.connect("a", None, all_namespaces=True)
    with pytest.raises(errors.ConfigError):
        reading.connect(None, "no-such-context")


def test_objects_by_labels_and_fields(api, reader):
    api.add(warm.CHECKPOINTS, warm.checkpoint())
    assert [one["metadata"]["name"] for one in reader.find(reading.CHECKPOINTS)] == ["llama"]
    fields = {"involvedObject.name": "llm-1", "involvedObject.kind": "Pod"}
    reader.find(reading.EVENTS, labels={"a": "b"}, fields=fields)
    query = api.requests[-1][2]
    assert query["labelSelector"] == "a=b"
    assert query["fieldSelector"] == "involvedObject.name=llm-1,involvedObject.kind=Pod"


def test_a_cluster_wide_kind_has_no_namespace(api, reader):
    api.add(warm.WEBHOOKS, warm.webhook("team"))
    assert len(reader.find(reading.WEBHOOKS)) == 1


def test_get_and_merge(api, reader):
    assert reader.get(reading.PODS, "a") is None
    api.add(warm.PODS, warm.pod("a"))
    assert reader.get(reading.PODS, "a")["metadata"]["name"] == "a"
    patch = {"metadata": {"annotations": {"x": "y"}}}
    assert reader.merge(reading.PODS, "a", patch)["metadata"]["annotations"]["x"] == "y"


def test_a_missing_right_is_named(api, reader):
    api.refuse("GET", warm.CHECKPOINTS, status=403, message="forbidden")
    with pytest.raises(errors.ApiError) as caught:
        reader.find(reading.CHECKPOINTS)
    assert caught.value.status == 403
    assert caught.value.message == "you may not list dynamocheckpoints.nvidia.com in namespace team"
    right = "kubectl auth can-i list dynamocheckpoints.nvidia.com -n team"
    assert caught.value.hint.endswith(right)


@pytest.mark.parametrize(
    ("kind", "namespace", "message", "right"),
    [
        (reading.PODS, "", "you may not list pods in all namespaces", "can-i list pods -A"),
        (
            reading.WEBHOOKS,
            "",
            "you may not list mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        ),
        (
            ("v1", "pods/log"),
            "a",
            "you may not list pods/log in namespace a",
            "pods --subresource=log -n a",
        ),
    ],
)
def test_how_rights_are_told(kind, namespace, message, right):
    err = errors.ApiError("GET /x: forbidden (403)", status=403)
    found = reading.explained(err, "list", kind, namespace)
    assert found.message == message
    assert found.hint.endswith(right)


def test_missing_crds(api, reader):
    api.refuse("GET", warm.CHECKPOINTS, status=404, message="page not found")
    with pytest.raises(errors.ApiError) as caught:
        reader.find(reading.CHECKPOINTS)
    assert caught.value.message == "chrek's CRDs are not installed in this cluster"
    assert "helm install chrek" in caught.value.hint


def test_a_creation(api, reader):
    body = {"metadata": {"name": "a"}}
    assert reader.create(reading.CHECKPOINTS, body)["metadata"]["name"] == "a"
    with pytest.raises(errors.ApiError) as caught:
        reader.create(reading.CHECKPOINTS, body)
    assert caught.value.status == 409
    for message, told in (
        ("404 page not found", "chrek's CRDs are not installed"),
        ('namespaces "team" not found', 'namespaces "team" not found'),
    ):
        api.refuse("POST", warm.CHECKPOINTS, status=404, message=message)
        with pytest.raises(errors.ApiError, match=told):
            reader.create(reading.CHECKPOINTS, body)


def test_another_namespace(api, reader):
    api.add(warm.PODS.replace("team", "other"), warm.pod("a"))
    assert reader.find(reading.PODS) == []
    assert len(reader.of("other").find(reading.PODS)) == 1


def test_other_refusals(api, reader):
    api.refuse("GET", warm.PODS, status=401, message="Unauthorized")
    with pytest.raises(errors.ApiError, match="log in again"):
        reader.find(reading.PODS)
    api.refuse("GET", warm.PODS, status=500, message="no")
    with pytest.raises(errors.ApiError, match=r"no \(500\)"):
        reader.look(reading.PODS)


def test_no_answer(api, reader):
    api.__exit__()
    with pytest.raises(errors.ApiError, match="no answer") as caught:
        reader.find(reading.PODS)
    assert "KUBECONFIG and --context" in caught.value.hint


def test_what_may_not_be_looked_at_is_a_note_once(api, reader):
    api.refuse("GET", warm.EVENTS, status=403, message="forbidden")
    assert reader.look(reading.EVENTS) is None
    assert reader.look(reading.EVENTS) is None
    assert reader.notes == ["you may not list events in namespace team"]
    assert reader.look(reading.PODS) == []


def test_the_beginning_of_a_log(api, reader):
    api.texts[f"{warm.PODS}/a/log"] = b"first\nsecond\n"
    assert reader.log("a", "main") == "first\nsecond\n"
    assert api.requests[-1][2] == {"container": "main", "limitBytes": str(reading.LOG_BYTES)}
    assert reader.log("b", "main") == ""
    assert reader.notes == []
    api.refuse("GET", f"{warm.PODS}/c/log", status=403, message="forbidden")
    assert reader.log("c", "main") == ""
    assert reader.notes == ["you may not get pods/log in namespace team"]
