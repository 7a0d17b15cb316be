"""Medians, tables and facts of nodes, from trials that are written down here."""

import datetime

import pytest
from kubernetes import client

from chrek.cli import bench_records, bench_results, reading
from chrek.kube import workstation
from fakes import api_server
from fakes.benches import deployment, plan

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

NOW = datetime.datetime(2026, 11, 29, 12, tzinfo=datetime.UTC)
NODE = {
    "metadata": {"name": "n1", "labels": {"nvidia.com/gpu.product": "H200"}},
    "status": {
        "nodeInfo": {"kubeletVersion": "v1.34.4", "kernelVersion": "6.18", "architecture": "amd64"},
        "allocatable": {"cpu": "4", "memory": "1Gi", "nvidia.com/gpu": "8", "pods": "110"},
    },
}


def trial(kind="cold", ready=10.0, **fields):
    known = {
        "pod": f"chrek-bench-x-{kind}-1",
        "kind": kind,
        "node": "n1",
        "counted": True,
        "created": 0.1,
        "scheduled": 0.2,
        "started": 1.0,
        "ready": ready,
        "outcome": "restored" if kind == "warm" else "unmanaged",
        "reason": "",
        "message": "",
        "restore_seconds": 0.5 if kind == "warm" else None,
        "steps": {},
        "pulled": False,
        "restarts": 0,
        "problem": "",
    }
    return bench_records.Trial(**{**known, **fields})


TRIALS = [
    trial(ready=10.0),
    trial("warm", ready=2.0),
    trial(ready=30.0, node="n2"),
    trial("warm", ready=2.5, restore_seconds=0.7),
    trial("warm", ready=99.0, counted=False, outcome="cold"),
    trial(ready=11.0),
]


def test_phases_add_up():
    found = {one.name: one for one in bench_results.phases(TRIALS)}
    assert found["ready"].cold == bench_records.Spread(median=11.0, least=10.0, most=30.0)
    assert found["ready"].warm == bench_records.Spread(median=2.25, least=2.0, most=2.5)
    assert found["ready"].ratio == round(11 / 2.25, 2)
    parts = ("create", "schedule", "start", "serve")
    assert sum(found[name].warm.median for name in parts) == pytest.approx(2.25)
    assert found["restore"].warm.median == 0.6
    assert found["restore"].cold is None
    assert [name for name, one in found.items() if one.ratio is not None] == ["ready"]


def test_medians_for_a_report():
    found = bench_results.medians(bench_results.phases(TRIALS))
    assert found["cold_ready_seconds"] == 11.0
    assert found["warm_ready_seconds"] == 2.25
    assert found["warm_restore_seconds"] == 0.6
    assert found["speed_up_ready"] == 4.89


def test_nothing_counts():
    found = bench_results.phases([trial("warm", counted=False)])
    assert bench_results.medians(found) == {}
    assert all(one.cold is one.warm is None for one in found)
    (line,) = bench_results.lines(bench([trial(counted=False)]))
    assert "0 cold pods, 0 warm pods" in line


def bench(trials, found=None):
    machine = bench_records.Machine(date="", chrek="", kubernetes="", nodes=[])
    return bench_results.document(
        plan(found) if found else plan(), trials, machine, problem="", notes=["seen"]
    )


TABLE = """\
STEP              COLD                      WARM                   COLD/WARM
create            0.10 s (0.10 to 0.10)     0.10 s (0.10 to 0.10)
schedule          0.10 s (0.10 to 0.10)     0.10 s (0.10 to 0.10)
start containers  0.80 s (0.80 to 0.80)     0.80 s (0.80 to 0.80)
get Ready         9.50 s (9.00 to 10.00)    1.25 s (1.00 to 1.50)
together          10.50 s (10.00 to 11.00)  2.25 s (2.00 to 2.50)  4.7
of it restore     -                         0.60 s (0.50 to 0.70)"""


def test_a_table_for_a_person():
    lines = bench_results.lines(bench([one for one in TRIALS if one.node == "n1"]))
    assert lines[0] == (
        "deployment/llm in namespace team, checkpoint llama: 2 cold pods, 2 warm pods; median "
        "(least to most)"
    )
    assert "\n".join(lines[1:]) == TABLE


def test_a_table_for_each_node():
    lines = bench_results.lines(bench(TRIALS))
    assert [line for line in lines if line.startswith("node ")] == ["node n1", "node n2"]


def test_what_else_to_know():
    again = trial("warm", restarts=1)
    assert bench([trial(pulled=True), again]).notes == [
        "seen",
        "an image was pulled for chrek-bench-x-cold-1, which is part of its seconds",
        "a container of chrek-bench-x-warm-1 was started again before it was Ready",
        "a container has no readiness probe: Ready says of it only that its process runs",
    ]
    found = deployment()
    found.raw["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {}}
    assert bench([trial()], found).notes == ["seen"]


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def reader(api):
    configuration = client.Configuration()
    configuration.host = api.url
    return reading.Reader(workstation.Cluster(configuration), "team")


def test_facts_of_nodes(api, reader):
    api.add("/api/v1/nodes", NODE)
    api.texts["/version"] = b'{"gitVersion": "v1.34.4"}'
    found = bench_results.machine(reader, ["n1", "", "n1", "n2"], NOW)
    assert (found.date, found.kubernetes) == ("2026-11-29T12:00:00Z", "v1.34.4")
    first, second = found.nodes
    assert (first.kernel, first.kubelet, first.cpus) == ("6.18", "v1.34.4", "4")
    assert (first.gpus, first.gpu_product) == ({"nvidia.com/gpu": "8"}, "H200")
    assert second == bench_records.Node(name="n2")


def test_nodes_that_may_not_be_read(api, reader):
    api.refuse("GET", "/api/v1/nodes/n1", status=403, message="forbidden")
    found = bench_results.machine(reader, ["n1"], NOW)
    assert found.nodes == [bench_records.Node(name="n1")]
    assert reader.notes == ["you may not get nodes, so nothing but their names is told of them"]
    assert found.kubernetes == ""
