"""How one capture moves, as tables of the world before and the entry after."""

import copy
import datetime

import pytest

from chrek import names
from chrek.operator import captures
from fakes import captures as fakes

NOW = fakes.NOW
SUCCESS = fakes.success()


def begin(**fields):
    given = {"image": "llama:1", "job_name": "j", "attempt": "a", **fields}
    return captures.begin(fakes.name_of(), **given)


def step(entry, job=None, *pods, attempt="a", now=NOW):
    before = copy.deepcopy(entry)
    made = captures.from_job(entry, job=job, attempt=attempt, found=pods, now=now)
    assert entry == before, "the argument is not changed"
    return made


def steady(entry, job=None, *pods, **fields):
    """The entry once the same world changes nothing any more, and how long that took."""
    for looks in range(10):
        new = step(entry, job, *pods, **fields).entry
        if new == entry:
            return entry, looks
        entry = new
    raise AssertionError(f"it never comes to rest: {entry}")


def creating(*pods):
    return steady(begin(), fakes.job(), *pods)[0]


def told(entry):
    return entry["phase"], entry["reason"]


def test_a_life():
    entry, seen = begin(), []
    done = fakes.pod(result=SUCCESS, phase="Succeeded")
    for job, pods in [
        (None, []),
        (fakes.job(), []),
        (fakes.job(), [fakes.pod()]),
        (fakes.job(), [fakes.pod(result=SUCCESS)]),
        (fakes.job("Complete"), [done]),
    ]:
        made = step(entry, job, *pods)
        entry = made.entry
        seen.append((*told(entry), made.action.value, made.made is not None))
    assert seen == [
        ("Pending", "WaitingForPod", "create the job", False),
        ("Pending", "WaitingForPod", "nothing", False),
        ("Creating", "Capturing", "nothing", False),
        ("Creating", "Capturing", "nothing", False),
        ("Creating", "Capturing", "nothing", True),
    ]


def test_steps_can_be_taken_again():
    """An operator that was killed after a write decides the same again."""
    for job, pods in [
        (fakes.job(), []),
        (fakes.job(), [fakes.pod()]),
        (fakes.job(), [fakes.pod(waits=fakes.FULL)]),
        (fakes.job("Failed"), [fakes.pod(phase="Failed", result=fakes.CRIU)]),
        (fakes.job("Complete"), [fakes.pod(phase="Succeeded")]),
    ]:
        assert steady(begin(), job, *pods)[1] <= 2


def test_only_recorded_pods_are_believed():
    """The first sight of a pod records it; its result counts from the next look on."""
    entry = creating(fakes.pod("p1"))
    forged = fakes.pod("p2", result=SUCCESS, phase="Succeeded")
    first = step(entry, fakes.job(), fakes.pod("p1"), forged)
    assert first.made is None
    assert [p["uid"] for p in first.entry["pods"]] == ["p1", "p2"]
    assert step(first.entry, fakes.job(), fakes.pod("p1"), forged).made


def test_pods_of_an_earlier_job_are_not_believed():
    entry = creating(fakes.pod("p1"))
    done = fakes.pod("p1", result=SUCCESS, phase="Succeeded")
    other = step(entry, fakes.job(uid="j2"), done)
    assert other.made is None
    assert other.entry["jobUID"] == "j2"


def test_the_phases_are_in_order_though_everything_happened_meanwhile():
    entry = begin()
    first = step(entry, fakes.job("Complete"), fakes.pod(result=SUCCESS, phase="Succeeded"))
    assert first.entry["phase"] == "Creating"
    assert first.made is None


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
    entry = creating(fakes.pod())
    found = fakes.pod(result=result, phase="Succeeded")
    soon = step(entry, fakes.job("Complete"), found, now=NOW + datetime.timedelta(seconds=10))
    assert soon.entry["phase"] == "Creating"
    assert 50 <= soon.again_seconds <= 51
    later = step(entry, fakes.job("Complete"), found, now=NOW + datetime.timedelta(seconds=61))
    assert told(later.entry) == ("Failed", "ResultMissing")
    assert "see the logs of the agent" in later.entry["message"]


def test_a_result_counts_only_when_the_pod_succeeded():
    entry = creating(fakes.pod())
    assert step(entry, fakes.job(), fakes.pod(result=SUCCESS)).made is None


def test_a_result_that_comes_late_is_taken():
    entry = creating(fakes.pod())
    later = NOW + datetime.timedelta(seconds=61)
    entry = step(entry, fakes.job("Complete"), fakes.pod(phase="Succeeded"), now=later).entry
    assert entry["phase"] == "Failed"
    forged = fakes.pod("p9", phase="Succeeded", result=SUCCESS)
    assert step(entry, fakes.job("Complete"), forged).made is None
    real = fakes.pod(phase="Succeeded", result=SUCCESS)
    assert step(entry, fakes.job("Complete"), real).made.uuid == "u-1"


def test_a_failed_attempt_is_told_and_the_next_may_succeed():
    entry = creating(fakes.pod("p1"))
    bad = fakes.pod("p1", result=fakes.CRIU, phase="Failed")
    entry = step(entry, fakes.job(), bad).entry
    assert told(entry) == ("Creating", "Capturing")
    assert entry["message"] == "attempt 1 failed: CriuFailed: criu dump: exit status 1"
    entry = step(entry, fakes.job(), bad, fakes.pod("p2")).entry
    assert entry["message"].startswith("attempt 1 failed: CriuFailed")
    assert entry["message"].endswith("pod pod-p2 starts the worker")
    good = fakes.pod("p2", result=SUCCESS, phase="Succeeded")
    assert step(entry, fakes.job("Complete"), bad, good).made


@pytest.mark.parametrize(
    ("result", "expected", "message"),
    [
        (fakes.CRIU, "CriuFailed", "criu dump: exit status 1 (BackoffLimitExceeded: too often)"),
        (None, "JobFailed", "BackoffLimitExceeded: too often (see kubectl logs job/j)"),
    ],
)
def test_a_failed_job(result, expected, message):
    entry = creating(fakes.pod())
    dead = fakes.pod(result=result, phase="Failed")
    made = step(entry, fakes.job("Failed"), dead).entry
    assert told(made) == ("Failed", expected)
    assert message in made["message"]
    assert step(made, fakes.job("Failed"), dead) == captures.Step(made)
    assert step(made) == captures.Step(made), "its Job may go"


def test_a_job_that_failed_before_it_had_a_pod():
    assert told(step(begin(), fakes.job("Failed")).entry) == ("Failed", "JobFailed")


def test_a_deleted_job_is_made_again():
    gone = step(creating(fakes.pod()))
    assert (gone.entry["phase"], gone.action) == ("Pending", captures.Action.NOTHING)
    assert "deleted" in gone.entry["message"]
    assert "pods" not in gone.entry
    assert step(gone.entry).action is captures.Action.CREATE_JOB


def test_a_job_of_an_earlier_attempt_goes_first():
    old = step(begin(), fakes.job(), fakes.pod(), attempt="earlier")
    assert (old.action, old.entry) == (captures.Action.DELETE_JOB, begin())
    failed = captures.moved(begin(), names.Phase.FAILED, reason="X", message="")
    assert step(failed, fakes.job(), attempt="earlier").action is captures.Action.NOTHING


def test_there_is_no_attempt_before_its_time():
    entry = begin(not_before="2026-01-29T10:05:30Z")
    early = step(entry)
    assert early.action is captures.Action.NOTHING
    assert 30 <= early.again_seconds <= 31
    late = step(entry, now=NOW + datetime.timedelta(seconds=30))
    assert late.action is captures.Action.CREATE_JOB


def test_a_pod_that_no_node_has_room_for():
    entry = creating(fakes.pod(waits=fakes.FULL))
    assert told(entry) == ("Pending", "WaitingForResources")
    assert "2 Insufficient nvidia.com/gpu" in entry["message"]
    assert "startupPolicy WaitForCheckpoint" in entry["message"]
    assert "captureSource worker" in entry["message"]
    assert told(step(entry, fakes.job(), fakes.pod()).entry) == ("Creating", "Capturing")


def test_a_pod_without_a_node_is_no_capture_yet():
    new = fakes.pod(phase="Pending")
    entry = creating(new)
    assert told(entry) == ("Pending", "WaitingForPod")
    assert "pods" not in entry, "it is written once, when there is more to say"
    pulls = fakes.pod(phase="Pending", node="n1")
    assert told(step(entry, fakes.job(), pulls).entry) == ("Creating", "Capturing")


def test_an_attempt_that_ended_waits_for_nothing():
    entry = creating(fakes.pod("p1", waits=fakes.FULL))
    bad = fakes.pod("p1", result=fakes.CRIU, phase="Failed")
    made = step(entry, fakes.job(), bad).entry
    assert told(made) == ("Creating", "Capturing")


def test_a_deadline_ends_the_job():
    entry = creating(fakes.pod())
    late = fakes.pod(phase="Failed", why="DeadlineExceeded")
    first = step(entry, fakes.job(), late)
    assert told(first.entry) == ("Failed", "DeadlineExceeded")
    assert "activeDeadlineSeconds" in first.entry["message"]
    # The operator may have been killed before the action: it is asked for until the Job ends.
    assert step(first.entry, fakes.job(), late).action is captures.Action.END_JOB
    over = step(first.entry, fakes.job("Failed"), late)
    assert (over.action, over.entry) == (captures.Action.NOTHING, first.entry)


def test_more_pods_than_are_kept():
    """A large backoffLimit: no write without a change, and the last one's success is seen."""
    dead = [fakes.pod(f"p{n:02}", phase="Failed", result=fakes.CRIU) for n in range(26)]
    entry, looks = steady(begin(), fakes.job(), *dead)
    assert looks <= 2
    assert len(entry["pods"]) == captures.MAX_PODS
    good = fakes.pod("p99", phase="Succeeded", result=SUCCESS)
    entry, _ = steady(entry, fakes.job("Complete"), *dead, good)
    assert step(entry, fakes.job("Complete"), *dead, good).made
    silent = fakes.pod("p99", phase="Succeeded")
    later = NOW + datetime.timedelta(seconds=61)
    entry, _ = steady(entry, fakes.job("Complete"), *dead, silent, now=later)
    assert told(entry) == ("Failed", "ResultMissing")


# Serving pods.


def pick(entry, *workers, limit=3, now=NOW):
    return captures.from_worker(entry, workers=workers, limit=limit, now=now)


FROM_WORKER = begin(job_name="", attempt="a")
CANNOT = {"reason": "NotCapturable", "message": "it was not started for it"}


@pytest.mark.parametrize(
    "pod",
    [
        fakes.worker("w", "cold"),
        fakes.worker("w", "failed", reason="CriuFailed"),
        fakes.worker("w", "unhealthy"),
    ],
)
def test_a_ready_cold_pod_is_picked(pod):
    made = pick(FROM_WORKER, pod)
    assert told(made.entry) == ("Creating", "Capturing")
    assert made.entry["pods"] == [{"name": "pod-w", "uid": "w"}]
    assert pick(made.entry, pod).entry == made.entry


@pytest.mark.parametrize(
    "pod",
    [
        fakes.worker("w", ready=False),
        fakes.worker("w", "restored"),
        fakes.worker("w", None),
        fakes.worker("w", deleted=True),
        fakes.worker("w", phase="Failed"),
        fakes.worker("w", image="llama:2"),
    ],
    ids=["not ready", "warm", "not started", "going", "ended", "other variant"],
)
def test_pods_that_are_not_picked(pod):
    made = pick(FROM_WORKER, pod)
    assert told(made.entry) == ("Pending", "WaitingForWorker")
    assert "pods" not in made.entry
    assert pick(made.entry, pod).entry == made.entry


@pytest.mark.parametrize("before", [SUCCESS, CANNOT], ids=["captured", "failed"])
def test_a_pod_that_was_captured_before_is_captured_again(before):
    """Its artifact was lost or is suspect; what it says of that one is not believed again."""
    entry = pick(FROM_WORKER, fakes.worker("w", result=before)).entry
    assert told(entry) == ("Creating", "Capturing")
    assert pick(entry, fakes.worker("w", result=before)) == captures.Step(entry)
    new = {**SUCCESS, "uuid": "u-2"}
    assert pick(entry, fakes.worker("w", result=new)).made.uuid == "u-2"


def test_the_result_of_the_named_pod_alone_is_believed():
    entry = pick(FROM_WORKER, fakes.worker("w1")).entry
    forged = fakes.worker("w2", result=SUCCESS)
    assert pick(entry, fakes.worker("w1"), forged).made is None
    assert pick(entry, fakes.worker("w1", result=SUCCESS), forged).made.uuid == "u-1"


def test_another_pod_after_the_named_one_went_or_could_not_be_captured():
    entry = pick(FROM_WORKER, fakes.worker("w1"), fakes.worker("w2")).entry
    assert [p["uid"] for p in entry["pods"]] == ["w1"]
    entry = pick(entry, fakes.worker("w2")).entry
    assert [p["uid"] for p in entry["pods"]] == ["w1", "w2"]
    bad = fakes.worker("w2", result=CANNOT)
    entry = pick(entry, bad, fakes.worker("w3")).entry
    assert [p["uid"] for p in entry["pods"]] == ["w1", "w2", "w3"]
    waiting = pick(entry, bad)
    assert told(waiting.entry) == ("Pending", "WaitingForWorker")
    assert "it was not started for it" in waiting.entry["message"]


@pytest.mark.parametrize("kept", [True, False], ids=["failed", "deleted"])
@pytest.mark.parametrize("limit", [0, 3, 50])
def test_attempts_with_serving_pods_are_limited(limit, kept):
    entry, bad = FROM_WORKER, []
    for number in range(60):
        entry = pick(entry, *bad, fakes.worker(f"w{number}"), limit=limit).entry
        if entry["phase"] == "Failed":
            break
        if kept:
            bad.append(fakes.worker(f"w{number}", result=CANNOT))
    assert entry["phase"] == "Failed"
    assert number == min(limit + 1, captures.MAX_PODS)
    assert entry["reason"] == "NotCapturable"
    assert pick(entry, *bad, fakes.worker("more"), limit=limit).entry == entry


def test_no_serving_pod_is_frozen_before_its_time():
    entry = begin(job_name="", not_before="2026-01-29T10:05:30Z")
    early = pick(entry, fakes.worker("w"))
    assert "pods" not in early.entry
    assert 30 <= early.again_seconds <= 31
