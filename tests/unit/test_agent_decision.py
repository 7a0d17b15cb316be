"""Restored or cold, and why: every Reason has its case."""

import os
import subprocess

import pytest

from chrek import names
from chrek import store as stores
from chrek.agent import decision, objects
from fakes import projected
from fakes.projected import HASH, POD, checkpoint

FIND = {
    "by name": ([checkpoint("other"), checkpoint("llm")], "llm", "llm"),
    "by hash": ([checkpoint("llm")], HASH, "llm"),
    "a name before a hash": ([checkpoint("by-hash"), checkpoint(HASH)], HASH, HASH),
    "a name that is not Ready before a hash": (
        [checkpoint("by-hash"), checkpoint(HASH, phase="Failed")],
        HASH,
        HASH,
    ),
    "one that lives before a name": (
        [checkpoint("llm", deleting=True), checkpoint("other")],
        "llm",
        "other",
    ),
    "Ready of several with the hash": (
        [checkpoint("a", phase="Creating"), checkpoint("b"), checkpoint("c")],
        HASH,
        "b",
    ),
    "not Ready is better than none": ([checkpoint("llm", phase="Pending")], "llm", "llm"),
    "this namespace only": (
        [checkpoint("llm", namespace="elsewhere"), checkpoint("mine", identity_hash="f" * 16)],
        "f" * 16,
        "mine",
    ),
}


@pytest.mark.parametrize(("there", "wanted", "found"), FIND.values(), ids=list(FIND))
def test_finding_a_checkpoint(there, wanted, found):
    assert decision.find(there, "ns", wanted).first.name == found


@pytest.mark.parametrize("wanted", ["absent", "", HASH.upper(), "f" * 16])
def test_no_checkpoint(wanted):
    there = [checkpoint(), checkpoint(namespace="elsewhere", identity_hash="f" * 16)]
    with pytest.raises(decision.Cold) as caught:
        decision.find(there, "ns", wanted)
    assert caught.value.reason == names.Reason.CHECKPOINT_NOT_FOUND
    assert caught.value.message == f"no DynamoCheckpoint {wanted} in namespace ns"


def test_all_of_one_identity_are_found():
    there = [
        *(checkpoint("llm"), checkpoint("shared"), checkpoint("going", deleting=True)),
        *(checkpoint("other", identity_hash="f" * 16), checkpoint("new", identity_hash="")),
        checkpoint("elsewhere", namespace="elsewhere"),
    ]
    for wanted, first in (("shared", "shared"), (HASH, "llm")):
        found = decision.find(there, "ns", wanted)
        assert found.first.name == first
        assert {c.name for c in found.all} == {"llm", "shared", "going"}
    # One that the operator has not seen yet shares with nobody.
    assert [c.name for c in decision.find(there, "ns", "new").all] == ["new"]


@pytest.mark.parametrize("wanted", ["llm", HASH])
def test_an_identity_that_is_being_deleted(wanted):
    there = [checkpoint("llm", deleting=True), checkpoint("b", deleting=True)]
    with pytest.raises(decision.Cold) as caught:
        decision.find(there, "ns", wanted)
    assert caught.value.reason == names.Reason.BEING_DELETED


def chosen(*checkpoints, pod=POD):
    return decision.choose(decision.Found(checkpoints[0], checkpoints[1:]), pod)


def refused(*checkpoints, pod=POD):
    with pytest.raises(decision.Cold) as caught:
        chosen(*checkpoints, pod=pod)
    return caught.value


@pytest.mark.parametrize("phase", ["", "Pending", "Creating", "Failed", "ready"])
def test_a_checkpoint_that_is_not_ready(phase):
    cold = refused(checkpoint(phase=phase, variants=()))
    assert cold.reason == names.Reason.CHECKPOINT_NOT_READY
    assert (phase or "not seen yet") in cold.message
    told = refused(checkpoint(phase=phase, variants=(), reason="JobFailed", message="no node"))
    assert told.message.endswith(": JobFailed: no node")


@pytest.mark.parametrize("phase", ["", "Pending", "Creating", "Failed", "Ready"])
def test_a_variant_is_usable_whatever_the_phase(phase):
    """The phase is about the capture of the object's own pod template."""
    assert chosen(checkpoint(phase=phase))[1].uuid == "u"


def test_choosing_a_variant():
    two = checkpoint(variants=(objects.Variant("bbbb"), objects.Variant("aaaa", "u")))
    assert chosen(two)[1].uuid == "u"
    for variants in ((), (objects.Variant("bbbb"),)):
        cold = refused(checkpoint(variants=variants))
        assert cold.reason == names.Reason.NO_VARIANT
        assert "llm:1 serve" in cold.message


def test_variants_of_all_that_share_an_identity():
    """The newest wins: who shares lags behind the owner for a moment."""
    old = checkpoint("a", variants=(objects.Variant("aaaa", "u-1", created_at="2026-01-01"),))
    new = checkpoint("b", variants=(objects.Variant("aaaa", "u-2", created_at="2026-01-02"),))
    empty = checkpoint("c", phase="Creating", variants=())
    item, variant = chosen(empty, old, new)
    assert (item.name, variant.uuid) == ("b", "u-2")
    # One Ready says more about the missing variant than one that is being made.
    other = checkpoint("d", variants=(objects.Variant("bbbb"),))
    assert refused(empty, other).reason == names.Reason.NO_VARIANT


DIFFERS = {
    "image": ("llm:0", "was captured with image llm:0; this pod's is llm:1"),
    "command": ("llm:1", "was captured with another command; this pod's is serve"),
}


@pytest.mark.parametrize(("image", "message"), DIFFERS.values(), ids=list(DIFFERS))
def test_what_differs_from_what_was_captured(image, message):
    variants = (objects.Variant("bbbb", "u", "d", image),)
    assert message in refused(checkpoint(variants=variants)).message
    capture = objects.Capture("aaaa", "Creating")
    cold = refused(checkpoint(variants=variants, captures=(capture,)))
    assert cold.message.endswith("(the capture for this pod is Creating)")


def test_an_artifact_that_is_suspect():
    bad = objects.Variant("aaaa", "u-1", "d", suspect=True)
    cold = refused(checkpoint(variants=(bad,)))
    assert (cold.reason, cold.uuid, cold.variant) == (names.Reason.SUSPECT, "u-1", "aaaa")
    command = "kubectl annotate dckpt llm --namespace ns chrek.nvidia.com/retry=<anything new>"
    assert f"{command} --overwrite" in cold.message
    # Who shares it and has not heard so yet does not make it good; another artifact does.
    unaware = checkpoint("b", variants=(objects.Variant("aaaa", "u-1", "d"),))
    assert refused(checkpoint(variants=(bad,)), unaware).reason == names.Reason.SUSPECT
    fresh = checkpoint("b", variants=(objects.Variant("aaaa", "u-2", "d"),))
    assert chosen(checkpoint(variants=(bad,)), fresh)[1].uuid == "u-2"


def test_the_call_that_wakes_comes_from_whoever_says_it():
    wake = {"http": {"port": 1, "path": "/wake_up"}}
    one, two = checkpoint("a"), checkpoint("b", wake=wake)
    assert decision.Found(one).wake is None
    assert decision.Found(one, (two,)).wake == wake


@pytest.fixture
def committed(tmp_path):
    """A function that stores an artifact and returns what the status says of it."""

    def commit(**source):
        return stores.Store(tmp_path), projected.commit(tmp_path, "", **source)

    return commit


def test_an_artifact_that_fits(committed):
    store, variant = committed()
    found = decision.artifact(store, checkpoint(), variant, POD, init_pid=os.getpid())
    assert found.manifest.uuid == variant.uuid


DIFFERENT = [
    ({"architecture": "riscv64"}, "ArchitectureDiffers", "captured riscv64, here"),
    ({"image": "llm:2"}, "ImageDiffers", "image: captured llm:2, here llm:1"),
    ({"command": ["serve", "-v"]}, "CommandDiffers", "captured serve -v, here serve"),
    ({"environment": {"A": "2"}}, "EnvironmentDiffers", "differ from the captured ones: A"),
    ({"user": {"uids": [7], "gids": [7], "groups": []}}, "UserDiffers", "uids captured 7, here"),
    ({"secrets": {"TOKEN": "0"}}, "SecretDiffers", "captured ones: TOKEN (missing here)"),
]


@pytest.mark.parametrize(("source", "reason", "message"), DIFFERENT)
def test_an_artifact_that_does_not_fit(committed, source, reason, message):
    store, variant = committed(**source)
    with pytest.raises(decision.Cold) as caught:
        decision.artifact(store, checkpoint(), variant, POD, init_pid=os.getpid())
    assert caught.value.reason == reason
    assert message in caught.value.message
    assert (caught.value.uuid, caught.value.variant) == (variant.uuid, variant.name)


def test_what_an_administrator_ignores(committed):
    store, variant = committed(secrets={"TOKEN": "0"})
    here = {"init_pid": os.getpid(), "ignore": ["secrets"]}
    assert decision.artifact(store, checkpoint(), variant, POD, **here)


def test_a_container_that_ended(committed):
    store, variant = committed()
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(decision.Cold) as caught:
        decision.artifact(store, checkpoint(), variant, POD, init_pid=ended.pid)
    assert caught.value.reason == names.Reason.PEER_REFUSED


def test_an_artifact_that_is_not_the_one(committed):
    store, variant = committed()
    other = objects.Variant(variant.name, variant.uuid, "sha256:" + "0" * 64)
    missing = objects.Variant(variant.name, "0" * 8, variant.digest)
    unset = objects.Variant(variant.name)
    for wrong, reason in (
        (other, names.Reason.DIGEST_MISMATCH),
        (missing, names.Reason.ARTIFACT_MISSING),
        (unset, names.Reason.INVALID_SPEC),
    ):
        with pytest.raises(decision.Cold) as caught:
            decision.artifact(store, checkpoint(), wrong, POD, init_pid=os.getpid())
        assert caught.value.reason == reason
        assert (caught.value.uuid, caught.value.variant) == (wrong.uuid, wrong.name)
