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


def test_gpus_as_agents_tell_them():
    with (
        agents.Agent(agents.preflight(checks=[agents.check("gpu", detail="two")])) as one,
        agents.Agent(agents.preflight(checks=[agents.check("clock"), agents.check("gpu")])) as two,
        agents.Agent(agents.preflight()) as older,
        agents.Agent(b"nothing") as broken,
    ):
        ready = {
            f"n{number}": agent(
                metadata={"name": f"agent-{number}"},
                spec={"containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
            )
            for number, port in enumerate([two.port, older.port, broken.port, 1])
        }
        ready["other"] = agent()
        ready["starting"] = agent(metadata={"name": "starting"}, status={})
        found = trip_facts.gpus(ready, one.port)
    assert found == {"n0": "as it should be", "other": "two"}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "no agent tells of GPUs"),
        ({"n1": "no NVIDIA driver", "n2": "no NVIDIA driver"}, "no NVIDIA driver"),
        ({"n1": "a", "n2": "b", "n3": "a"}, "a; b"),
        ({f"n{number}": str(number) for number in range(9)}, "0; 1; 2"),
    ],
)
def test_why_no_gpu_is_tested(said, why):
    assert trip_facts.no_gpu(said) == why
