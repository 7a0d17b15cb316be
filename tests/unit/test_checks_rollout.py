import pytest

from chrek.checks import report, rollout
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def agents(api, **changes):
    config = release.config(**changes)
    return rollout.agents(rollout.nodes(release.connect(api), config), config)


def statuses(outcomes):
    return [(outcome.name, outcome.status) for outcome in outcomes]


def test_every_node_is_a_line(api):
    release.running(api)
    assert statuses(agents(api)) == [("node n1", OK), ("node n2", OK), ("agents", OK)]
    assert agents(api)[-1].detail == "2 of 2 nodes have a ready agent"


def test_no_agent_is_ready(api):
    release.running(api, ready=())
    found = agents(api, maxUnavailableNodes="100%"[1:])
    assert found[-1].status is FAILED
    assert found[-1].detail == "0 of 2 nodes have a ready agent"
    assert "mend the agent on n1, n2" in found[-1].hint


@pytest.mark.parametrize(
    ("allowed", "status"), [("0", FAILED), ("1", OK), ("10%", FAILED), ("50%", OK)]
)
def test_as_many_may_be_missing_as_the_values_say(api, allowed, status):
    release.running(api, ready=("n1",))
    found = agents(api, maxUnavailableNodes=allowed)
    assert statuses(found) == [("node n1", OK), ("node n2", WARNING), ("agents", status)]


def test_a_node_that_is_not_ready_is_listed_and_not_counted(api):
    release.running(api, ready=("n1",), unhealthy=("n2",))
    found = agents(api, maxUnavailableNodes="0")
    assert statuses(found) == [("node n1", OK), ("node n2", WARNING), ("agents", OK)]
    assert found[1].detail == "the node is NotReady"


def test_cordoned_nodes_say_so(api):
    release.running(api)
    api.objects[f"{release.NODES}/n2"]["spec"]["unschedulable"] = True
    assert agents(api)[1].detail == "agent ready (chrek-agent-n2), cordoned"


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            "ImagePullBackOff",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                        "lastState": {"terminated": {"message": "Traceback\nKeyError: 'a'\n"}},
                    }
                ]
            },
            "CrashLoopBackOff: KeyError: 'a'",
        ),
        ({}, "not ready yet"),
    ],
)
def test_why_an_agent_is_not_ready(api, status, detail):
    release.running(api, nodes=("n1",), ready=())
    release.agent(api, "n1", ready=False, **status)
    found = agents(api)[0]
    assert found.detail == detail
    assert "kubectl logs chrek-agent-n1" in found.hint


def test_an_agent_that_cannot_be_scheduled(api):
    release.running(api, nodes=("n1",), ready=())
    pod = api.objects[f"{release.PODS}/chrek-agent-n1"]
    # The DaemonSet controller names the node before the scheduler binds the pod.
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    required = {"nodeSelectorTerms": [term]}
    pod["spec"] = {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }
    pod["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "Insufficient cpu",
        }
    ]
    assert agents(api)[0].detail == "Unschedulable: Insufficient cpu"


def test_an_agent_of_the_release_before_does_not_count(api):
    release.running(api, nodes=("n1",))
    api.objects[f"{release.DAEMON_SETS}/chrek-agent"]["metadata"]["generation"] = 2
    assert rollout.nodes(release.connect(api), release.config()) is None
    api.objects[f"{release.DAEMON_SETS}/chrek-agent"]["status"]["observedGeneration"] = 2
    assert agents(api)[0].detail == "an older agent still runs"


def test_pods_that_are_not_made_yet(api):
    release.running(api)
    del api.objects[f"{release.PODS}/chrek-agent-n2"]
    found = agents(api)
    assert statuses(found) == [("agents", FAILED)]
    assert "kubectl describe daemonset chrek-agent -n team" in found[0].hint


def test_no_node_matches(api):
    release.running(api, nodes=())
    found = agents(api)
    assert statuses(found) == [("agents", WARNING)]
    assert "agent.nodeSelector" in found[0].detail


def test_operator(api):
    release.running(api)
    found = rollout.operator(release.connect(api), release.config())
    assert found == report.ok("operator", "1 of 1 pods available")


def test_operator_that_crashes(api):
    release.running(api, replicas=0)
    waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    body = {"spec": {}, "status": {"containerStatuses": [waiting]}}
    api.add(release.PODS, body, name="chrek-operator-1", labels=release.OPERATOR_LABELS)
    found = rollout.operator(release.connect(api), release.config())
    assert found.status is FAILED
    assert found.detail == "0 of 1 pods available: CrashLoopBackOff"
    assert "kubectl logs deployment/chrek-operator -n team" in found.hint


def test_operator_of_the_release_before_does_not_count(api):
    release.running(api)
    api.objects[f"{release.DEPLOYMENTS}/chrek-operator"]["metadata"]["generation"] = 2
    assert rollout.operator(release.connect(api), release.config()).status is FAILED


@pytest.mark.parametrize(("ca", "status"), [("Y2E=", OK), ("", FAILED)])
def test_webhook(api, ca, status):
    release.running(api, ca=ca)
    assert rollout.webhook(release.connect(api), release.config()).status is status


def test_webhook_that_somebody_deleted(api):
    found = rollout.webhook(release.connect(api), release.config())
    assert found.status is FAILED
    assert "team-chrek: not found" in found.detail
