"""What is kept of managed pods."""

import pytest

from chrek.operator import pods
from fakes import captures


def test_a_pod_of_a_checkpoint_job():
    found = captures.pod(result=captures.success(), phase="Succeeded")
    assert (found.source, found.owner, found.reference) == (True, "j1", "")
    assert (found.finished, found.ready, found.deleted) == (True, False, False)
    assert found.variant == captures.name_of()
    assert (found.result.uuid, found.result.steps) == ("u-1", {"dump": 1.5})
    assert found.template is None, "a few hundred bytes each"


def test_a_worker():
    found = captures.worker(
        "w",
        "restored",
        uuid="u",
        at="2026-01-29T10:05:00Z",
        labels={
            "nvidia.com/dynamo-graph-deployment-name": "g",
            "nvidia.com/dynamo-component": "s",
        },
    )
    assert (found.reference, found.graph, found.service) == (captures.HASH, "g", "s")
    assert (found.start.outcome, found.start.uuid) == ("restored", "u")
    assert (found.finished, found.ready) == (False, True)


def test_the_template_of_a_pod_with_an_identity():
    found = captures.pod(source=False, annotations={"nvidia.com/chrek-identity": "{}"})
    assert found.template["spec"]["containers"][0]["command"] == captures.COMMAND


def test_the_scheduler_s_words():
    assert captures.pod(waits=captures.FULL).unschedulable == captures.FULL
    assert captures.pod().unschedulable == ""


@pytest.mark.parametrize(
    "item",
    [
        {"metadata": {"namespace": "ns", "name": "p", "uid": "u"}},
        {
            "metadata": {
                "namespace": "ns",
                "name": "p",
                "uid": "u",
                "labels": None,
                "annotations": None,
            },
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"conditions": None},
        },
    ],
)
def test_pods_with_little_in_them(item):
    found = pods.project(item)
    assert (found.variant, found.result, found.start, found.owner) == ("", None, None, "")


@pytest.mark.parametrize("raw", [None, ""])
def test_no_result_yet(raw):
    assert pods.result(raw) is None


@pytest.mark.parametrize(
    "raw",
    ["not JSON", '{"uuid": 1}', "[]", "{}", '{"uuid": "u", "variant": "v"}', "[" * 100_000],
)
def test_a_result_that_is_none(raw):
    assert pods.result(raw).reason == "ResultMissing"


def test_a_reason_stands_on_one_line():
    found = pods.result('{"reason": "CriuFailed", "message": "criu dump:\\nexit status 1\\n"}')
    assert found.message == "criu dump: exit status 1"


@pytest.mark.parametrize("start", ["not JSON", '{"outcome": 1}', "[" * 100_000, ""])
def test_a_start_that_cannot_be_read_is_none(start):
    assert captures.pod(source=False, start=start).start is None
