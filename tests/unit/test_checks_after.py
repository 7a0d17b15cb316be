import json
import threading
import time

import pytest

from chrek import errors
from chrek.checks import after, report
from fakes import agents as fake_agents
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def reader(pod):
    """Agents without a word to say of their nodes."""
    return json.dumps(fake_agents.preflight(pod["spec"]["nodeName"])).encode()


def wait(api, reader=reader, **changes):
    config = release.config(**changes)
    return after.wait(release.connect(api), config, reader=reader, poll_seconds=0.01)


def probes(api):
    return [path for method, path, _, _ in api.requests if method == "POST"]


def test_a_release_that_runs_is_not_waited_for(api):
    release.running(api)
    start = time.monotonic()
    found = wait(api, timeoutSeconds=60)
    assert not report.failures(found)
    assert time.monotonic() - start < 2
    assert probes(api) == [release.PODS]


def test_a_release_that_comes_up_is_waited_for(api):
    release.running(api, ready=(), ca="")
    timer = threading.Timer(0.2, release.running, [api])
    timer.start()
    found = wait(api, timeoutSeconds=60)
    timer.join()
    assert not report.failures(found)


def test_a_webhook_that_becomes_reachable_is_waited_for(api):
    release.running(api)
    api.on_create = lambda path, body: None
    timer = threading.Timer(0.2, setattr, [api, "on_create", release.inject])
    timer.start()
    found = wait(api, timeoutSeconds=60)
    timer.join()
    assert not report.failures(found)
    assert len(probes(api)) > 1


def test_the_webhook_is_not_asked_while_nobody_could_answer(api):
    release.running(api, replicas=0)
    found = wait(api, timeoutSeconds=0)
    assert [outcome.name for outcome in report.failures(found)] == ["operator", "webhook"]
    assert found[-1].detail == "not asked: no operator is available"
    assert probes(api) == []


def test_the_webhook_is_asked_at_the_end_although_agents_are_missing(api):
    release.running(api, ready=())
    api.on_create = lambda path, body: None
    found = wait(api, timeoutSeconds=0)
    assert [outcome.name for outcome in report.failures(found)] == ["agents", "webhook"]
    assert probes(api) == [release.PODS]


def test_a_node_within_the_allowance_still_gets_its_time(api):
    release.running(api, ready=("n1",))
    timer = threading.Timer(0.2, release.running, [api])
    timer.start()
    found = wait(api, timeoutSeconds=60, maxUnavailableNodes="1")
    timer.join()
    assert {outcome.name: outcome.status for outcome in found}["node n2"] is report.Status.OK


def test_time_is_over(api):
    release.running(api, ca="")
    found = wait(api, timeoutSeconds=0)
    assert [outcome.name for outcome in report.failures(found)] == ["webhook"]


def test_a_node_that_is_not_ready_is_not_waited_for(api):
    release.running(api, ready=("n1",), unhealthy=("n2",))
    start = time.monotonic()
    assert not report.failures(wait(api, timeoutSeconds=60))
    assert time.monotonic() - start < 2


def test_a_release_that_is_switched_off(api):
    assert wait(api, agentName="", operatorName="") == []


def test_agents_are_asked_at_their_addresses_once(api):
    checks = [fake_agents.check("kernel", detail="6.8")]
    with (
        fake_agents.Agent(fake_agents.preflight("n1", checks=checks)) as first,
        fake_agents.Agent(status=404) as second,
    ):
        release.running(api)
        release.agent(api, "n1", ready=True, port=first.port)
        release.agent(api, "n2", ready=True, port=second.port)
        found = wait(api, reader=None, timeoutSeconds=60)
        assert (first.asked, second.asked) == (1, 1)
    assert [(outcome.name, outcome.detail) for outcome in found[:4]] == [
        ("node n1", "agent ready (chrek-agent-n1), 1 of 1 checks passed"),
        ("n1/kernel", "6.8"),
        ("node n2", "agent ready (chrek-agent-n2)"),
        ("n2/preflight", "an older agent, which does not tell of its node"),
    ]


def test_an_agent_that_never_gets_ready_is_asked_why(api):
    release.running(api, ready=("n1",))
    checks = [fake_agents.check("store", "fail", "Read-only file system", "mount it")]

    def tell(pod):
        if pod["spec"]["nodeName"] == "n1":
            return reader(pod)
        return json.dumps(fake_agents.preflight("n2", checks=checks, problems=["x"])).encode()

    found = wait(api, tell, timeoutSeconds=0)
    told = {outcome.name: outcome for outcome in found}
    assert told["node n2"].detail == "store: Read-only file system"
    assert told["node n2"].hint == "mount it"


def test_agents_that_cannot_be_read_fail_nothing(api):
    def silence(pod):
        raise errors.ChrekError("timed out")

    release.running(api)
    found = wait(api, silence, timeoutSeconds=60)
    assert not report.failures(found)
    assert {o.name: o.status for o in found}["n1/preflight"] is report.Status.WARNING


def test_a_look_waits_for_nothing(api):
    release.running(api, ready=())
    start = time.monotonic()
    config = release.config(timeoutSeconds=60)
    found = after.look(release.connect(api), config, reader=reader)
    assert time.monotonic() - start < 2
    assert [outcome.name for outcome in report.failures(found)] == ["agents"]


def test_what_may_not_be_seen_can_be_an_outcome(api):
    release.running(api)
    api.refuse("GET", release.NODES, status=403, message="forbidden")

    def attempt(name, check):
        try:
            return check()
        except errors.ApiError as err:
            return [report.warning(name, err.message, "ask")]

    config = release.config()
    with pytest.raises(errors.ApiError, match="forbidden"):
        after.look(release.connect(api), config, reader=reader)
    found = after.look(release.connect(api), config, reader=reader, attempt=attempt)
    assert [(outcome.name, outcome.status) for outcome in found] == [
        ("agents", report.Status.WARNING),
        ("operator", report.Status.OK),
        ("webhook", report.Status.OK),
    ]
