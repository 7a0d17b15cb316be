import pytest

from chrek.checks import releases, report
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
HELM = {
    "meta.helm.sh/release-name": "chrek",
    "meta.helm.sh/release-namespace": "other",
}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        release.webhook(server)
        yield server


def look(api, **changes):
    return releases.releases(release.connect(api), release.config(**changes))


def test_alone(api):
    assert look(api) == report.ok("releases", "no other in this cluster")


def test_others_are_named(api):
    release.webhook(api, "other-chrek", namespaces=("b", "a"), annotations=HELM)
    release.webhook(api, "third-chrek", namespaces=("c",))
    assert look(api) == report.ok(
        "releases",
        "shares the cluster's nodes with other/chrek (serves a, b), third-chrek (serves c)",
    )


def test_two_that_serve_a_namespace(api):
    release.webhook(api, "other-chrek", namespaces=("x", "b", "a"), annotations=HELM)
    found = look(api, watchNamespaces=["a", "b", "team"])
    assert found.status is report.Status.FAILED
    assert found.detail == "a, b: served by release other/chrek, and by team/chrek"
    assert "dynamo-operator.watchNamespaces of one of them" in found.hint
    assert "kubectl delete mutatingwebhookconfigurations other-chrek" in found.hint


def test_webhooks_of_others_are_none_of_ours(api):
    found = release.webhook(api, "istio", namespaces=("team",))
    found["metadata"]["labels"] = {"app": "istio"}
    assert look(api).status is report.Status.OK
    query = api.requests[-1][2]
    assert query == {"labelSelector": "app.kubernetes.io/part-of=chrek"}


@pytest.mark.parametrize(
    "hook",
    [
        {},
        {"namespaceSelector": {"matchLabels": {"a": "b"}}},
        {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
    ],
)
def test_a_selector_that_names_no_namespaces(hook):
    assert releases.served({"webhooks": [hook]}) == set()
