"""Restored or cold, and why: every Reason has its case."""

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
    "Ready before a name": (
        [checkpoint(HASH, phase="Failed"), checkpoint("by-hash")],
        HASH,
        "by-hash",
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
    assert decision.find(there, "ns", wanted).name == found


@pytest.mark.parametrize("wanted", ["absent", "", HASH.upper(), "f" * 16])
def test_no_checkpoint(wanted):
    there = [checkpoint(), checkpoint(namespace="elsewhere", identity_hash="f" * 16)]
    with pytest.raises(decision.Cold) as caught:
        decision.find(there, "ns", wanted)
    assert caught.value.reason == names.Reason.CHECKPOINT_NOT_FOUND
    assert caught.value.message == f"no DynamoCheckpoint {wanted} in namespace ns"


@pytest.mark.parametrize("phase", ["", "Pending", "Creating", "Failed", "ready"])
def test_a_checkpoint_that_is_not_ready(phase):
    with pytest.raises(decision.Cold) as caught:
        decision.choose(checkpoint(phase=phase), POD)
    assert caught.value.reason == names.Reason.CHECKPOINT_NOT_READY
    assert (phase or "not seen yet") in caught.value.message


def test_choosing_a_variant():
    two = checkpoint(variants=(objects.Variant("bbbb"), objects.Variant("aaaa", "u")))
    assert decision.choose(two, POD).uuid == "u"
    for variants in ((), (objects.Variant("bbbb"),)):
        with pytest.raises(decision.Cold) as caught:
            decision.choose(checkpoint(variants=variants), POD)
        assert caught.value.reason == names.Reason.NO_VARIANT
        assert "llm:1 serve" in caught.value.message


@pytest.fixture
def committed(tmp_path):
    """A function that stores an artifact and returns what the status says of it."""

    def commit(**source):
        return stores.Store(tmp_path), projected.commit(tmp_path, "", **source)

    return commit


def test_an_artifact_that_fits(committed):
    store, variant = committed()
    found = decision.artifact(store, checkpoint(), variant, POD)
    assert found.manifest.uuid == variant.uuid


DIFFERENT = [
    ({"architecture": "riscv64"}, "captured on riscv64, this node is"),
    ({"image": "llm:2"}, "image or command differs"),
    ({"command": ["serve", "-v"]}, "image or command differs"),
    ({"environment": {"A": "2"}}, "environment variables differ from the captured ones: A"),
    ({"environment": {}}, "environment variables differ from the captured ones: A"),
    ({"environment": {"A": "1", "Z": "1", "B": "2"}}, "captured ones: B, Z"),
    ({"environment": {f"V{n}": "1" for n in range(9)}}, "A, V0, V1, V2, V3, V4, V5, V6 ("),
]


@pytest.mark.parametrize(("source", "message"), DIFFERENT)
def test_an_artifact_that_does_not_fit(committed, source, message):
    store, variant = committed(**source)
    with pytest.raises(decision.Cold) as caught:
        decision.artifact(store, checkpoint(), variant, POD)
    assert caught.value.reason == names.Reason.INCOMPATIBLE
    assert message in caught.value.message


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
            decision.artifact(store, checkpoint(), wrong, POD)
        assert caught.value.reason == reason
