"""How a checkpoint's status moves, as tables of the world before and the status after."""

import copy
import datetime
import json

import pytest

from chrek import errors, identity
from chrek.operator import conditions, place, results, status

NOW = datetime.datetime(2026, 1, 29, 10, 5, tzinfo=datetime.UTC)
KNOWN = identity.parse({"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm"})
WHERE = place.Place("pvc", "/checkpoints")
SUCCESS = {
    "uuid": "u-1",
    "variant": "v1",
    "digest": "d-1",
    "location": "/checkpoints/x",
    "bytes": 3 << 30,
    "node": "n1",
    "image": "llama:1",
    "steps": {"dump": 1.5},
    "createdAt": "2026-01-29T10:05:00Z",
}
CRIU = {"reason": "CriuFailed", "message": "criu dump:\nexit status 1\n"}


def checkpoint(generation=1, **old):
    metadata = {"name": "c", "namespace": "ns", "uid": "c-uid", "generation": generation}
    return {"metadata": metadata, "status": old}


def job(*ended, uid="j1", at="2026-01-29T10:05:00Z"):
    made = [
        {
            "type": kind,
            "status": "True",
            "reason": "BackoffLimitExceeded",
            "message": "too often",
            "lastTransitionTime": at,
        }
        for kind in ended
    ]
    return {"metadata": {"uid": uid, "name": "j"}, "status": {"conditions": made}}


def pod(uid="p1", phase="Running", result=None):
    metadata = {"name": f"pod-{uid}", "uid": uid}
    if result is not None:
        text = result if isinstance(result, str) else json.dumps(result)
        metadata["annotations"] = {"nvidia.com/chrek-result": text}
    return {"metadata": metadata, "status": {"phase": phase}}


def step(item, found=None, *pods, now=NOW):
    before = copy.deepcopy(item)
    decision = status.following(item, known=KNOWN, job=found, pods=pods, where=WHERE, now=now)
    assert item == before, "the argument is not changed"
    return decision


def reason(made):
    return conditions.get(made, "Ready")["reason"]


def creating(*pods, generation=1):
    """The status once these pods were recorded."""
    item = checkpoint(generation)
    for found in (None, job(), job()):
        item["status"] = step(item, found, *(pods if found else ())).status
    return item


def test_a_life():
    item = checkpoint()
    seen = []
    for found, pods in [
        (None, []),
        (None, []),
        (job(), []),
        (job(), [pod()]),
        (job(), [pod(result=SUCCESS)]),
        (job("Complete"), [pod(result=SUCCESS, phase="Succeeded")]),
        (None, []),
    ]:
        decision = step(item, found, *pods)
        item["status"] = decision.status
        seen.append((decision.status["phase"], reason(decision.status), decision.action.value))
    assert seen == [
        ("Pending", "WaitingForPod", "nothing"),
        ("Pending", "WaitingForPod", "create the job"),
        ("Pending", "WaitingForPod", "nothing"),
        ("Creating", "Capturing", "nothing"),
        ("Creating", "Capturing", "nothing"),
        ("Ready", "Checkpointed", "nothing"),
        ("Ready", "Checkpointed", "nothing"),
    ]
    made = item["status"]
    assert made["identityHash"] == KNOWN.hash()
    assert made["identity"] == {
        "model": "meta-llama/Llama-3-8B",
        "backendFramework": "vllm",
        "tensorParallelSize": 1,
        "pipelineParallelSize": 1,
    }
    assert made["location"] == f"/checkpoints/{KNOWN.hash()}"
    assert made["jobName"] == f"checkpoint-{KNOWN.hash()}"
    assert (made["storageType"], made["size"]) == ("pvc", "3.0Gi")
    assert made["createdAt"] == "2026-01-29T10:05:00Z"
    assert made["variants"] == [
        {
            "name": "v1",
            "uuid": "u-1",
            "digest": "d-1",
            "image": "llama:1",
            "node": "n1",
            "bytes": 3 << 30,
            "createdAt": "2026-01-29T10:05:00Z",
            "steps": {"dump": 1.5},
        }
    ]


def test_steps_can_be_taken_again_without_a_write():
    """An operator that was killed after a write decides the same again."""
    item = creating(pod())
    again = step(item, job(), pod())
    assert conditions.difference(item["status"], again.status) == {}
    item["status"] = step(item, job("Complete"), pod(result=SUCCESS, phase="Succeeded")).status
    again = step(item, job("Complete"), pod(result=SUCCESS, phase="Succeeded"))
    assert conditions.difference(item["status"], again.status) == {}


def test_the_phases_are_in_order_though_everything_happened_meanwhile():
    item = checkpoint()
    done = pod(result=SUCCESS, phase="Succeeded")
    phases = []
    for _ in range(4):
        item["status"] = step(item, job("Complete"), done).status
        phases.append(item["status"]["phase"])
    assert phases == ["Pending", "Creating", "Ready", "Ready"]


def test_only_recorded_pods_are_believed():
    """The first sight of a pod records it; its result counts from the next look on."""
    item = creating(pod("p1"))
    forged = pod("p2", result=SUCCESS, phase="Succeeded")
    first = step(item, job(), pod("p1"), forged)
    assert first.status["phase"] == "Creating"
    assert [p["uid"] for p in first.status["jobPods"]] == ["p1", "p2"]


def test_pods_of_an_earlier_job_are_not_believed():
    item = creating(pod("p1"))
    other = step(item, job(uid="j2"), pod("p1", result=SUCCESS, phase="Succeeded"))
    assert other.status["phase"] == "Creating"
    assert other.status["jobUID"] == "j2"


@pytest.mark.parametrize(
    "result",
    [
        None,
        {**SUCCESS, "uuid": ""},
        {**SUCCESS, "digest": ""},
        "not JSON",
        '{"uuid": 1}',
        "[]",
    ],
)
def test_a_result_that_is_missing_or_no_result(result):
    item = creating(pod())
    found = pod(result=result, phase="Succeeded")
    soon = step(item, job("Complete"), found, now=NOW + datetime.timedelta(seconds=10))
    assert soon.status["phase"] == "Creating"
    assert 50 <= soon.again_seconds <= 51
    later = step(item, job("Complete"), found, now=NOW + datetime.timedelta(seconds=61))
    assert (later.status["phase"], reason(later.status)) == ("Failed", "ResultMissing")
    assert "see the logs of the agent" in later.status["message"]


def test_a_result_counts_only_when_the_pod_succeeded():
    item = creating(pod())
    assert step(item, job(), pod(result=SUCCESS)).status["phase"] == "Creating"


def test_a_result_that_comes_late_is_taken():
    item = creating(pod())
    later = NOW + datetime.timedelta(seconds=61)
    item["status"] = step(item, job("Complete"), pod(phase="Succeeded"), now=later).status
    assert item["status"]["phase"] == "Failed"
    forged = step(item, job("Complete"), pod("p9", phase="Succeeded", result=SUCCESS))
    assert forged.status["phase"] == "Failed"
    made = step(item, job("Complete"), pod(phase="Succeeded", result=SUCCESS))
    assert made.status["phase"] == "Ready"


def test_a_failed_attempt_is_told_and_the_next_may_succeed():
    item = creating(pod("p1"))
    bad = pod("p1", result=CRIU, phase="Failed")
    item["status"] = step(item, job(), bad).status
    assert item["status"]["phase"] == "Creating"
    assert item["status"]["message"] == "attempt 1 failed: CriuFailed: criu dump: exit status 1"
    item["status"] = step(item, job(), bad, pod("p2")).status
    good = pod("p2", result=SUCCESS, phase="Succeeded")
    item["status"] = step(item, job("Complete"), bad, good).status
    assert item["status"]["phase"] == "Ready"


@pytest.mark.parametrize(
    ("result", "expected", "message"),
    [
        (CRIU, "CriuFailed", "criu dump: exit status 1 (BackoffLimitExceeded: too often)"),
        (None, "JobFailed", "BackoffLimitExceeded: too often (see kubectl logs job/checkpoint-"),
    ],
)
def test_a_failed_job(result, expected, message):
    item = creating(pod())
    made = step(item, job("Failed"), pod(result=result, phase="Failed")).status
    assert (made["phase"], reason(made)) == ("Failed", expected)
    assert message in made["message"]
    item["status"] = made
    again = step(item, job("Failed"), pod(result=result, phase="Failed"))
    assert conditions.difference(made, again.status) == {}


def test_a_job_that_failed_before_it_had_a_pod():
    item = checkpoint()
    item["status"] = step(item).status
    made = step(item, job("Failed")).status
    assert (made["phase"], reason(made)) == ("Failed", "JobFailed")


def test_a_deleted_job_is_made_again():
    item = creating(pod())
    gone = step(item, None)
    assert gone.status["phase"] == "Pending"
    assert "deleted" in gone.status["message"]
    assert "jobPods" not in gone.status
    item["status"] = gone.status
    assert step(item, None).action is status.Action.CREATE_JOB


def test_a_corrected_spec_is_tried_again():
    item = creating(pod())
    item["status"] = step(item, job("Failed"), pod(phase="Failed")).status
    item["metadata"]["generation"] = 2
    first = step(item, job("Failed"), pod(phase="Failed"))
    assert first.action is status.Action.DELETE_JOB
    second = step(item, None)
    assert (second.status["phase"], second.status["observedGeneration"]) == ("Pending", 2)
    item["status"] = second.status
    assert step(item, None).action is status.Action.CREATE_JOB


def test_a_ready_checkpoint_stays_ready_when_its_job_goes():
    item = creating(pod())
    item["status"] = step(item, job("Complete"), pod(result=SUCCESS, phase="Succeeded")).status
    item["metadata"]["generation"] = 2
    decision = step(item, None)
    assert decision.action is status.Action.NOTHING
    assert conditions.difference(item["status"], decision.status) == {"observedGeneration": 2}


def test_variants_the_newest_first_and_four_at_most():
    made = {"identityHash": KNOWN.hash()}
    for number in range(6):
        result = results.Result(uuid=f"u{number}", variant=f"v{number}", digest="d", bytes=1)
        made = status.ready(made, result, where=WHERE, now=NOW)
    assert [v["name"] for v in made["variants"]] == ["v5", "v4", "v3", "v2"]
    again = results.Result(uuid="new", variant="v3", digest="d", bytes=1)
    made = status.ready(made, again, where=WHERE, now=NOW)
    assert next((v["name"], v["uuid"]) for v in made["variants"]) == ("v3", "new")
    assert len(made["variants"]) == 4


def test_an_invalid_spec():
    err = errors.InputError("spec.identity.model: required", hint="correct the identity")
    made = status.invalid(checkpoint(generation=4), err, now=NOW)
    assert (made["phase"], reason(made)) == ("Failed", "InvalidSpec")
    assert made["message"] == "spec.identity.model: required (correct the identity)"
    assert made["observedGeneration"] == 4


def test_a_second_checkpoint_of_one_identity_follows_the_first():
    owner = creating(pod())
    second = checkpoint()
    second["status"] = status.shared(second, owner, now=NOW)
    assert second["status"]["phase"] == "Creating"
    assert conditions.get(second["status"], "SharedWith")["message"].startswith("c is older")
    assert "jobName" not in second["status"]
    owner["status"] = step(owner, job("Complete"), pod(result=SUCCESS, phase="Succeeded")).status
    made = status.shared(second, owner, now=NOW)
    assert made["phase"] == "Ready"
    for key in ("variants", "location", "identityHash", "createdAt", "size"):
        assert made[key] == owner["status"][key]


def test_a_condition_keeps_its_time_while_its_status_stays():
    def at(minute):
        return NOW.replace(minute=minute)

    first = conditions.with_condition({}, "Ready", value=False, reason="A", message="", now=at(1))
    second = conditions.with_condition(
        first, "Ready", value=False, reason="B", message="", now=at(2)
    )
    third = conditions.with_condition(
        second, "Ready", value=True, reason="C", message="", now=at(3)
    )
    times = [c["conditions"][0]["lastTransitionTime"] for c in (first, second, third)]
    assert times == ["2026-01-29T10:01:00Z", "2026-01-29T10:01:00Z", "2026-01-29T10:03:00Z"]


def test_the_merge_patch_of_a_status():
    assert conditions.difference({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"b": None, "c": 3}


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1.0Ki"), (1400000000, "1.3Gi"), (5 << 40, "5.0Ti")],
)
def test_sizes_for_a_person(size, text):
    assert conditions.human(size) == text
