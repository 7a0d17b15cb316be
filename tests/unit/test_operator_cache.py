"""What the controllers have in memory."""

from chrek.operator import cache
from fakes import captures as fakes


def test_pods_are_found_by_job_checkpoint_and_graph_the_oldest_first():
    graph = {"nvidia.com/dynamo-graph-deployment-name": "g"}
    made = [
        fakes.pod("p2", created="2026-01-29T10:05:00Z"),
        fakes.pod("p1", created="2026-01-29T10:05:00Z"),
        fakes.pod("p0", created="2026-01-29T10:06:00Z"),
        fakes.worker("w1", labels=graph),
        fakes.pod("w2", source=False, annotations={"nvidia.com/chrek-checkpoint": "named"}),
    ]
    known = cache.Cache()
    for pod in made:
        for key in cache.keys(pod):
            known.pods.setdefault(key, []).append(pod)
    assert [p.uid for p in known.of_job("ns", "j1")] == ["p1", "p2", "p0"]
    assert [p.uid for p in known.workers("ns", [fakes.HASH, fakes.HASH])] == ["w1"]
    assert [p.uid for p in known.workers("ns", [fakes.HASH, "named", "none"])] == ["w1", "w2"]
    assert [p.uid for p in known.of_graph("ns", "g")] == ["w1"]
    assert known.of_job("other", "j1") == known.of_graph("ns", "") == []


def test_the_oldest_decides_and_the_name_between_equals():
    b, a = fakes.checkpoint("b"), fakes.checkpoint("a")
    older = fakes.checkpoint("z", creationTimestamp="2026-01-29T09:00:00Z")
    assert cache.oldest([b, a]) is a
    assert cache.oldest([b, a, older]) is older
    older["metadata"]["deletionTimestamp"] = "2026-01-29T11:00:00Z"
    assert cache.oldest([b, older]) is b
    assert cache.oldest([older]) is None


def test_bind_takes_kopf_s_indexes():
    indexes = {
        "checkpoints": {("ns", "c"): [1]},
        "checkpoints_by_hash": {},
        "jobs": {},
        "pods": {},
        "graphs": {},
        "graphs_by_reference": {},
        "deployments": {},
        "anything": "else",
    }
    known = cache.Cache()
    known.bind(indexes)
    assert cache.one(known.checkpoints, "ns", "c") == 1
    assert cache.one(known.checkpoints, "ns", "d") is None
