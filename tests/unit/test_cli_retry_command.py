"""`chrek retry` as a person meets it, and its word against the operator's rules."""

import datetime
import json

import jsonschema
import pytest
from click import testing

from chrek import cli, errors
from chrek.cli import records, retry_command, waiting
from fakes import api_server, warm

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

RETRY = "chrek.nvidia.com/retry"
FAILED = {
    "variant": "abc",
    "phase": "Failed",
    "reason": "CriuFailed",
    "message": "no",
    "image": "llama:1",
}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    monkeypatch.setattr(retry_command, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.0)
    return lambda *arguments: testing.CliRunner().invoke(cli.main, ["retry", *arguments])


def annotation(api, name="llama"):
    found = api.objects[f"{warm.CHECKPOINTS}/{name}"]["metadata"]
    return (found.get("annotations") or {}).get(RETRY)


def test_one_that_failed(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    result = run("llama")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "llama: variant abc (llama:1) is captured again; it failed with CriuFailed: no",
        "asked for; see how it goes: chrek show llama -n team",
    ]
    at = datetime.datetime.fromisoformat(annotation(api))
    assert abs((datetime.datetime.now(datetime.UTC) - at).total_seconds()) < 60


def test_twice_is_another_value(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    run("llama")
    first = annotation(api)
    run("llama")
    assert annotation(api) != first


def test_a_dry_run(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    result = run("llama", "--dry-run")
    assert result.stdout.endswith("\nnothing was changed\n")
    assert annotation(api) is None


def test_nothing_to_do(api, run):
    warm.cluster(api, warm.checkpoint())
    result = run("llama")
    assert result.exit_code == 0
    assert result.stdout == "llama: nothing to do: it is Ready: captured on node n1, 1.3Gi\n"
    assert annotation(api) is None
    document = json.loads(run("llama", "-ojson").stdout)
    assert document == {"namespace": "team", "name": "llama", "value": "", "effects": []}
    assert run("llama", "-oname").stdout == ""


def test_one_that_no_operator_has_seen(api, run):
    item = warm.checkpoint()
    item["status"] = {}
    warm.cluster(api, item)
    assert run("llama").stdout == "llama: nothing to do: no operator has noticed it yet\n"


def test_the_older_one_has_the_artifacts(api, run):
    newer = warm.checkpoint("b", creationTimestamp="2026-01-30T00:00:00Z")
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]), newer)
    result = run("b")
    assert result.stdout.startswith("b shares the artifacts of llama, which is older\nllama: ")
    assert annotation(api)
    assert annotation(api, "b") is None


def test_data(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    document = json.loads(run("llama", "-o", "json").stdout)
    jsonschema.validate(document, records.schema("retry"))
    assert document["value"] == annotation(api)
    assert len(document["effects"]) == 1
    assert run("llama", "-o", "name").stdout == "dynamocheckpoint.nvidia.com/llama\n"


def test_without_the_right(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    api.refuse("PATCH", f"{warm.CHECKPOINTS}/llama", status=403, message="forbidden")
    result = run("llama")
    assert result.exit_code == errors.ApiError.exit_code
    assert "you may not patch dynamocheckpoints.nvidia.com in namespace team" in result.stderr


def effects(**fields):
    return retry_command.effects(warm.checkpoint(**fields))


def test_effects():
    pruned = {"variant": "p", "phase": "Pending", "reason": "Pruned", "image": "i"}
    assert effects(captures=[pruned]) == [
        "variant p (i), whose artifact was pruned, is captured again"
    ]
    lost = {**FAILED, "image": "", "lost": ["a/b", "a/c"]}
    assert effects(captures=[lost])[1] == "the files of 2 lost artifacts of it are deleted"
    (text,) = effects(variants=[warm.artifact(), warm.artifact("llama:2", suspect=True)])
    assert text.startswith(f"the suspect artifact {warm.artifact('llama:2')['name']}/")
    assert effects(captures=[{"variant": "c", "phase": "Creating"}]) == []


def operator(api, phase):
    """An operator that acts on the annotation as soon as it is there."""

    def on_patch(path, body):
        value = body["metadata"]["annotations"][RETRY]
        status = api.objects[path]["status"]
        status |= {"retried": value, "phase": phase, "message": "m"}

    api.on_patch = on_patch


def test_waiting(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    operator(api, "Ready")
    result = run("llama", "--wait")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "Ready: m"


def test_waiting_beside_data(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    operator(api, "Ready")
    result = run("llama", "--wait", "-o", "json")
    assert result.exit_code == 0, result.output
    jsonschema.validate(json.loads(result.stdout), records.schema("retry"))
    assert result.stderr == "Ready: m\n"


def test_ctrl_c_before_anybody_acts(api, run, monkeypatch):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(retry_command, "noticed", interrupted)
    result = run("llama", "--wait")
    assert result.exit_code == 130
    assert "the checkpoint goes on: chrek show llama -n team\n" in result.stderr


def test_waiting_for_one_that_fails_again(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    operator(api, "Failed")
    result = run("llama", "--wait")
    assert result.exit_code == errors.CheckpointError.exit_code
    assert "DynamoCheckpoint llama failed: m" in result.stderr


def test_nobody_acts(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    result = run("llama", "--wait", "--timeout=0")
    assert result.exit_code == errors.CheckpointError.exit_code
    assert "no operator has acted on it" in result.stderr


def test_how_long_nobody_is_waited_for():
    now = iter(range(100))
    item = {"status": {}}
    with pytest.raises(errors.CheckpointError, match="after 15 s"):
        retry_command.noticed(
            lambda: item, "v", timeout=60, sleep=lambda _: None, clock=lambda: next(now) * 7.5
        )
    with pytest.raises(errors.CheckpointError, match="was deleted"):
        retry_command.noticed(lambda: None, "v", timeout=60)


def test_what_is_said_is_what_the_operator_does():
    """`chrek.operator.status` drops and restarts just what `effects` tells of."""
    from chrek.operator import status as statuses

    pruned = {"variant": "p", "phase": "Pending", "reason": "Pruned", "message": "m"}
    busy = {"variant": "c", "phase": "Creating", "reason": "Capturing", "message": "m"}
    bad = warm.artifact("llama:2", uuid="another", suspect=True)
    item = warm.checkpoint(captures=[FAILED, pruned, busy], variants=[warm.artifact(), bad])
    item["metadata"]["annotations"] = {RETRY: "now"}
    new = dict(item["status"])
    statuses._take_retry(item, new)
    assert [entry["variant"] for entry in new["captures"]] == ["c"]
    assert [one["image"] for one in new["variants"]] == ["llama:1"]
    assert len(retry_command.effects(item)) == 3
