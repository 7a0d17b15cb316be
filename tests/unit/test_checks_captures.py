import json
import time

import pytest

from chrek import errors
from chrek.checks import captures, report
from fakes import agents as fake_agents
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        for node in ("n1", "n2"):
            release.agent(server, node, ready=True)
        yield server


class Agents:
    """How many captures each node tells, question by question; the last answer stays."""

    def __init__(self, **by_node):
        self.by_node = by_node
        self.asked = []

    def __call__(self, pod):
        node = pod["spec"]["nodeName"]
        self.asked.append(node)
        left = self.by_node[node]
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, Exception):
            raise now
        return json.dumps(fake_agents.preflight(node, captures=now)).encode()


def ended(api, reader, **changes):
    config = release.config(**changes)
    return captures.ended(release.connect(api), config, reader=reader, poll_seconds=0.01)


def test_none_are_in_flight(api):
    agents = Agents(n1=[0], n2=[0])
    assert ended(api, agents, timeoutSeconds=60) == report.ok("captures", "none in flight")
    assert sorted(agents.asked) == ["n1", "n2"]


def test_those_in_flight_are_waited_for(api):
    agents = Agents(n1=[2, 2, 1, 0], n2=[0, 5])
    found = ended(api, agents, timeoutSeconds=60)
    assert found == report.ok("captures", "2 ended in 0 s")
    # One that is idle is not asked again: others begin all the time.
    assert agents.asked.count("n2") == 1
    assert agents.asked.count("n1") == 4


def test_time_is_over(api):
    found = ended(api, Agents(n1=[1], n2=[2]), timeoutSeconds=0)
    assert found == report.warning(
        "captures",
        "after 0 s still n1: 1 capture, n2: 2 captures",
        "nothing: an agent finishes its capture before it is replaced",
    )


def test_waiting_is_bounded_whatever_the_values_say(api, monkeypatch):
    monkeypatch.setattr(captures, "LONGEST_SECONDS", 0.1)
    start = time.monotonic()
    assert ended(api, Agents(n1=[1], n2=[0]), timeoutSeconds=60).status is report.Status.WARNING
    assert time.monotonic() - start < 5


def test_older_agents_do_not_tell(api):
    silent = errors.ApiError("HTTP 404", status=404)
    found = ended(api, Agents(n1=[silent], n2=[0]))
    assert found == report.ok("captures", "none in flight; older agents, which do not tell: n1")


def test_agents_that_cannot_be_asked(api):
    lost = errors.ApiError("timed out")
    found = ended(api, Agents(n1=[lost], n2=[0]))
    assert found.status is report.Status.WARNING
    assert found.detail == "cannot ask the agents of n1; n1: timed out"


def test_an_agent_that_goes_meanwhile(api):
    lost = errors.ApiError("connection refused")
    found = ended(api, Agents(n1=[1, lost], n2=[0]), timeoutSeconds=60)
    assert found.status is report.Status.WARNING
    assert "n1: connection refused" in found.detail


def test_an_agent_that_does_not_run_captures_nothing(api):
    release.agent(api, "n1", ready=False, podIP="")
    agents = Agents(n2=[0])
    assert ended(api, agents).status is report.Status.OK
    assert agents.asked == ["n2"]


def test_agents_are_asked_at_their_addresses():
    with api_server.ApiServer() as api, fake_agents.Agent() as agent:
        release.agent(api, "n1", ready=True, port=agent.port)
        assert ended(api, None) == report.ok("captures", "none in flight")
        assert agent.asked == 1
