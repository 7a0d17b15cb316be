"""Why a pod is not managed, and the commands that mend it."""

import json
import shlex

import pytest

from chrek.cli import unmanaged
from fakes import warm

SERVED = unmanaged.releases([warm.webhook("team")])


def gaps(pod, items=(), known=SERVED, graph=None):
    return unmanaged.gaps(pod, list(items), known, graph)


def plain(**changes):
    changes.setdefault("wanted", None)
    return warm.pod(injected=False, **changes)


def patched(command):
    """Object and patch of a kubectl patch."""
    words = shlex.split(command)
    assert words[:2] == ["kubectl", "patch"]
    assert words[4:6] == ["-n", "team"]
    return " ".join(words[2:4]), json.loads(words[words.index("-p") + 1])


def test_releases():
    (found,) = unmanaged.releases([warm.webhook("a", "b", inside="chrek-system", release="r")])
    assert found == unmanaged.Release("r", "chrek-system", ("a", "b"), certified=True)
    assert unmanaged.serving([found], "b") is found
    assert unmanaged.serving([found], "c") is None
    assert unmanaged.serving(None, "b") is None
    assert unmanaged.releases([{"metadata": {"name": "x"}}]) == []


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_a_workload_that_did_not_opt_in(kind):
    owner = warm.of_deployment() if kind == "Deployment" else warm.owned(kind, "llm")
    (gap,) = gaps(plain(**owner), [warm.checkpoint()])
    assert gap.what.startswith("nobody asked for a warm start")
    annotations = {"nvidia.com/chrek-checkpoint": warm.HASH}
    patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    assert patched(gap.command) == (f"{kind.lower()} llm", patch)


def test_a_workload_without_a_checkpoint_of_its_image():
    other = warm.checkpoint(variants=[], spec={"containers": [warm.container("x")]})
    (gap,) = gaps(plain(**warm.of_deployment()), [other])
    assert gap.what.endswith("no checkpoint of its image is there")
    assert gap.command == (
        "chrek checkpoint deployment/llm -n team --model MODEL --backend vllm --opt-in"
    )


def test_several_checkpoints_of_an_image():
    second = warm.checkpoint("b")
    second["status"]["identityHash"] = "f" * 16
    (gap,) = gaps(plain(**warm.of_deployment()), [warm.checkpoint(), second])
    assert gap.what.endswith(f"checkpoints of its image are {warm.HASH}, {'f' * 16}")
    assert '"nvidia.com/chrek-checkpoint":"HASH"' in gap.command


def test_one_that_is_being_deleted_is_no_candidate():
    going = warm.checkpoint(deletionTimestamp=warm.T0)
    assert unmanaged.candidates(plain(), [going]) == []
    assert unmanaged.candidates(plain(), [warm.checkpoint(worker=True)]) == [warm.HASH]


@pytest.mark.parametrize(
    ("owner", "command"),
    [
        ({}, "kubectl get pod llm-1 -n team -o yaml > pod.yaml"),
        (warm.owned("Job", "j"), "kubectl delete pod llm-1 -n team"),
    ],
)
def test_a_pod_that_cannot_change(owner, command):
    (gap,) = gaps(plain(**owner), [warm.checkpoint()])
    assert f"create it again with nvidia.com/chrek-checkpoint: {warm.HASH}" in gap.what
    assert gap.command.startswith(command)


GRAPH = {
    "nvidia.com/dynamo-graph-deployment-name": "my-llm",
    "nvidia.com/dynamo-component": "worker",
}


def test_a_service_of_a_graph():
    graph = {"spec": {"services": {"Frontend": {}, "Worker": {}}}}
    (gap,) = gaps(plain(labels=GRAPH), [warm.checkpoint()], graph=graph)
    assert gap.what == "service Worker has no checkpoint section that is enabled"
    section = {"enabled": True, "checkpointRef": warm.HASH}
    patch = {"spec": {"services": {"Worker": {"checkpoint": section}}}}
    assert patched(gap.command) == ("dynamographdeployment my-llm", patch)
    (gap,) = gaps(plain(labels=GRAPH), [warm.checkpoint()])
    assert '"worker"' in gap.command, "the label's spelling, where the graph may not be read"


def test_a_service_that_asks_and_was_not_seen():
    graph = {"spec": {"services": {"Worker": {"checkpoint": {"enabled": True}}}}}
    owner = warm.of_deployment()
    owner["labels"] |= GRAPH
    (gap,) = gaps(plain(**owner), graph=graph)
    assert "webhook did not see it" in gap.what
    assert gap.command == "kubectl rollout restart deployment/llm -n team"


@pytest.mark.parametrize("annotation", ["chrek-checkpoint", "chrek-identity"])
def test_a_pod_that_opted_in_too_late(annotation):
    pod = plain(annotations={f"nvidia.com/{annotation}": "x"}, **warm.owned("StatefulSet", "llm"))
    (gap,) = gaps(pod)
    assert "the annotation came later than the pod" in gap.what
    assert gap.command == "kubectl rollout restart statefulset/llm -n team"


def test_a_namespace_that_nobody_serves():
    known = unmanaged.releases([warm.webhook("a", "b", inside="a", release="r")])
    first, second = gaps(plain(**warm.of_deployment()), known=known)
    assert first.what == "no release of chrek serves namespace team; served are: a, b"
    words = shlex.split(first.command)
    assert words[:4] == ["helm", "upgrade", "r", "charts/chrek"]
    assert words[-1] == "dynamo-operator.watchNamespaces={a,b,team}"
    assert "nobody asked" in second.what
    pod = plain(wanted="llama", **warm.of_deployment())
    assert [gap.what for gap in gaps(pod, known=known)] == [first.what]


def test_a_cluster_without_chrek():
    first, _ = gaps(plain(**warm.of_deployment()), known=[])
    assert first.command == "helm install chrek charts/chrek --namespace team"


def test_an_operator_that_never_started():
    known = unmanaged.releases([warm.webhook("team", bundle="")])
    (gap,) = gaps(plain(wanted="llama"), known=known)
    assert "has no certificate yet" in gap.what
    assert gap.command == "chrek doctor -n team"


def test_webhooks_that_may_not_be_looked_at():
    (gap,) = gaps(plain(**warm.of_deployment()), known=None)
    assert "nobody asked" in gap.what


def test_the_container_and_its_variant():
    assert unmanaged.container_of(warm.pod())["name"] == "main"
    assert unmanaged.variant_of(warm.pod()) == warm.artifact()["name"]
    two = warm.pod(containers=[{"name": "a"}, {"name": "b"}])
    assert unmanaged.container_of(two) == {}
    assert unmanaged.variant_of(two) == ""
    chosen = warm.pod(
        containers=[{"name": "a"}, {"name": "b"}], annotations={"nvidia.com/chrek-container": "b"}
    )
    assert unmanaged.container_of(chosen)["name"] == "b"


def test_what_a_pod_asks_for():
    item = warm.checkpoint()
    assert unmanaged.asked_for(warm.pod(wanted=warm.HASH), [item]) == (warm.HASH, item)
    assert unmanaged.asked_for(warm.pod(wanted="x"), [item]) == ("x", None)
    assert unmanaged.asked_for(plain(), [item]) == ("", None)
