"""What the pods of `chrek bench` are made of, and in which order they come."""

import pytest
from kubernetes import client

from chrek import errors
from chrek.cli import bench_pods, reading, workload
from chrek.kube import workstation
from fakes import api_server, warm
from fakes.benches import deployment, plan


@pytest.fixture
def reader():
    with api_server.ApiServer() as api:
        configuration = client.Configuration()
        configuration.host = api.url
        found = reading.Reader(workstation.Cluster(configuration), "team")
        found.api = api
        yield found


def order(**fields):
    return [f"{turn.kind}{turn.number}{turn.node}" for turn in plan(**fields).turns]


def test_cold_and_warm_in_turns():
    assert order(cold=2, warm=2) == ["cold1", "warm1", "cold2", "warm2"]
    assert order(cold=1, warm=3) == ["cold1", "warm1", "warm2", "warm3"]
    assert order(cold=0, warm=1) == ["warm1"]


def test_each_node_gets_all_of_them():
    found = order(cold=1, warm=2, nodes=("a", "b"))
    assert found == ["cold1a", "warm1a", "cold2b", "warm2b", "warm3a", "warm4b"]


def test_pods_belong_to_nobody():
    annotations = {
        "team/owner": "me",
        "nvidia.com/chrek-identity": "{}",
        "nvidia.com/chrek-checkpoint": "other",
        "nvidia.com/chrek-container": "main",
    }
    made = plan(deployment(annotations, schedulerName="mine", restartPolicy="Always"))
    cold, warm_ = (bench_pods.pod(made, bench_pods.Turn(kind, 2, "")) for kind in ("cold", "warm"))
    assert cold["metadata"] == {
        "name": "chrek-bench-abc-cold-2",
        "namespace": "team",
        "labels": {"chrek.nvidia.com/bench": "abc"},
        "annotations": {"team/owner": "me"},
    }
    assert warm_["metadata"]["annotations"] == {
        "team/owner": "me",
        "nvidia.com/chrek-container": "main",
        "nvidia.com/chrek-checkpoint": "llama",
    }
    assert cold["spec"] == warm_["spec"]
    spec = cold["spec"]
    assert (spec["schedulerName"], spec["restartPolicy"]) == ("mine", "Always")
    assert spec["containers"] == [warm.container()]


def test_a_pod_that_nobody_deletes_ends():
    turn = bench_pods.Turn("cold", 1, "")
    assert bench_pods.pod(plan(timeout=60), turn)["spec"]["activeDeadlineSeconds"] == 660
    made = plan(deployment(activeDeadlineSeconds=30), timeout=60)
    assert bench_pods.pod(made, turn)["spec"]["activeDeadlineSeconds"] == 30


def test_a_running_pod_loses_what_chrek_put_into_it():
    raw = warm.pod(**warm.of_deployment(), restartPolicy="Never")
    found = workload.Workload(kind="Pod", name="llm-1", raw=raw)
    pod = bench_pods.pod(plan(found), bench_pods.Turn("cold", 1, ""))
    assert pod["spec"]["containers"][0]["command"] == warm.COMMAND
    assert pod["spec"]["restartPolicy"] == "Never"
    assert "nodeName" not in pod["spec"]
    assert "ownerReferences" not in pod["metadata"]


def test_a_node_is_one_more_condition():
    term = {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    made = plan(deployment(affinity={"nodeAffinity": required}))
    field = {"key": "metadata.name", "operator": "In", "values": ["n2"]}
    pod = bench_pods.pod(made, bench_pods.Turn("warm", 1, "n2"))
    (found,) = pod["spec"]["affinity"]["nodeAffinity"].popitem()[1]["nodeSelectorTerms"]
    assert found == {**term, "matchFields": [field]}
    assert "matchFields" not in term, "the template stays as it is"
    pod = bench_pods.pod(plan(), bench_pods.Turn("warm", 1, "n2"))
    (found,) = pod["spec"]["affinity"]["nodeAffinity"].popitem()[1]["nodeSelectorTerms"]
    assert found == {"matchFields": [field]}


def test_claims_of_a_stateful_set():
    raw = {
        "kind": "StatefulSet",
        "spec": {"template": {}, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
    }
    found = workload.Workload(kind="StatefulSet", name="db", raw=raw)
    with pytest.raises(errors.InputError, match=r"statefulset/db: .* claims of its own \(data\)"):
        bench_pods.template_of(found)


def test_what_a_pod_requests():
    def asks(limits=None, requests=None):
        return {"resources": {"limits": limits or {}, "requests": requests or {}}}

    spec = {
        "containers": [
            asks({"cpu": "4", "nvidia.com/gpu": "1", "memory": "24Gi"}, {"cpu": "1500m"}),
            asks({}, {"memory": "512Mi", "cpu": "0"}),
        ],
        "initContainers": [asks({}, {"cpu": "2"})],
    }
    wanted = {"cpu": "2", "memory": "24.5Gi", "nvidia.com/gpu": "1"}
    assert bench_pods.requests(spec) == wanted
    assert bench_pods.requests({"containers": [{}]}) == {}


IDENTITY = {"nvidia.com/chrek-identity": '{"model": "meta-llama/Llama-3-8B", "framework": "vllm"}'}


@pytest.mark.parametrize(
    ("annotations", "given"),
    [
        ({"nvidia.com/chrek-checkpoint": "llama"}, None),
        ({"nvidia.com/chrek-checkpoint": warm.HASH}, None),
        (IDENTITY, None),
        ({}, "llama"),
        ({"nvidia.com/chrek-checkpoint": "other"}, warm.HASH),
    ],
)
def test_the_checkpoint_that_is_meant(reader, annotations, given):
    reader.api.add(warm.CHECKPOINTS, warm.checkpoint())
    item, items = bench_pods.checkpoint_of(reader, deployment(annotations), given)
    assert item["metadata"]["name"] == "llama"
    assert len(items) == 1


def test_no_checkpoint_is_named(reader):
    with pytest.raises(errors.InputError, match="its pods name no checkpoint") as caught:
        bench_pods.checkpoint_of(reader, deployment(), None)
    assert "chrek checkpoint deployment/llm -n team" in caught.value.hint


def test_a_checkpoint_that_is_not_ready(reader):
    reader.api.add(warm.CHECKPOINTS, warm.checkpoint(phase="Failed"))
    with pytest.raises(errors.InputError, match="llama is Failed: criu dump: exit status 1"):
        bench_pods.checkpoint_of(reader, deployment(), "llama")


def fitting(*items, image="llama:1"):
    found = deployment()
    found.raw["spec"]["template"]["spec"]["containers"] = [warm.container(image)]
    return bench_pods.fitting_variant(bench_pods.template_of(found), items[0], list(items))


def test_the_variant_of_the_worker():
    assert fitting(warm.checkpoint()) == warm.artifact()["name"]
    rewritten = warm.artifact("mirror/llama:1", wantedAs=warm.artifact()["name"])
    assert fitting(warm.checkpoint(variants=[rewritten])) == warm.artifact()["name"]
    shares = warm.checkpoint("second", variants=[])
    assert fitting(shares, warm.checkpoint()) == warm.artifact()["name"]


def test_another_variant():
    with pytest.raises(errors.InputError, match="image: captured llama:1, here llama:2"):
        fitting(warm.checkpoint(), image="llama:2")


def test_a_suspect_artifact():
    with pytest.raises(errors.InputError, match="its artifact is suspect") as caught:
        fitting(warm.checkpoint(variants=[warm.artifact(suspect=True)]))
    assert "chrek retry llama -n team" in caught.value.hint


def test_what_chrek_cannot_manage():
    template = bench_pods.template_of(deployment(hostPID=True))
    item = warm.checkpoint()
    with pytest.raises(errors.UnsupportedError):
        bench_pods.fitting_variant(template, item, [item])
