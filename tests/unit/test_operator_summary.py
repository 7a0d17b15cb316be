"""What captures and variants amount to."""

import copy

import pytest

from chrek import errors
from chrek.operator import conditions, summary
from fakes import captures as fakes

NOW = fakes.NOW
A = fakes.name_of()
B = fakes.name_of("llama:2")


def variant(name=A, uuid="u-1", **fields):
    return {"name": name, "uuid": uuid, "digest": "d", "bytes": 1 << 30, "node": "n1", **fields}


def entry(phase, name=A, **fields):
    made = {"variant": name, "phase": phase, "reason": "Because", "message": "so", "image": "i"}
    return {**made, **fields}


def derived(own=A, item=None, **status):
    item = item or fakes.checkpoint()
    return summary.derived(item, {"identityHash": fakes.HASH, **status}, own, now=NOW)


def told(made):
    return made["phase"], conditions.get(made, "Ready")["reason"]


SUSPECT = variant(suspect=True)


@pytest.mark.parametrize(
    ("own", "variants", "captures", "phase", "reason"),
    [
        (A, [variant()], [], "Ready", "Checkpointed"),
        (A, [], [entry("Creating")], "Creating", "Because"),
        (A, [variant(B)], [entry("Pending")], "Pending", "Because"),
        (A, [variant(B)], [entry("Failed")], "Failed", "Because"),
        (A, [variant()], [entry("Failed", B)], "Ready", "Checkpointed"),
        (A, [SUSPECT], [], "Failed", "Suspect"),
        (A, [SUSPECT, variant(B)], [], "Failed", "Suspect"),
        ("", [variant(B)], [], "Ready", "Checkpointed"),
        ("", [SUSPECT, variant(B)], [], "Ready", "Checkpointed"),
        ("", [], [entry("Creating", B)], "Creating", "Because"),
        ("", [], [], "Pending", "WaitingForWorker"),
        ("", [], [{"variant": A, "phase": "Ready", "remade": 1}], "Pending", "WaitingForWorker"),
        (A, [], [{"variant": A, "phase": "Pending"}], "Pending", ""),
    ],
)
def test_phases(own, variants, captures, phase, reason):
    made = derived(own, variants=variants, captures=captures)
    assert told(made) == (phase, reason)
    assert conditions.get(made, "Ready")["message"] == made["message"]
    again = summary.derived(fakes.checkpoint(), copy.deepcopy(made), own, now=NOW)
    assert again == made


def test_what_is_empty_is_not_there():
    made = derived(captures=[], variants=[], garbage=[], size="1", location="x", createdAt="t")
    for field in ("captures", "variants", "garbage", "size", "location", "createdAt"):
        assert field not in made


def test_the_size_is_that_of_all_artifacts():
    assert derived(variants=[variant(), variant(B, "u-2")])["size"] == "2.0Gi"
    assert derived(variants=[{"name": A, "uuid": "u", "digest": "d"}])["size"] == "0"


@pytest.mark.parametrize(
    ("captures", "before", "name"),
    [
        ([entry("Pending", jobName="j")], "", "j"),
        ([entry("Pending", B, jobName="other")], "mine", "mine"),
        ([], "", f"checkpoint-{fakes.HASH}"),
    ],
)
def test_the_job_s_name(captures, before, name):
    status = {"jobName": before} if before else {}
    assert derived(captures=captures, **status)["jobName"] == name


def test_a_serving_pod_has_no_job():
    assert "jobName" not in derived("", fakes.checkpoint(spec={"captureSource": "worker"}))


def test_a_suspect_one_says_how_to_have_it_made_again():
    made = derived(variants=[SUSPECT])
    hint = 'kubectl annotate dckpt c chrek.nvidia.com/retry="$(date)" --overwrite'
    assert hint in made["message"]
    assert hint in conditions.get(made, "Suspect")["message"]
    assert conditions.get(derived(**{**made, "variants": [variant()]}), "Suspect") is None


def test_an_invalid_spec():
    err = errors.InputError("spec.identity.model: required", hint="correct the identity")
    made = summary.invalid(fakes.checkpoint(generation=4), err, now=NOW)
    assert told(made) == ("Failed", "InvalidSpec")
    assert made["message"] == "spec.identity.model: required (correct the identity)"
    assert made["observedGeneration"] == 4


# Two checkpoints of one identity.


def shared(owner, own=A, **before):
    second = fakes.checkpoint("second")
    second["status"] = before
    made = summary.shared(second, owner, own, now=NOW)
    again = summary.shared({**second, "status": made}, owner, own, now=NOW)
    assert again == made
    return made


def owner(**status):
    made = fakes.checkpoint("c")
    made["status"] = derived(item=made, **status) if status else {}
    return made


def test_a_second_checkpoint_of_one_identity_follows_the_first():
    first = owner(captures=[entry("Creating", jobName="j")])
    made = shared(first)
    assert told(made) == ("Creating", "Because")
    assert made["message"] == "shares the artifact of c: so"
    assert conditions.get(made, "SharedWith")["message"].startswith("c is older")
    assert "jobName" not in made
    assert "captures" not in made
    first = owner(variants=[variant()], location="/x", createdAt="t", garbage=["a/b"])
    made = shared(first, **made)
    assert made["phase"] == "Ready"
    for key in ("variants", "location", "identityHash", "createdAt", "size"):
        assert made[key] == first["status"][key]
    assert "garbage" not in made, "the owner has it deleted"


def test_what_the_owner_no_longer_has_goes():
    made = shared(owner(variants=[variant()]))
    made = shared(owner(captures=[entry("Failed")]), **made)
    assert made["phase"] == "Failed"
    assert "variants" not in made
    assert "size" not in made


def test_the_owner_has_not_been_looked_at():
    assert told(shared(owner())) == ("Pending", "WaitingForPod")


def test_its_own_variant_is_another_than_the_owner_s():
    first = owner(variants=[variant()])
    assert told(shared(first, B)) == ("Pending", "WaitingForPod")
    first = owner(variants=[variant()], captures=[entry("Failed", B)])
    assert told(shared(first, B)) == ("Failed", "Because")
    first = owner(variants=[variant(), variant(B, "u-2")])
    assert told(shared(first, B)) == ("Ready", "Checkpointed")


def test_an_owner_whose_spec_cannot_be_used_fails_both():
    first = owner()
    err = errors.UnsupportedError("container 'main' has no `command`", reason="CommandUnknown")
    first["status"] = summary.invalid(first, err, now=NOW)
    made = shared(first)
    assert told(made) == ("Failed", "CommandUnknown")
    assert "has no `command`" in made["message"]
