"""What the starts of workers say about artifacts."""

import pytest

from chrek.operator import evidence
from fakes import captures

VARIANT = {"name": "v", "uuid": "u", "digest": "d"}


@pytest.mark.parametrize(
    "reason", ["ArtifactMissing", "ArtifactCorrupt", "DigestMismatch", "ArtifactUnreadable"]
)
@pytest.mark.parametrize("outcome", ["cold", "failed"])
def test_lost(outcome, reason):
    pod = captures.worker("w", outcome, reason=reason, uuid="u")
    assert evidence.lost(VARIANT, [pod]) == pod.start


@pytest.mark.parametrize(
    "pod",
    [
        captures.worker("w", "cold", reason="ArtifactMissing", uuid="earlier"),
        captures.worker("w", "cold", reason="ArtifactMissing"),
        captures.worker("w", "failed", reason="CriuFailed", uuid="u"),
        captures.worker("w", "cold", reason="AgentBusy", uuid="u"),
        captures.worker("w", None),
    ],
)
def test_not_lost(pod):
    assert evidence.lost(VARIANT, [pod]) is None


def test_three_different_pods_make_it_suspect():
    one = VARIANT
    for number in range(3):
        assert "suspect" not in one
        bad = captures.worker(f"w{number}", "unhealthy", reason="WorkerDied", uuid="u")
        for _ in range(3):
            one = evidence.noted(one, [bad])
        assert len(one["failures"]) == number + 1
    assert one["suspect"] is True
    more = captures.worker("w9", "unhealthy", reason="WorkerDied", uuid="u")
    assert evidence.noted(one, [more]) == one, "no more than that is kept"


def test_failures_of_another_artifact_are_not_its_own():
    bad = [captures.worker(f"w{n}", "unhealthy", uuid="other") for n in range(3)]
    assert evidence.noted(VARIANT, bad) == VARIANT


@pytest.mark.parametrize(
    ("before", "at", "after"),
    [
        ("", "2026-01-29T10:05:00Z", "2026-01-29T10:05:00Z"),
        ("2026-01-29T10:05:00Z", "2026-01-29T10:09:59Z", "2026-01-29T10:05:00Z"),
        ("2026-01-29T10:05:00Z", "2026-01-29T10:10:00Z", "2026-01-29T10:10:00Z"),
        ("2026-01-29T10:05:00Z", "2026-01-29T12:10:00+02:00", "2026-01-29T10:10:00Z"),
        ("2026-01-29T10:05:00Z", "2026-01-29T09:00:00Z", "2026-01-29T10:05:00Z"),
        ("2026-01-29T10:05:00Z", "tomorrow", "2026-01-29T10:05:00Z"),
        ("2026-01-29T10:05:00Z", "2026-01-30", "2026-01-30T00:00:00Z"),
        ("", "tomorrow", ""),
        ("", "", ""),
    ],
)
def test_the_last_restore_to_within_five_minutes(before, at, after):
    one = {**VARIANT, "lastRestoredAt": before} if before else VARIANT
    found = evidence.noted(one, [captures.worker("w", "restored", uuid="u", at=at)])
    assert found.get("lastRestoredAt", "") == after
    assert evidence.noted(found, [captures.worker("w", "restored", uuid="u", at=at)]) == found


def test_the_newest_of_several_restores():
    pods = [
        captures.worker(f"w{minute}", "restored", uuid="u", at=f"2026-01-29T10:{minute}:00Z")
        for minute in (20, 40, 30)
    ]
    assert evidence.noted(VARIANT, pods)["lastRestoredAt"] == "2026-01-29T10:40:00Z"
