"""A service's part of the status of its graph."""

import hypothesis
import pytest
from hypothesis import strategies

from chrek import state
from chrek.operator import services, workloads
from fakes import captures as fakes

A = fakes.name_of()
B = fakes.name_of("llama:2")
AUTO = workloads.Wish(known=fakes.KNOWN, reference=fakes.HASH)
NAMED = workloads.Wish(known=None, reference="c")
WORKER = workloads.Wish(
    known=fakes.KNOWN, reference=fakes.HASH, section={"captureSource": "worker"}
)


def checkpoint(*, spec=None, **status):
    return {**fakes.checkpoint(spec=spec), "status": status}


def artifact(name=A, **fields):
    return {"name": name, "uuid": "u", "digest": "d", **fields}


def capture(phase, name=A, reason="CriuFailed"):
    return {"variant": name, "phase": phase, "reason": reason, "message": "why"}


GOOD = checkpoint(phase="Ready", variants=[artifact()])
SUSPECT = checkpoint(phase="Failed", variants=[artifact(suspect=True)], message="m")


@pytest.mark.parametrize(
    ("found", "variant", "usable", "failed"),
    [
        (None, A, False, ""),
        ({}, A, False, ""),
        (GOOD, A, True, ""),
        (GOOD, B, False, ""),
        (SUSPECT, A, False, "m"),
        (checkpoint(phase="Ready", variants=[artifact(suspect=True)]), A, False, "its artifact is"),
        (checkpoint(phase="Pending", captures=[capture("Pending")]), A, False, ""),
        (checkpoint(phase="Failed", captures=[capture("Failed")]), A, False, "CriuFailed: why"),
        (checkpoint(phase="Failed", captures=[capture("Failed", B)], message="m"), A, False, "m"),
        (checkpoint(phase="Failed", captures=[capture("Creating")]), A, False, ""),
        (
            checkpoint(phase="Ready", captures=[capture("Pending", A, "TooManyVariants")]),
            A,
            False,
            "TooManyVariants: why",
        ),
        (
            checkpoint(phase="Pending", captures=[capture("Pending", A, "StoreNearlyFull")]),
            A,
            False,
            "StoreNearlyFull: why",
        ),
        (checkpoint(phase="Pending", captures=[capture("Pending", A, "Pruned")]), A, False, ""),
    ],
)
def test_usable_and_failed(found, variant, usable, failed):
    assert services.usable(found, variant) == usable
    assert services.failed(found, variant).startswith(failed)
    assert bool(services.failed(found, variant)) == bool(failed)


@pytest.mark.parametrize(
    ("found", "wish", "variant", "hopeless"),
    [
        (None, AUTO, A, False),
        (None, NAMED, A, False),
        (None, WORKER, A, True),
        (checkpoint(spec={"captureSource": "worker"}, phase="Pending"), NAMED, A, True),
        (GOOD, NAMED, B, True),
        (GOOD, AUTO, B, False),
        (GOOD, NAMED, A, False),
        (checkpoint(phase="Ready", captures=[capture("Creating", B)]), NAMED, B, False),
        (checkpoint(phase="Pending", captures=[capture("Pending")]), NAMED, B, False),
        (checkpoint(phase="Failed", message="m"), AUTO, A, True),
    ],
)
def test_when_it_is_no_use_to_wait(found, wish, variant, hopeless):
    assert bool(services.hopeless(found, wish, variant)) == hopeless


def deployment(replicas=2, ready=2):
    return {"spec": {"replicas": replicas}, "status": {"readyReplicas": ready}}


def test_a_service_without_a_checkpoint():
    assert services.entry("d", deployment(), None) == {
        "deploymentName": "d",
        "replicas": 2,
        "readyReplicas": 2,
        "reason": "Available",
        "message": "2 of 2 pods are ready",
    }
    made = services.entry("d", None, None)
    assert (made["replicas"], made["reason"]) == (0, "WaitingForReplicas")
    assert services.entry("d", {"metadata": {}}, None)["replicas"] == 1


def test_a_problem_is_told():
    made = services.entry("d", deployment(), services.Problem("NameTaken", "it is"))
    assert (made["reason"], made["message"]) == ("NameTaken", "it is")


def test_how_its_pods_started():
    alive = [
        fakes.worker("a", "restored"),
        fakes.worker("b", "unhealthy", reason="WorkerDied"),
        fakes.worker("c", "cold", reason="AgentBusy"),
        fakes.worker("d", "cold", reason="AgentBusy"),
        fakes.worker("e", "failed", reason="CriuFailed"),
        fakes.worker("f", "cold", reason="AgentBusy", deleted=True),
        fakes.worker("g", "cold", reason="AgentBusy", phase="Failed"),
        fakes.worker("h", None),
    ]
    made = services.entry(
        "d", deployment(), None, wish=AUTO, checkpoint=GOOD, variant=A, alive=alive
    )
    assert (made["restored"], made["cold"], made["ready"]) == (2, 3, True)
    assert made["coldReasons"] == {"AgentBusy": 2, "CriuFailed": 1}
    assert (made["checkpointName"], made["identityHash"]) == ("c", fakes.HASH)


def test_a_failed_checkpoint_is_told_though_the_pods_are_there():
    failed = checkpoint(phase="Failed", captures=[capture("Failed")])
    made = services.entry("d", deployment(), None, wish=AUTO, checkpoint=failed, variant=A)
    assert made["reason"] == "Available"
    assert "they start cold, the checkpoint failed: CriuFailed: why" in made["message"]


def test_a_checkpoint_that_is_not_there_yet():
    made = services.entry("d", deployment(), None, wish=NAMED)
    assert (made["checkpointName"], made["ready"]) == ("c", False)
    assert "identityHash" not in made
    assert services.entry("d", deployment(), None, wish=AUTO)["identityHash"] == fakes.HASH


ENTRIES = strategies.recursive(
    strategies.integers() | strategies.booleans(),
    lambda inner: strategies.dictionaries(strategies.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
).filter(lambda value: isinstance(value, dict))


@hypothesis.given(ENTRIES, ENTRIES)
def test_the_patch_makes_the_new_services_of_the_old(old, new):
    """A merge patch keeps what it does not name."""
    assert state.merged(old, services.patch(old, new)) == new


def test_what_is_gone_is_named_at_any_depth():
    old = {"a": {"coldReasons": {"AgentBusy": 1, "CriuFailed": 1}}, "b": {}}
    new = {"a": {"coldReasons": {"AgentBusy": 1}}}
    assert services.patch(old, new) == {
        "a": {"coldReasons": {"CriuFailed": None, "AgentBusy": 1}},
        "b": None,
    }
    assert services.patch(old, {"a": {}})["a"] == {"coldReasons": None}
