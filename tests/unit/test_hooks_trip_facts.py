import pytest

from chrek.hooks import trip_facts
from fakes import agents


def status(node="n1", kind="pvc", location="/checkpoints/5941a4cb3c363457"):
    return {"variants": [{"node": node}], "storageType": kind, "location": location}


def test_where_a_checkpoint_was_captured():
    assert trip_facts.node(status("n7")) == "n7"
    assert trip_facts.node({}) == ""


@pytest.mark.parametrize(
    ("restored", "ready", "note"),
    [
        ("n2", ["n1", "n2"], "two: captured on n1, restored on n2"),
        ("n2", [], "two: captured on n1, restored on n2"),
        ("n1", ["n1"], "one: n1; no other has a ready agent"),
        ("n1", [], "one: n1; no other has a ready agent"),
        ("n1", ["n1", "n2"], "one: n1; the scheduler did not take n2"),
        (
            "n1",
            ["n1", "n2", "n3", "n4", "n5"],
            "one: n1; the scheduler did not take n2, n3, n4, …",
        ),
    ],
)
def test_nodes(restored, ready, note):
    assert trip_facts.nodes("n1", restored, ready) == ("nodes", None, note)


@pytest.mark.parametrize(
    ("kind", "location", "restored", "note"),
    [
        ("pvc", "/checkpoints/abc", "n2", "pvc /checkpoints/abc, read from the volume"),
        ("s3", "s3://b/p/abc", "n2", "s3 s3://b/p/abc, fetched from the server"),
        (
            "oci",
            "oci://r/c/abc",
            "n1",
            "oci oci://r/c/abc, read from the node's cache, not from the server",
        ),
        # A CRD of another chart that drops what it does not know.
        ("", "", "n2", "read from the volume"),
    ],
)
def test_store(kind, location, restored, note):
    found = trip_facts.store(status("n1", kind, location), restored)
    assert found == ("store", None, note)


def agent(**changes):
    return {
        "metadata": {"name": "chrek-agent-n1"},
        "spec": {},
        "status": {"podIP": "127.0.0.1", "phase": "Running"},
        **changes,
    }


def test_gpu_as_the_agent_tells_it():
    detail = "driver 580.1, GPUs: 8; GPU memory is not captured yet"
    with agents.Agent(agents.preflight(checks=[agents.check("gpu", detail=detail)])) as there:
        assert trip_facts.gpu(agent(), there.port).note == f"not tested: {detail}"
        assert there.asked == 1


@pytest.mark.parametrize("body", [agents.preflight(), b"nothing"])
def test_gpu_when_the_agent_does_not_tell(body):
    with agents.Agent(body) as there:
        note = trip_facts.gpu(agent(), there.port).note
    assert note == "not tested: GPU memory is not captured yet"


@pytest.mark.parametrize("pod", [None, agent(status={}), agent()])
def test_gpu_when_there_is_no_agent_to_ask(pod):
    # Nothing listens on port 1.
    note = trip_facts.gpu(pod, 1).note
    assert note == "not tested: GPU memory is not captured yet"
