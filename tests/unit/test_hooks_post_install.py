import threading
import time

import pytest

from chrek.hooks import post_install, report
from fakes import api_server, hooks

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm", "dtype": "bfloat16"}
HASH = "5941a4cb3c363457"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def wait(api, **changes):
    return post_install.wait(hooks.connect(api), hooks.config(**changes), poll_seconds=0.01)


def test_a_release_that_runs_is_not_waited_for(api):
    hooks.running(api)
    start = time.monotonic()
    found = wait(api, timeoutSeconds=60)
    assert not report.failures(found)
    assert time.monotonic() - start < 2


def test_a_release_that_comes_up_is_waited_for(api):
    hooks.running(api, ready=(), ca="")
    timer = threading.Timer(0.2, hooks.running, [api])
    timer.start()
    found = wait(api, timeoutSeconds=60)
    timer.join()
    assert not report.failures(found)


def test_a_node_within_the_allowance_still_gets_its_time(api):
    hooks.running(api, ready=("n1",))
    timer = threading.Timer(0.2, hooks.running, [api])
    timer.start()
    found = wait(api, timeoutSeconds=60, maxUnavailableNodes="1")
    timer.join()
    assert found[1].status is report.Status.OK


def test_time_is_over(api):
    hooks.running(api, ca="")
    found = wait(api, timeoutSeconds=0)
    assert [outcome.name for outcome in report.failures(found)] == ["webhook"]


def test_a_node_that_is_not_ready_is_not_waited_for(api):
    hooks.running(api, ready=("n1",), unhealthy=("n2",))
    start = time.monotonic()
    assert not report.failures(wait(api, timeoutSeconds=60))
    assert time.monotonic() - start < 2


def test_a_release_that_is_switched_off(api):
    assert wait(api, agentName="", operatorName="") == []


def test_identities_are_applied_as_a_whole(api):
    config = hooks.config(identities=[IDENTITY])
    found = post_install.write_identities(hooks.connect(api), config)
    assert [outcome.detail.split()[0] for outcome in found] == [HASH]
    method, path, query, body = api.requests[-1]
    assert (method, path) == ("PATCH", f"{hooks.CONFIG_MAPS}/chrek-identities")
    # One manager owns every key: an identity that leaves the values leaves the ConfigMap.
    assert query["fieldManager"] == "chrek-identities"
    assert list(body["data"]) == [HASH]
    assert body["data"][HASH].startswith('{"model":"meta-llama/Llama-3-8B"')


def test_no_identities_write_nothing(api):
    assert post_install.write_identities(hooks.connect(api), hooks.config()) == []
    assert api.requests == []
