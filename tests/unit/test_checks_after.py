import threading
import time

import pytest

from chrek.checks import after, report
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def wait(api, **changes):
    return after.wait(release.connect(api), release.config(**changes), poll_seconds=0.01)


def test_a_release_that_runs_is_not_waited_for(api):
    release.running(api)
    start = time.monotonic()
    found = wait(api, timeoutSeconds=60)
    assert not report.failures(found)
    assert time.monotonic() - start < 2


def test_a_release_that_comes_up_is_waited_for(api):
    release.running(api, ready=(), ca="")
    timer = threading.Timer(0.2, release.running, [api])
    timer.start()
    found = wait(api, timeoutSeconds=60)
    timer.join()
    assert not report.failures(found)


def test_a_node_within_the_allowance_still_gets_its_time(api):
    release.running(api, ready=("n1",))
    timer = threading.Timer(0.2, release.running, [api])
    timer.start()
    found = wait(api, timeoutSeconds=60, maxUnavailableNodes="1")
    timer.join()
    assert found[1].status is report.Status.OK


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
