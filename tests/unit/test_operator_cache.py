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
        known.pods.put(("ns", pod.name), cache.keys(pod), pod)
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


def test_an_index_follows_what_an_object_is_looked_up_with():
    index = cache.Index()
    index.put(("ns", "a"), ["x", "y", "x"], 1)
    index.put(("ns", "b"), ["x"], 2)
    index.put(("other", "a"), ["x"], 3)
    assert cache.many(index, "ns", "x") == [1, 2]
    assert cache.one(index, "ns", "y") == 1
    index.put(("ns", "a"), ["z"], 4)
    assert cache.many(index, "ns", "x") == [2]
    assert cache.one(index, "ns", "y") is None
    assert ("ns", "y") not in index, "a key that nothing is under is no key"
    assert sorted(index) == [("ns", "x"), ("ns", "z"), ("other", "x")]
    for name in "ab":
        index.put(("ns", name), [], None)
        index.put(("ns", name), [], None)
    assert list(index) == [("other", "x")]
    assert len(index) == 1
