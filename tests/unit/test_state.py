"""The status of a DynamoCheckpoint under a CRD that drops parts of it."""

import json

import pytest

from chrek import state

FULL = {
    "phase": "Ready",
    "identityHash": "5941a4cb3c363457",
    "variants": [{"name": "ab12", "uuid": "c3-d4", "digest": "e5", "bytes": 7}],
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Checkpointed",
            "message": "",
            "lastTransitionTime": "2025-01-01T00:00:00Z",
        }
    ],
}


def item(annotation=None, **status):
    metadata = {"name": "n", "namespace": "ns"}
    if annotation is not None:
        text = annotation if isinstance(annotation, str) else json.dumps(annotation)
        metadata["annotations"] = {"nvidia.com/chrek-state": text}
    return {"metadata": metadata, **({"status": status} if status else {})}


def changed(**fields):
    return {**FULL, **fields}


@pytest.mark.parametrize(
    "own",
    [
        {"captures": [{"variant": "ab12", "phase": "Pending"}]},
        {"variants": []},
        {"variants": [{"name": "ab12", "uuid": "another"}]},
        {"variants": [FULL["variants"][0]], "captures": []},
    ],
)
def test_a_status_that_tells_something_else_of_artifacts_counts(own):
    made = item(FULL, phase="Pending", **own)
    assert state.status_of(made) == {"phase": "Pending", **own}


def test_artifacts_of_which_a_few_fields_were_dropped():
    """An older CRD knows variants, but not all that is said of them."""
    assert state.status_of(item(FULL, variants=[{"name": "ab12", "uuid": "c3-d4"}])) == FULL


def test_the_annotation_stands_in_for_what_was_dropped():
    assert state.status_of(item(FULL, phase="Creating", theirs="kept")) == {
        **FULL,
        "theirs": "kept",
    }
    assert state.status_of(item(FULL)) == FULL


def test_no_status_at_all():
    assert state.status_of(item()) == {}
    assert state.status_of({"metadata": {"annotations": None}, "status": None}) == {}


VARIANT = FULL["variants"][0]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[]",
        '"text"',
        "[" * 100_000,
        changed(phase=1),
        changed(variants={}),
        changed(variants=["x"]),
        changed(variants=[{"name": "x"}]),
        changed(variants=[{**VARIANT, "uuid": "../../ns/other/hash/variant/uuid"}]),
        changed(variants=[{**VARIANT, "name": ".."}]),
        changed(variants=[{**VARIANT, "name": ""}]),
        changed(captures=[{"variant": "/", "phase": "Failed"}]),
        changed(captures=[{"phase": "Failed"}]),
        changed(conditions=[{"type": "Ready"}]),
        changed(garbage="x"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_ignored(bad):
    assert state.status_of(item(bad, phase="Creating")) == {"phase": "Creating"}


def test_the_annotation_is_read_as_it_was_written():
    assert state.status_of(item(state.annotation(FULL))) == FULL
    assert state.annotation_of(item("x")) == "x"
    assert state.annotation_of(item()) == ""


def test_a_merge_patch():
    old = {"a": 1, "b": 2, "services": {"x": {"ready": True}, "y": {}}}
    patch = {"b": None, "gone": None, "services": {"x": {"reason": "R"}, "y": None}, "l": [1]}
    assert state.merged(old, patch) == {
        "a": 1,
        "services": {"x": {"ready": True, "reason": "R"}},
        "l": [1],
    }
    assert old["services"]["x"] == {"ready": True}


@pytest.mark.parametrize(
    ("answered", "patch", "lost"),
    [
        ({**FULL, "more": 1}, FULL, False),
        ({}, {}, False),
        ({}, {"size": None}, False),
        ({"phase": "Ready"}, FULL, True),
        ({"variants": [{"name": "ab12"}]}, {"variants": [VARIANT]}, True),
        ({"variants": [{**VARIANT, "added": 1}]}, {"variants": [VARIANT]}, False),
        ({"captures": []}, {"captures": [{"variant": "x"}]}, True),
        ({"identity": {}}, {"identity": {"model": "m"}}, True),
        ({"identity": {"model": "m"}}, {"identity": {"model": "m", "dtype": None}}, False),
        ({"createdAt": "2025-01-01T00:00:00.000Z"}, {"createdAt": "2025-01-01T00:00:00Z"}, False),
    ],
)
def test_what_a_server_dropped(answered, patch, lost):
    assert state.dropped(answered, patch) is lost
