import copy

import pytest

from chrek import errors
from chrek.hooks import trip_pods
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
TEMPLATE = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"mesh": "off"}},
    "spec": {"containers": [{"name": "main", "image": "chrek:1"}]},
}
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "test", "uid": "1"}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        server.on_create = lambda _, body: (
            body["metadata"].setdefault("labels", {}).update({"nvidia.com/chrek-managed": "true"})
        )
        yield server


def pods(api, template=TEMPLATE):
    return trip_pods.Pods(release.connect(api), template, namespace="team", owners=[OWNER])


def pod(api, name="pod", *, conditions=(), **status):
    body = {"spec": {"nodeName": "n1"}, "status": {"conditions": list(conditions), **status}}
    return api.add(release.PODS, body, name=name)


def terms(spec):
    return spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]


def test_a_pod_is_the_template_that_asks_for_a_checkpoint(api):
    before = copy.deepcopy(TEMPLATE)
    pods(api).create("one", "5941a4cb3c363457", preferred={})
    ((method, path, _, body),) = api.requests
    assert (method, path) == ("POST", release.PODS)
    metadata = body["metadata"]
    assert metadata["ownerReferences"] == [OWNER]
    assert metadata["labels"]["team"] == "a"
    checkpoint = {"nvidia.com/chrek-checkpoint": "5941a4cb3c363457"}
    assert metadata["annotations"] == {"mesh": "off", **checkpoint}
    assert body["spec"] == TEMPLATE["spec"]
    assert before == TEMPLATE


def test_a_template_without_metadata_will_do(api):
    pods(api, {"spec": TEMPLATE["spec"]}).create("one", "x", preferred={"n1": 100})
    assert len(terms(api.objects[f"{release.PODS}/one"]["spec"])) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {}}, "admitted without the webhook"),
        (
            {"annotations": {"nvidia.com/chrek-skipped": "HostNamespace: hostPID"}},
            "did not prepare the pod: HostNamespace: hostPID",
        ),
    ],
)
def test_a_pod_that_was_not_prepared(api, change, message):
    api.on_create = lambda _, body: body["metadata"].update(change)
    with pytest.raises(errors.ChrekError, match=message):
        pods(api).create("one", "x", preferred={})


def test_a_pod_would_rather_be_on_some_nodes():
    own = {"weight": 1, "preference": {"matchExpressions": []}}
    base = copy.deepcopy(TEMPLATE)
    base["spec"]["affinity"] = {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [own]}
    }
    first, *others = terms(trip_pods.template(base, {"n2": 100, "n1": 50})["spec"])
    assert first == own
    assert [term["weight"] for term in others] == [100, 50]
    assert others[0]["preference"] == {
        "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]
    }
    assert len(terms(base["spec"])) == 1


def test_without_a_wish_the_template_stays():
    assert trip_pods.template(TEMPLATE, {}) == TEMPLATE


def test_a_pod_may_be_on_some_nodes_only(api):
    pods(api).create("one", "x", preferred={"n2": 100}, only=["n1", "n2"])
    spec = api.objects[f"{release.PODS}/one"]["spec"]
    assert len(terms(spec)) == 1
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    fields = [term["matchFields"] for term in required["nodeSelectorTerms"]]
    # More than one value in a field is refused by the API server.
    assert [field["values"] for (field,) in fields] == [["n1"], ["n2"]]


def test_what_the_template_requires_is_kept():
    own = {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
    base = copy.deepcopy(TEMPLATE)
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    base["spec"]["affinity"] = {"nodeAffinity": {key: {"nodeSelectorTerms": [own]}}}
    made = trip_pods.template(base, {}, only=["n1", "n2"])
    found = made["spec"]["affinity"]["nodeAffinity"][key]["nodeSelectorTerms"]
    assert [term["matchExpressions"] for term in found] == [own["matchExpressions"]] * 2
    assert all("matchFields" in term for term in found)


def test_pods_by_label(api):
    pod(api, "one")
    api.add(release.PODS, {}, name="two", labels={"job": "a"})
    assert [p["metadata"]["name"] for p in pods(api).labelled({"job": "a"})] == ["two"]


@pytest.mark.parametrize(
    ("nodes", "taken", "found"),
    [
        (["n1", "n2"], "n1", {"n2": 100, "n1": 25}),
        (["n1"], "n1", {"n1": 25}),
        (["n2"], "n1", {"n2": 100}),
        (["n1", "n2"], "", {"n1": 100, "n2": 100}),
        ([], "n1", {}),
    ],
)
def test_another_node_is_better_and_one_with_an_agent_better_than_none(nodes, taken, found):
    assert trip_pods.weights(nodes, taken=taken) == found


def test_a_large_cluster_is_not_listed_whole():
    nodes = [f"n{number}" for number in range(1000)]
    found = trip_pods.weights(nodes, taken="n999")
    assert len(found) == trip_pods.MOST_PREFERRED + 1
    assert found["n999"] == 25


def test_agents_that_are_ready(api):
    for node, ready in (("n2", True), ("n1", True), ("n3", False)):
        release.agent(api, node, ready=ready)
    release.agent(api, "n4", ready=True)
    api.objects[f"{release.PODS}/chrek-agent-n4"]["metadata"]["deletionTimestamp"] = "2026"
    pod(api, "other", conditions=[{"type": "Ready", "status": "True"}])
    found = trip_pods.agents(release.connect(api), release.config())
    assert list(found) == ["n1", "n2"]
    assert found["n1"]["metadata"]["name"] == "chrek-agent-n1"


def test_the_condition_tells_how_a_pod_started(api):
    assert pod(api)
    assert pods(api).start("pod") is None
    restored = {"type": "nvidia.com/Restored", "status": "True", "reason": "Restored"}
    pod(api, conditions=[restored], podIP="10.0.0.1")
    wanted = trip_pods.Start(True, "Restored", "", address="10.0.0.1", node="n1")
    assert pods(api).start("pod") == wanted
    cold = {**restored, "status": "False", "reason": "CriuFailed", "message": "because"}
    pod(api, conditions=[cold])
    found = pods(api).start("pod")
    assert (found.restored, found.reason, found.message) == (False, "CriuFailed", "because")


def test_without_a_condition_the_log_tells_it(api):
    pod(api)
    line = b"x\nchrek: Falling back to cold start: AgentSilent: no answer: 20 s\ny\n"
    api.texts[f"{release.PODS}/pod/log"] = line
    found = pods(api).start("pod")
    assert (found.restored, found.reason, found.message) == (
        *(False, "AgentSilent", "no answer: 20 s"),
    )


def test_a_pod_that_is_gone(api):
    assert not pods(api).exists("pod")
    with pytest.raises(errors.ChrekError, match="pod pod is gone"):
        pods(api).start("pod")


def test_readiness(api):
    pod(api, conditions=[{"type": "Ready", "status": "False"}])
    assert not pods(api).is_ready("pod")
    pod(api, conditions=[{"type": "Ready", "status": "True"}])
    assert pods(api).is_ready("pod")


@pytest.mark.parametrize(
    "status", [{}, {"podIP": "127.0.0.1"}, {"podIP": "127.0.0.1", "phase": "Succeeded"}]
)
def test_a_pod_that_does_not_run_has_no_address(api, status):
    pod(api, **status)
    assert pods(api).address("pod") is None
    assert trip_pods.answering(pods(api).get("pod")) is None
