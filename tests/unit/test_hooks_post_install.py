import pytest

from chrek.checks import report
from chrek.hooks import post_install, program
from fakes import agents as fake_agents
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm", "dtype": "bfloat16"}
HASH = "5941a4cb3c363457"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def test_identities_are_applied_as_a_whole(api):
    config = release.config(identities=[IDENTITY])
    found = post_install.write_identities(release.connect(api), config)
    assert [outcome.detail.split()[0] for outcome in found] == [HASH]
    method, path, query, body = api.requests[-1]
    assert (method, path) == ("PATCH", f"{release.CONFIG_MAPS}/chrek-identities")
    # One manager owns every key: an identity that leaves the values leaves the ConfigMap.
    assert query["fieldManager"] == "chrek-identities"
    assert list(body["data"]) == [HASH]
    assert body["data"][HASH].startswith('{"model":"meta-llama/Llama-3-8B"')


def test_no_identities_write_nothing(api):
    assert post_install.write_identities(release.connect(api), release.config()) == []
    assert api.requests == []


def test_everything_is_done_and_told(api, tmp_path):
    checks = [fake_agents.check("kernel", detail="6.8")]
    with fake_agents.Agent(fake_agents.preflight("n1", checks=checks)) as agent:
        release.running(api, nodes=("n1",))
        release.agent(api, "n1", ready=True, port=agent.port)
        config = release.config(identities=[IDENTITY], prewarm=[release.prewarm()])
        context = program.Context(release.connect(api), config, tmp_path)
        found = post_install.wait_and_write(context)
        assert [outcome.name for outcome in found] == [
            "node n1",
            "n1/kernel",
            "agents",
            "operator",
            "webhook",
            "identities",
            "prewarm team/llama",
        ]
        assert not report.failures(found)
        objects = dict(api.objects)
        found = post_install.wait_and_write(context)
        assert found[-1].detail == "unchanged"
        assert api.objects == objects, "it is not idempotent"
