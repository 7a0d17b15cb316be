"""Why a pod started warm or cold, from what the objects say."""

import json

import pytest

from chrek import names, reasons
from chrek.cli import checkpoints, explanation, unmanaged
from fakes import warm

SOURCE = {"nvidia.com/chrek-is-checkpoint-source": "true"}
SERVED = unmanaged.releases([warm.webhook("team", inside="chrek-system")])


def explain(pod, *items, **changes):
    seen = {"asking": checkpoints.Asking([], []), "releases": SERVED, **changes}
    return explanation.explain(explanation.Seen(pod=pod, items=list(items), **seen))


def test_a_pod_that_was_restored():
    found = explain(warm.pod(start=warm.restored()), warm.checkpoint())
    assert (found.outcome, found.reason, found.told_by) == ("restored", "Restored", "annotation")
    assert found.at == warm.T0
    assert found.message.startswith("restored 1.40 GB")
    assert found.artifact.uuid == warm.UUID
    assert (found.node, found.container, found.reference) == ("n1", "main", "llama")
    assert found.checkpoint.phase == "Ready"
    assert (found.action, found.gaps, found.differences) == ("", [], [])
    assert found.steps == {}
    assert "-n chrek-system -l app.kubernetes.io/part-of=chrek" in found.steps_command
    assert found.steps_command.endswith("| grep llm-1")


def test_steps_are_those_of_the_annotation():
    steps = {"criu": 0.95, "fetch": 0.2, "odd": "x"}
    found = explain(warm.pod(start=warm.restored(steps=steps)), warm.checkpoint())
    assert found.steps == {"criu": 0.95, "fetch": 0.2}
    assert found.steps_command == ""
    assert explain(warm.pod(start=warm.restored(steps=[1])), warm.checkpoint()).steps == {}


@pytest.mark.parametrize("outcome", ["cold", "failed", "unhealthy"])
@pytest.mark.parametrize("reason", names.Reason)
def test_every_reason_has_its_advice(outcome, reason):
    start = {"outcome": outcome, "reason": reason, "message": "m"}
    found = explain(warm.pod(start=start), warm.checkpoint())
    assert (found.outcome, found.reason) == (outcome, reason)
    assert found.meaning == reasons.TABLE[reason].meaning
    assert "CHECKPOINT" not in found.action
    assert "POD" not in found.action


def test_a_reason_of_a_newer_agent():
    found = explain(warm.pod(start=warm.cold("Unheard")), warm.checkpoint())
    assert found.meaning == reasons.UNKNOWN.meaning


def test_commands_name_checkpoint_and_namespace():
    found = explain(warm.pod(start=warm.cold("Suspect")), warm.checkpoint())
    assert found.action.endswith("`chrek retry llama -n team`")


def test_differences_are_told_where_the_reason_is_one():
    other = {"image": "llama:2"}
    pod = warm.pod(start=warm.cold("ImageDiffers", uuid=warm.UUID), container=other)
    (one,) = explain(pod, warm.checkpoint()).differences
    assert (one.what, one.detail) == ("image", "captured llama:1, here llama:2")
    pod = warm.pod(start=warm.cold("AgentBusy"), container=other)
    assert explain(pod, warm.checkpoint()).differences == []
    pod = warm.pod(start=warm.cold("NoMatchingVariant"), container=other)
    assert explain(pod).differences == []
    assert explain(pod, warm.checkpoint(worker=True)).differences == []
    odd = warm.checkpoint(spec={"containers": [{"name": "a"}, {"name": "b"}]})
    assert explain(pod, odd).differences == []


def test_the_artifact_that_fits_and_the_capture_under_way():
    entry = {"variant": warm.artifact()["name"], "phase": "Creating", "reason": "Capturing"}
    item = warm.checkpoint(variants=[warm.artifact("llama:2")], captures=[entry])
    found = explain(warm.pod(start=warm.cold("NoMatchingVariant")), item)
    assert found.artifact is None
    assert found.capture.phase == "Creating"
    found = explain(warm.pod(start=warm.cold("AgentBusy")), warm.checkpoint())
    assert found.artifact.uuid == warm.UUID
    gone = explain(warm.pod(start=warm.cold("ArtifactMissing", uuid="gone")), warm.checkpoint())
    assert gone.artifact is None, "not another one"


def test_a_wanted_variant_that_admission_changed():
    pod = warm.pod(start=warm.cold("AgentBusy"), container={"image": "llama:2"})
    made = warm.artifact(wantedAs=warm.artifact("llama:2")["name"])
    assert explain(pod, warm.checkpoint(variants=[made])).artifact.uuid == warm.UUID


def test_a_pod_that_was_skipped():
    text = "TerminalRequested: tty cannot be combined with checkpoints (remove tty)"
    pod = warm.pod(injected=False, annotations={"nvidia.com/chrek-skipped": text})
    found = explain(pod, warm.checkpoint())
    assert (found.outcome, found.reason) == ("skipped", "TerminalRequested")
    assert found.message == "tty cannot be combined with checkpoints (remove tty)"
    assert found.gaps == []


def test_a_pod_that_nobody_manages():
    found = explain(warm.pod(wanted=None, injected=False, **warm.of_deployment()))
    assert (found.outcome, found.reason, found.meaning) == ("unmanaged", "", "")
    assert len(found.gaps) == 1
    assert found.steps_command == ""


@pytest.mark.parametrize(
    ("result", "reason", "message"),
    [
        (None, "Capturing", "it starts cold"),
        ({"uuid": "u", "variant": "v", "digest": "d", "steps": {"dump": 1}}, "Checkpointed", "v/u"),
        ({"reason": "CriuFailed", "message": "no"}, "CriuFailed", "no"),
        ({}, "ResultMissing", "names no uuid"),
    ],
)
def test_a_pod_that_is_captured(result, reason, message):
    annotations = {} if result is None else {"nvidia.com/chrek-result": json.dumps(result)}
    found = explain(warm.pod(labels=SOURCE, annotations=annotations))
    assert (found.outcome, found.reason) == ("source", reason)
    assert message in found.message
    assert found.steps == {k: float(v) for k, v in (result or {}).get("steps", {}).items()}


def test_the_condition_counts_without_an_annotation():
    condition = {
        "type": "nvidia.com/Restored",
        "status": "False",
        "reason": "AgentBusy",
        "message": "m",
        "lastTransitionTime": warm.T0,
    }
    pod = warm.pod(status={"conditions": [{"type": "Ready"}, condition]})
    found = explain(pod, events=[warm.event("Other")])
    assert (found.outcome, found.reason, found.told_by) == ("cold", "AgentBusy", "condition")
    condition["status"] = "True"
    assert explain(pod).outcome == "restored"


def test_the_last_event_of_the_agent_counts_without_a_condition():
    events = [
        warm.event("AgentBusy", at="2026-01-29T10:01:00.000000Z"),
        warm.event("Restored", at="2026-01-29T10:02:00.000000Z"),
        warm.event("Scheduled", component="scheduler", at="2026-01-29T10:03:00Z"),
    ]
    found = explain(warm.pod(), events=events)
    assert (found.outcome, found.reason, found.told_by) == ("restored", "Restored", "event")
    assert explain(warm.pod(), events=events[:1]).outcome == "cold"
    assert [one.reason for one in found.events] == ["AgentBusy", "Restored"]


def test_only_the_newest_events_are_told():
    events = [warm.event(f"R{n}", at=f"2026-01-29T10:0{n}:00Z") for n in range(7)]
    found = explain(warm.pod(start=warm.restored()), events=events)
    assert [one.reason for one in found.events] == ["R2", "R3", "R4", "R5", "R6"]


def test_older_events():
    """Of the API before events.k8s.io, and as kubectl shows them."""
    event = {"source": {"component": "nvidia.com/chrek-agent"}, "reason": "X", "note": "n"}
    event |= {"metadata": {"creationTimestamp": warm.T0}, "type": "Normal"}
    (one,) = explain(warm.pod(start=warm.restored()), events=[event]).events
    assert (one.at, one.message) == (warm.T0, "n")


def test_the_line_of_chrek_init_counts_when_no_agent_spoke():
    log = "x\nchrek: Falling back to cold start: AgentUnavailable: no agent within 20 s\ny"
    found = explain(warm.pod(), log=log)
    assert (found.outcome, found.reason, found.told_by) == ("cold", "AgentUnavailable", "log")
    assert found.message == "no agent within 20 s"


def test_whose_log_is_needed():
    assert explanation.needs_log(warm.pod(), [])
    assert explanation.needs_log(warm.pod(), None)
    assert not explanation.needs_log(warm.pod(), [warm.event("AgentBusy")])
    assert not explanation.needs_log(warm.pod(start=warm.restored()), [])
    assert not explanation.needs_log(warm.pod(injected=False), [])
    assert not explanation.needs_log(warm.pod(status={"phase": "Pending"}), [])


def test_a_pod_of_which_nobody_says_anything():
    found = explain(warm.pod(), notes=["you may not list events"])
    assert (found.outcome, found.reason, found.meaning) == ("unknown", "", "")
    assert found.steps_command
    assert found.notes == ["you may not list events"]


WAITING = {"name": "main", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m"}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"phase": "Pending", "conditions": [UNSCHEDULED]}, "Unschedulable"),
        ({"phase": "Pending", "containerStatuses": [WAITING]}, "ErrImagePull"),
        ({"phase": "Pending"}, ""),
    ],
)
def test_a_pod_that_has_not_started(status, reason):
    found = explain(warm.pod(status=status), warm.checkpoint())
    assert (found.outcome, found.reason, found.meaning) == ("pending", reason, "")


def test_a_container_that_starts_again_has_started_before():
    again = {**WAITING, "restartCount": 2}
    assert explain(warm.pod(status={"containerStatuses": [again]})).outcome == "unknown"


def test_a_checkpoint_that_is_not_there():
    found = explain(warm.pod(wanted="x", start=warm.cold("CheckpointNotFound")))
    assert (found.reference, found.checkpoint, found.artifact) == ("x", None, None)


def test_a_release_that_is_not_known():
    found = explain(warm.pod(start=warm.restored()), releases=None)
    assert "-n RELEASE_NAMESPACE " in found.steps_command
