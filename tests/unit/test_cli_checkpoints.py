"""DynamoCheckpoints as commands tell of them."""

import datetime

import pytest

from chrek import errors
from chrek.cli import checkpoints
from fakes import warm

NOW = datetime.datetime(2026, 1, 29, 12, 0, tzinfo=datetime.UTC)
NOBODY = checkpoints.Asking([], [])


def test_found_by_name_before_hash():
    older = warm.checkpoint("b")
    other = warm.checkpoint(warm.HASH, creationTimestamp="2026-01-30T00:00:00Z")
    assert checkpoints.find([older, other], "b") is older
    assert checkpoints.find([older, other], warm.HASH) is other, "named so"
    assert checkpoints.find([older], warm.HASH) is older
    assert checkpoints.find([older], "c") is None


def test_of_an_identity_the_oldest_has_the_artifacts():
    older = warm.checkpoint("z")
    newer = warm.checkpoint("a", creationTimestamp="2026-01-30T00:00:00Z")
    assert checkpoints.find([newer, older], warm.HASH) is older
    assert checkpoints.owner([newer, older], newer) is older
    going = warm.checkpoint("z", deletionTimestamp="2026-01-30T00:00:00Z")
    assert checkpoints.owner([newer, going], newer) is newer
    elsewhere = warm.checkpoint("z", namespace="other")
    assert checkpoints.owner([newer, elsewhere], newer) is newer


def test_one_that_is_not_there():
    with pytest.raises(errors.InputError, match="namespace team has no DynamoCheckpoint") as caught:
        checkpoints.required([warm.checkpoint()], "x", "team")
    assert caught.value.hint == "there are: llama; -n names another namespace"
    with pytest.raises(errors.InputError, match="it has none"):
        checkpoints.required([], "x", "team")
    many = [warm.checkpoint(f"c{number}") for number in range(9)]
    with pytest.raises(errors.InputError, match="c7 and more"):
        checkpoints.required(many, "x", "team")


def test_a_hash_without_a_status():
    item = warm.checkpoint()
    del item["status"]
    assert checkpoints.hash_of(item, {}) == warm.HASH
    item["spec"]["identity"] = {"model": "m"}
    assert checkpoints.hash_of(item, {}) == ""
    row = checkpoints.row(item, NOBODY)
    assert (row.phase, row.hash, row.variants, row.bytes) == ("", "", 0, 0)
    cells = checkpoints.line_of(row, NOW)
    assert cells[2:8] == ("m", "<none>", "<none>", "<none>", "0", "<none>")


def test_a_row():
    row = checkpoints.row(warm.checkpoint(), NOBODY)
    assert checkpoints.line_of(row, NOW) == (
        *("team", "llama", "meta-llama/Llama-3-8B", "vllm", "Ready", warm.HASH),
        *("1", "1.3Gi", "2h", "never", "<none>"),
    )
    assert len(checkpoints.HEADER) == 11
    assert checkpoints.label(row.name) == "dynamocheckpoint.nvidia.com/llama"


def test_the_older_name_of_a_field():
    item = warm.checkpoint()
    item["spec"]["identity"] = {"model": "m", "framework": "sglang"}
    assert checkpoints.row(item, NOBODY).backend == "sglang"


def test_suspect_artifacts_are_counted():
    made = [warm.artifact(), warm.artifact("llama:2", suspect=True, failures=["a", "b", "c"])]
    item = warm.checkpoint(variants=made)
    row = checkpoints.row(item, NOBODY)
    assert checkpoints.count(row) == "2 (1 suspect)"
    assert row.bytes == 2 * made[0]["bytes"]
    assert checkpoints.artifact(made[1]).failures == 3


def test_who_asks():
    pods = [
        warm.pod("named"),
        warm.pod("hashed", wanted=warm.HASH),
        warm.pod("ended", status={"phase": "Succeeded"}),
        warm.pod("other", wanted="other"),
        warm.pod("source", labels={"nvidia.com/chrek-is-checkpoint-source": "true"}),
    ]
    section = {"enabled": True, "checkpointRef": "llama"}
    graph = {
        "metadata": {"name": "my-llm", "namespace": "team"},
        "spec": {"services": {"Worker": {"checkpoint": section}, "Odd": None}},
    }
    row = checkpoints.row(warm.checkpoint(), checkpoints.Asking(pods, [graph]))
    assert row.users.pods == ["hashed", "named"]
    assert row.users.graphs == ["my-llm"]
    assert checkpoints.users(row) == "2 pods, my-llm"


def test_pods_that_may_not_be_listed():
    row = checkpoints.row(warm.checkpoint(), checkpoints.Asking(None, []))
    assert row.users is None
    assert checkpoints.users(row) == "?"


def test_the_last_use_is_that_of_the_status_or_of_a_pod():
    made = warm.artifact(lastRestoredAt="2026-01-29T11:00:00Z")
    item = warm.checkpoint(variants=[made])
    assert checkpoints.row(item, NOBODY).last_used_at == "2026-01-29T11:00:00Z"
    later = warm.pod(start=warm.restored(at="2026-01-29T11:04:00Z"))
    cold = warm.pod("b", start=warm.cold("AgentBusy", uuid=warm.UUID, at="2026-01-29T11:30:00Z"))
    row = checkpoints.row(item, checkpoints.Asking([cold, later], []))
    assert row.last_used_at == "2026-01-29T11:04:00Z"


@pytest.mark.parametrize("text", ["", "[]", "no json", "[" * 5000])
def test_a_start_that_cannot_be_read(text):
    pod = warm.pod(annotations={"nvidia.com/chrek-start": text})
    assert checkpoints.started(pod) == {}


def test_detail():
    failed = {"variant": "v", "phase": "Failed", "reason": "CriuFailed", "message": "no"}
    counted = {"variant": "w", "phase": "Ready", "remade": 1}
    item = warm.checkpoint(captures=[failed, counted])
    found = checkpoints.detail(item, [item], NOBODY)
    assert [one.variant for one in found.captures] == ["v"]
    assert found.shares_with == ""
    assert found.capture_source == "job"
    assert found.deletion_policy == "Delete"
    assert found.artifacts[0].steps == warm.STEPS
    assert found.identity["model"] == "meta-llama/Llama-3-8B"
    newer = warm.checkpoint("b", worker=True, creationTimestamp="2026-01-30T00:00:00Z")
    found = checkpoints.detail(newer, [item, newer], NOBODY)
    assert (found.shares_with, found.capture_source) == ("llama", "worker")


def test_the_status_of_a_foreign_crd_is_read_from_the_annotation():
    from chrek import state

    item = warm.checkpoint()
    text = state.annotation(item["status"])
    item["metadata"]["annotations"] = {"nvidia.com/chrek-state": text}
    item["status"] = {"phase": "Ready"}
    assert checkpoints.row(item, NOBODY).variants == 1
