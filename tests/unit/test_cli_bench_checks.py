"""What is known before a pod is made: rights, and whether chrek prepares such pods."""

import pytest
from kubernetes import client

from chrek import errors
from chrek.cli import bench_checks, reading
from chrek.kube import workstation
from fakes import kubelet, warm
from fakes.benches import plan

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")


@pytest.fixture
def api():
    with kubelet.Kubelet() as server:
        yield server


@pytest.fixture
def reader(api):
    configuration = client.Configuration()
    configuration.host = api.url
    return reading.Reader(workstation.Cluster(configuration), "team")


@pytest.mark.parametrize("missing", bench_checks.VERBS)
def test_a_missing_right(api, reader, missing):
    bench_checks.rights(reader)
    api.allowed = lambda verb: verb != missing
    with pytest.raises(errors.ApiError, match=f"you may not {missing} pods in namespace team"):
        bench_checks.rights(reader)


def test_who_may_not_ask_may_try(api, reader):
    api.refuse("POST", kubelet.REVIEWS, status=403, message="forbidden")
    bench_checks.rights(reader)


def admitted(reader, **fields):
    bench_checks.admitted(reader, plan(**fields), [warm.checkpoint()])


def test_pods_as_they_should_be(api, reader):
    admitted(reader)
    assert not api.pods(), "nothing is made"
    assert [query for _, _, query, _ in api.requests] == [{"dryRun": "All"}] * 2


@pytest.mark.parametrize(
    ("webhook", "message", "hint"),
    [
        (warm.webhook("team"), "chrek's webhook did not answer", "chrek doctor"),
        (warm.webhook("other"), "no release of chrek serves namespace team", "helm upgrade"),
        (None, "chrek is not installed in this cluster", "helm install"),
    ],
)
def test_a_warm_pod_that_is_not_prepared(api, reader, webhook, message, hint):
    api.injects = False
    if webhook:
        api.add(warm.WEBHOOKS, webhook)
    with pytest.raises(errors.InputError, match=message) as caught:
        admitted(reader)
    assert caught.value.hint.startswith(hint)


def test_a_warm_pod_that_chrek_skips(api, reader):
    def skip(path, body):
        body["metadata"].setdefault("annotations", {})["nvidia.com/chrek-skipped"] = (
            "HostNamespace: x"
        )

    api.on_create = skip
    with pytest.raises(errors.UnsupportedError, match="cannot manage such pods: x") as caught:
        admitted(reader, cold=0)
    assert caught.value.reason == "HostNamespace"


def test_a_cold_pod_that_is_prepared(api, reader):
    def inject(path, body):
        body["spec"]["containers"][0]["command"] = ["/chrek/chrek-init", "--", "x"]

    api.on_create = inject
    with pytest.raises(errors.InputError, match="no cold start can be measured"):
        admitted(reader)
    admitted(reader, cold=0)


def test_a_quota_is_told_in_its_words(api, reader):
    message = "pods is forbidden: exceeded quota: all, requested: pods=1"
    api.refuse("POST", warm.PODS, status=403, message=message)
    with pytest.raises(errors.ApiError, match=r"cold-1 was refused: .*exceeded quota: all"):
        admitted(reader)
