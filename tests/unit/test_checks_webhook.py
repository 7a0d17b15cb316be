import pytest

from chrek import errors
from chrek.checks import report, webhook
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        release.running(server)
        yield server


def look(api, **changes):
    return webhook.webhook(release.connect(api), release.config(**changes))


def test_a_webhook_that_answers(api):
    assert look(api) == report.ok("webhook", "team-chrek answers for namespace team")


def test_it_is_asked_by_a_dry_run_in_the_first_namespace(api):
    look(api, watchNamespaces=["a", "b"])
    method, path, query, body = api.requests[-1]
    assert (method, path) == ("POST", "/api/v1/namespaces/a/pods")
    assert query == {"dryRun": "All"}
    assert body["metadata"]["annotations"] == {"nvidia.com/chrek-checkpoint": "0" * 16}
    assert not [path for path in api.objects if "chrek-preflight" in path]


def test_a_pod_that_is_skipped_was_seen_too(api):
    def skip(_, body):
        body["metadata"]["annotations"]["nvidia.com/chrek-skipped"] = "HostNamespace: x"

    api.on_create = skip
    assert look(api).status is OK


def test_a_webhook_that_nobody_reaches(api):
    api.on_create = lambda path, body: None
    found = look(api)
    assert found.status is FAILED
    assert found.detail == (
        "the API server does not reach the webhook: a pod in team was left as it is"
    )
    assert "TCP port 9443" in found.hint
    assert "kubectl logs deployment/chrek-operator -n team" in found.hint


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "exceeded quota: q, requested: pods=1"),
        (403, "pods is forbidden: User x cannot create resource pods"),
        (422, "denied by policy images"),
    ],
)
def test_a_namespace_that_admits_no_pod_is_no_failure(api, status, message):
    api.refuse("POST", release.PODS, status=status, message=message)
    found = look(api)
    assert found.status is WARNING
    assert message in found.detail


def test_an_api_server_that_fails_is_not_judged(api):
    api.refuse("POST", release.PODS, status=500, message="etcd is gone")
    with pytest.raises(errors.ApiError, match="etcd is gone"):
        look(api)


def test_a_webhook_without_an_authority(api):
    release.webhook(api, ca="")
    found = look(api)
    assert (found.status, found.detail) == (FAILED, "team-chrek has no caBundle yet")


def test_a_webhook_that_somebody_deleted(api):
    found = look(api, webhookName="none")
    assert found.status is FAILED
    assert "none: not found" in found.detail


def test_the_pod_is_admitted_where_little_is():
    spec = webhook.pod("team")["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= set(resources["limits"])
