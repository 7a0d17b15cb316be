import msgspec
import pytest

from chrek.checks import agents as agent_checks
from chrek.checks import report, rollout
from fakes import agents as fake_agents
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def agents(api, answers=None, **changes):
    config = release.config(**changes)
    return rollout.agents(rollout.nodes(release.connect(api), config), config, answers)


def said(*nodes, **what):
    """What the agents of these nodes say, all the same."""
    return {
        f"chrek-agent-{node}": agent_checks.Answer(
            msgspec.convert(fake_agents.preflight(node, **what), agent_checks.Preflight)
        )
        for node in nodes
    }


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
    assert found[-1].detail == "0 of 2 nodes have a ready agent; n1: not ready yet"
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
        (
            {
                "containerStatuses": [
                    {
                        "state": {"running": {}},
                        "restartCount": 3,
                        "lastState": {
                            "terminated": {
                                "message": "log\nerror: /a.yaml: b: unknown\n  hint: remove b\n"
                            }
                        },
                    }
                ]
            },
            "restarted 3 times: error: /a.yaml: b: unknown (remove b)",
        ),
        (
            {"containerStatuses": [{"state": {"terminated": {"exitCode": 1}}}]},
            "restarted 0 times",
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


def test_a_node_is_a_table_of_what_its_agent_says(api):
    release.running(api, nodes=("n1",))
    checks = [
        fake_agents.check("kernel", detail="6.8"),
        fake_agents.check("clock", "warn", "7 s ahead", "run an NTP client"),
    ]
    found = agents(api, said("n1", checks=checks))
    assert found[0] == report.ok("node n1", "agent ready (chrek-agent-n1), 1 of 2 checks passed")
    assert found[1] == report.ok("n1/kernel", "6.8")
    assert found[2] == report.warning("n1/clock", "7 s ahead", "run an NTP client")
    assert statuses(found[3:]) == [("agents", OK)]


def test_many_nodes_that_are_as_they_should_be_take_a_line_each(api):
    nodes = [f"n{number}" for number in range(100)]
    release.running(api, nodes=nodes)
    answers = said(*nodes, checks=[fake_agents.check("kernel")])
    found = agents(api, answers)
    assert len(found) == 101
    assert found[0].detail == "agent ready (chrek-agent-n0), 1 of 1 checks passed"
    slow = fake_agents.check("clock", "warn", "7 s ahead", "run an NTP client")
    answers |= said(*nodes[:99], checks=[slow])
    found = agents(api, answers)
    # In the order of the names.
    assert found[100] == report.warning(
        "clock", "n0, n1, n10 and 96 more: 7 s ahead", "run an NTP client"
    )
    assert statuses(found[101:]) == [("agents", OK)]


def test_an_agent_that_is_not_ready_says_which_check_failed(api):
    release.running(api, ready=("n1",))
    checks = [
        fake_agents.check("store", "fail", "Read-only file system", "mount it read-write"),
        fake_agents.check("clock", "warn", "7 s ahead", "run an NTP client"),
    ]
    answers = said("n2", checks=checks, problems=["store: Read-only file system"])
    found = agents(api, answers, maxUnavailableNodes="0")
    assert found[1] == report.warning(
        "node n2", "store: Read-only file system", "mount it read-write"
    )
    assert found[2].name == "n2/clock"
    assert found[-1].detail == ("1 of 2 nodes have a ready agent; n2: store: Read-only file system")
    assert found[-1].hint.startswith("mend the agent on n2 (mount it read-write); ")
    # Within the allowance it is no failure.
    assert report.failures(agents(api, answers, maxUnavailableNodes="1")) == []


def test_an_agent_whose_checks_are_fine_says_what_it_waits_for(api):
    release.running(api, nodes=("n1",), ready=())
    found = agents(api, said("n1", problems=["pods of the node are not listed yet"]))
    assert found[0].detail == "pods of the node are not listed yet"
    assert "kubectl logs chrek-agent-n1" in found[0].hint


def test_an_older_agent_does_not_speak_for_the_new_one(api):
    release.running(api, nodes=("n1",))
    daemon_set = api.objects[f"{release.DAEMON_SETS}/chrek-agent"]
    daemon_set["metadata"]["generation"] = daemon_set["status"]["observedGeneration"] = 2
    found = agents(api, said("n1", problems=["stopping"]))
    assert found[0].detail == "an older agent still runs"


def test_agents_that_cannot_be_read(api):
    release.running(api)
    lost = agent_checks.Answer(error="timed out")
    answers = {"chrek-agent-n1": lost, "chrek-agent-n2": agent_checks.Answer(silent=True)}
    found = agents(api, answers)
    assert statuses(found) == [
        ("node n1", OK),
        ("n1/preflight", WARNING),
        ("node n2", OK),
        ("n2/preflight", OK),
        ("agents", OK),
    ]
    assert "NetworkPolicy" in found[1].hint
    # Of one that is not ready something else is to be said.
    release.agent(api, "n1", ready=False)
    assert "n1/preflight" not in [outcome.name for outcome in agents(api, answers)]


EVENTS = "/api/v1/namespaces/team/events"


def event(api, name, uid, message, when):
    body = {"involvedObject": {"uid": uid}, "message": message, "lastTimestamp": when}
    api.add(EVENTS, body, name=name)


def test_what_the_kubelet_cannot_set_up_is_in_events(api):
    """The newest counts, of that pod; a pod that has started says itself what is wrong."""
    release.running(api, ready=("n1",))
    api.objects[f"{release.PODS}/chrek-agent-n2"]["metadata"]["uid"] = "u2"
    event(api, "a", "u2", "old news", "2026-11-28T10:00:00Z")
    text = 'MountVolume.SetUp failed for volume "signals":\nno directory'
    event(api, "b", "u2", text, "2026-11-28T11:00:00Z")
    event(api, "c", "u3", "somebody else's", "2026-11-28T12:00:00Z")
    cluster, config = release.connect(api), release.config()
    found = rollout.warned(cluster, config, rollout.nodes(cluster, config))
    assert [node.problem for node in found] == [
        "",
        'not ready yet: MountVolume.SetUp failed for volume "signals": no directory',
    ]
    api.refuse("GET", EVENTS, status=403, message="no")
    again = rollout.warned(cluster, config, rollout.nodes(cluster, config))
    assert [node.problem for node in again] == ["", "not ready yet"]


def test_events_are_left_alone_when_all_is_well(api):
    release.running(api)
    cluster, config = release.connect(api), release.config()
    found = rollout.nodes(cluster, config)
    assert rollout.warned(cluster, config, found) == found
    assert EVENTS not in [path for _, path, _, _ in api.requests]


def relabelled(api, node, **labels):
    api.objects[f"{release.PODS}/chrek-agent-{node}"]["metadata"]["labels"] |= labels


def generation(api, number, **status):
    found = api.objects[f"{release.DAEMON_SETS}/chrek-agent"]
    found["metadata"]["generation"] = number
    found["status"] |= {"observedGeneration": number, **status}


def test_after_a_rollback_pods_of_that_revision_are_no_older_ones(api):
    """n1 was never replaced: it is of the first generation, and the third one wants the same."""
    release.running(api)
    generation(api, 3, updatedNumberScheduled=1)
    relabelled(api, "n1", **{"pod-template-generation": "1", "controller-revision-hash": "a"})
    relabelled(api, "n2", **{"pod-template-generation": "2", "controller-revision-hash": "b"})
    assert [outcome.detail for outcome in agents(api)[:2]] == [rollout.OUTDATED] * 2
    relabelled(api, "n2", **{"pod-template-generation": "3", "controller-revision-hash": "a"})
    assert statuses(agents(api)) == [("node n1", OK), ("node n2", OK), ("agents", OK)]
    relabelled(api, "n1", **{"controller-revision-hash": "b"})
    assert agents(api)[0].detail == rollout.OUTDATED


def test_the_controller_says_when_every_pod_is_as_it_wants_it(api):
    release.running(api)
    generation(api, 3, updatedNumberScheduled=2)
    assert statuses(agents(api)) == [("node n1", OK), ("node n2", OK), ("agents", OK)]
