"""Which artifacts go, which never do, and when nothing more may come."""

import datetime

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from chrek import config, names
from chrek.operator import conditions, housekeeping
from fakes import captures as fakes

NOW = fakes.NOW
GB = 1 << 30
DAY = 86400
Keep, Rule = housekeeping.Keep, housekeeping.Rule
LLAMA, OTHER = fakes.name_of("llama:1"), fakes.name_of("llama:2")


def ago(days):
    return conditions.timestamp(NOW - datetime.timedelta(days=days))


def settings(quota=0, days=0, percent=90):
    return config.Housekeeping(
        maxBytes=int(quota * GB), unusedSeconds=int(days * DAY), nearlyFullPercent=percent
    )


def one(uuid, image="llama:1", *, made=100, used=None, size=10, **fields):
    """An artifact as a status lists it; times in days before now."""
    times = {"createdAt": ago(made)}
    if used is not None:
        times["lastRestoredAt"] = ago(used)
    name = fakes.name_of(image)
    return {"name": name, "uuid": uuid, "image": image, "bytes": size * GB, **times, **fields}


def checkpoint(*variants, name="c", auto=True, captures=(), spec=None, **metadata):
    made = fakes.checkpoint(name, auto=auto, spec=spec, **metadata)
    status = {"identityHash": fakes.HASH, "variants": list(variants), "captures": list(captures)}
    return {**made, "status": status}


def users(*variants, named=None, graph=False, known=True):
    named = graph or bool(variants) if named is None else named
    return housekeeping.Users(frozenset(variants), named=named, graph=graph, known=known)


def artifacts(*checkpoints, found=None, **fields):
    found = found or housekeeping.Users()
    return housekeeping.artifacts(checkpoints, found, now=NOW, **fields)


def kept(*checkpoints, found=None, **fields):
    return {item.uuid: item.kept for item in artifacts(*checkpoints, found=found, **fields)}


WORKER = {"captureSource": "worker"}
PENDING = {"phase": "Pending", "reason": "WaitingForPod"}
CREATING = {"phase": "Creating", "reason": "Capturing"}
BARE = {
    "job": {"podTemplateSpec": {"spec": {"containers": [{"name": "main", "image": "llama:2"}]}}}
}
TWO = (one("new", "llama:2", made=1), one("old", made=50, used=40))
YOUNGER = {"creationTimestamp": "2026-01-29T11:00:00Z"}
GOING = {"deletionTimestamp": "2026-01-29T10:04:00Z"}


@pytest.mark.parametrize(
    ("checkpoints", "found", "expected"),
    [
        pytest.param([checkpoint(one("a"))], users(), {"a": None}, id="nobody asks for it"),
        pytest.param([checkpoint(one("a"))], users(LLAMA), {"a": Keep.IN_USE}, id="used"),
        pytest.param(
            [checkpoint(one("a", wantedAs=OTHER))], users(OTHER), {"a": Keep.IN_USE},
            id="used under its other name",
        ),
        pytest.param(
            [checkpoint(*TWO)], users(LLAMA), {"new": None, "old": Keep.IN_USE},
            id="the other one is used",
        ),
        pytest.param(
            [checkpoint(*TWO)], users(named=True), {"new": Keep.LAST, "old": None},
            id="named, the last one used stays",
        ),
        pytest.param(
            [checkpoint(one("new", "llama:2", made=30), one("old", made=50, used=1))],
            users(named=True), {"new": None, "old": Keep.LAST},
            id="named, used later than the newer one was made",
        ),
        pytest.param(
            [checkpoint(*TWO)], users(graph=True), {"new": None, "old": Keep.NAMED},
            id="a graph names it, that of its template stays",
        ),
        pytest.param(
            [checkpoint(one("new", "llama:2", made=1), one("old", made=50, suspect=True))],
            users(graph=True), {"new": Keep.LAST, "old": Keep.NAMED},
            id="a graph names it, that of its template is suspect",
        ),
        pytest.param(
            [checkpoint(*TWO, spec=WORKER)], users(graph=True), {"new": Keep.LAST, "old": None},
            id="a graph names it, it has no template",
        ),
        pytest.param(
            [checkpoint(one("a"))], users("another"), {"a": Keep.LAST},
            id="a pod of another variant names it",
        ),
        pytest.param(
            [checkpoint(one("new", "llama:2", made=1, suspect=True), one("old", made=50))],
            users(named=True), {"new": None, "old": Keep.LAST},
            id="a suspect one is not what stays",
        ),
        pytest.param(
            [checkpoint(one("a", suspect=True))], users(named=True), {"a": Keep.LAST},
            id="a suspect one that is named is not made again in secret",
        ),
        pytest.param(
            [checkpoint(one("a", suspect=True))], users(), {"a": None}, id="suspect and unused"
        ),
        pytest.param(
            [checkpoint(*TWO, auto=False)], users(), {"new": None, "old": Keep.OWN},
            id="a user's own keeps that of its template",
        ),
        pytest.param(
            [checkpoint(*TWO, auto=False, spec=WORKER)], users(), {"new": Keep.OWN, "old": None},
            id="a user's own without a template keeps the newest",
        ),
        pytest.param(
            [checkpoint(one("new", "llama:3"), one("b", "llama:2"), auto=False, spec=BARE)],
            users(), {"new": None, "b": Keep.OWN},
            id="a template without a command is known by its image",
        ),
        pytest.param(
            [checkpoint(one("new", "llama:3"), one("b", "llama:4"), auto=False)], users(),
            {"new": Keep.OWN, "b": None},
            id="a user's own whose template has none yet keeps the newest",
        ),
        pytest.param(
            [checkpoint(one("a", suspect=True), auto=False)], users(), {"a": None},
            id="a user's own that is suspect is not Ready",
        ),
        pytest.param(
            [checkpoint(*TWO, auto=False)], users(OTHER), {"new": Keep.IN_USE, "old": Keep.OWN},
            id="its own and the one in use",
        ),
        pytest.param(
            [checkpoint(*TWO), checkpoint(*TWO, name="d", auto=False, **YOUNGER)], users(),
            {"new": None, "old": Keep.OWN},
            id="a user's own that shares it counts",
        ),
        pytest.param(
            [checkpoint(*TWO), checkpoint(*TWO, name="d", auto=False, **YOUNGER, **GOING)],
            users(), {"new": None, "old": None},
            id="a user's own that is being deleted does not",
        ),
        pytest.param(
            [checkpoint(one("a")), checkpoint(one("a"), one("b"), name="d", **YOUNGER)], users(),
            {"a": None},
            id="what the owner does not list any more is not there",
        ),
        pytest.param(
            [checkpoint(one("a"), **GOING), checkpoint(one("b"), name="d", **YOUNGER)], users(),
            {"b": None},
            id="the next one owns what it lists",
        ),
        pytest.param(
            [checkpoint(one("a"), **GOING)], users(), {"a": Keep.BEING_DELETED}, id="deleted"
        ),
        pytest.param(
            [checkpoint(one("a"), **GOING), checkpoint(one("a"), name="d", **YOUNGER, **GOING)],
            users(LLAMA), {"a": Keep.BEING_DELETED},
            id="all are being deleted",
        ),
        pytest.param(
            [checkpoint(one("a"))], users(known=False), {"a": Keep.UNKNOWN}, id="graphs unseen"
        ),
        pytest.param(
            [checkpoint(one("a"), spec={**BARE, "deletionPolicy": "Retain"})], users(),
            {"a": Keep.RETAINED}, id="Retain",
        ),
        pytest.param(
            [checkpoint(one("a"), spec={**BARE, "deletionPolicy": "Delete"})], users(),
            {"a": None}, id="Delete",
        ),
        pytest.param(
            [checkpoint(*TWO, captures=[{"variant": LLAMA, **CREATING}])], users(),
            {"new": None, "old": Keep.CAPTURED}, id="being captured",
        ),
        pytest.param(
            [checkpoint(*TWO, captures=[{"variant": LLAMA, **PENDING}])], users(),
            {"new": None, "old": None}, id="waiting to be captured",
        ),
        pytest.param([checkpoint()], users(named=True), {}, id="nothing there"),
        pytest.param(
            [{"metadata": {"name": "c", "namespace": "ns"}}], users(named=True), {}, id="no status"
        ),
        pytest.param(
            [checkpoint(one("a"), auto=False, spec={"job": {"podTemplateSpec": {"spec": {}}}})],
            users(), {"a": Keep.OWN}, id="a template that cannot be read",
        ),
    ],
)  # fmt: skip
def test_what_stays(checkpoints, found, expected):
    assert kept(*checkpoints, found=found) == expected


def test_nothing_goes_where_nothing_is_deleted():
    assert kept(checkpoint(one("a")), deletes=False) == {"a": Keep.NO_DELETION}


def test_what_an_artifact_is():
    (found,) = artifacts(checkpoint(one("u", made=9, used=3, size=2), name="llama"))
    assert found == housekeeping.Artifact(
        namespace="ns",
        identity_hash=fakes.HASH,
        checkpoint="llama",
        variant=LLAMA,
        uuid="u",
        bytes=2 * GB,
        used_at=NOW - datetime.timedelta(days=3),
    )


@pytest.mark.parametrize(
    ("fields", "seen", "days"),
    [
        ({}, None, 100),
        ({"used": 3}, None, 3),
        ({"used": 200}, None, 100),
        ({"used": 3}, 1, 1),
        ({"used": 3}, 50, 3),
        ({"createdAt": "yesterday"}, None, 0),
        ({"createdAt": "yesterday", "used": 3}, None, 3),
        ({"createdAt": None}, None, 0),
    ],
)
def test_the_last_use(fields, seen, days):
    times = {"u": NOW - datetime.timedelta(days=seen)} if seen is not None else {}
    (found,) = artifacts(checkpoint(one("u", **fields)), seen=times)
    assert found.used_at == NOW - datetime.timedelta(days=days)


@pytest.mark.parametrize(
    ("pods", "asked", "graph", "expected"),
    [
        ([], [], False, users()),
        ([], [], True, users(graph=True)),
        ([], [OTHER], False, users(OTHER)),
        ([fakes.worker("w")], [], False, users(LLAMA)),
        ([fakes.worker("w", deleted=True)], [], False, users(LLAMA)),
        ([fakes.worker("w", phase="Succeeded")], [], False, users()),
        ([fakes.worker("w", phase="Failed")], [OTHER], True, users(OTHER, graph=True)),
        ([msgspec.structs.replace(fakes.worker("w"), variant="")], [], False, users(named=True)),
    ],
)
def test_who_uses_them(pods, asked, graph, expected):
    assert housekeeping.users(pods, asked=asked, graph=graph) == expected


def artifact(uuid, *, used=100, size=10, why=None, namespace="ns", digest="h"):
    at = NOW - datetime.timedelta(days=used)
    return housekeeping.Artifact(namespace, digest, "c", "v", uuid, int(size * GB), at, why)


def goes(found, limits, **fields):
    made = housekeeping.plan(found, limits, now=NOW, **fields)
    return [(item.artifact.uuid, str(item.rule)) for item in made.removals]


A, B, C = artifact("a", used=50), artifact("b", used=40), artifact("c", used=1)
SAFE = artifact("s", used=90, why=Keep.IN_USE)


@pytest.mark.parametrize(
    ("found", "limits", "reserved", "expected"),
    [
        pytest.param([A, B, C, SAFE], settings(), 0, [], id="nothing is set"),
        pytest.param([A, B], settings(quota=20), 0, [], id="exactly full"),
        pytest.param([A, B, C], settings(quota=20), 0, [("a", "quota")], id="one too many"),
        pytest.param(
            [C, B, A], settings(quota=15), 0, [("a", "quota"), ("b", "quota")], id="two in order"
        ),
        pytest.param([A, SAFE], settings(quota=15), 0, [("a", "quota")], id="older but in use"),
        pytest.param([SAFE, C], settings(quota=5), 0, [("c", "quota")], id="all that may"),
        pytest.param([SAFE], settings(quota=5), 0, [], id="nothing may"),
        pytest.param([A, B], settings(quota=20), 1, [("a", "quota")], id="room for what runs"),
        pytest.param(
            [A, B, C], settings(days=45), 0, [("a", "unused")], id="unused for too long"
        ),
        pytest.param([A], settings(days=50), 0, [], id="unused for exactly so long"),
        pytest.param([SAFE], settings(days=1), 0, [], id="unused by the clock, used by a pod"),
        pytest.param(
            [A, B, C], settings(quota=10, days=45), 0, [("a", "unused"), ("b", "quota")],
            id="both rules",
        ),
        pytest.param(
            [A, B, C], settings(quota=20, days=45), 0, [("a", "unused")],
            id="what is unused makes the room",
        ),
        pytest.param(
            [artifact("z", used=99, size=0), A, C], settings(quota=10), 0, [("a", "quota")],
            id="what frees nothing stays",
        ),
        pytest.param(
            [artifact("z", used=99, size=0)], settings(days=45), 0, [("z", "unused")],
            id="of unknown size and unused",
        ),
        pytest.param([A, A, A], settings(quota=10), 0, [], id="listed three times, there once"),
        pytest.param(
            [A, artifact("a", used=50, namespace="other")], settings(quota=10), 0,
            [("a", "quota")], id="namespaces are counted together",
        ),
    ],
)  # fmt: skip
def test_what_goes(found, limits, reserved, expected):
    assert goes(found, limits, reserved_bytes=reserved) == expected


def test_a_plan_says_what_is_left():
    limits = settings(quota=25)
    made = housekeeping.plan([A, B, C, SAFE], limits, now=NOW, reserved_bytes=GB)
    assert [r.artifact.uuid for r in made.removals] == ["a", "b"]
    sizes = made.used_bytes, made.left_bytes, made.spare_bytes, made.reserved_bytes
    assert [size // GB for size in sizes] == [40, 20, 10, 1]
    assert (made.complete, made.over_bytes(limits)) == (True, 0)
    assert made.over_bytes(settings(quota=15)) == 5 * GB
    assert made.over_bytes(settings()) == 0
    lost = artifact("x", why=Keep.UNKNOWN)
    assert not housekeeping.plan([A, lost], limits, now=NOW).complete


def test_a_removal_says_why():
    made = housekeeping.plan([A, B, C], settings(quota=15, days=45), now=NOW)
    assert [item.why for item in made.removals] == [
        f"not used since {ago(50)}, longer than {housekeeping.SETTING}.unusedFor",
        f"least recently used ({ago(40)}), and the store needs 5.0Gi more than"
        f" {housekeeping.SETTING}.maxBytes",
    ]


SIZES = strategies.integers(min_value=0, max_value=50)
ARTIFACTS = strategies.lists(
    strategies.builds(
        artifact,
        strategies.uuids().map(str),
        used=strategies.integers(min_value=0, max_value=400),
        size=SIZES,
        why=strategies.sampled_from([None, None, *Keep]),
        namespace=strategies.sampled_from(["ns", "other"]),
    ),
    max_size=12,
)


@hypothesis.given(ARTIFACTS, SIZES, strategies.integers(min_value=0, max_value=100), SIZES)
def test_properties_of_a_plan(found, quota, days, reserved):
    limits = settings(quota, days)
    made = housekeeping.plan(found, limits, now=NOW, reserved_bytes=reserved * GB)
    gone = [item.artifact for item in made.removals]
    assert not any(item.kept for item in gone), "what is excepted never goes"
    stay = [item for item in found if item not in gone]
    assert made.left_bytes == sum(item.bytes for item in stay)
    assert made.used_bytes == sum(item.bytes for item in found)
    free = [item for item in stay if item.kept is None]
    assert made.spare_bytes == sum(item.bytes for item in free)
    if quota:
        possible = sum(item.bytes for item in found if item.kept) + reserved * GB <= quota * GB
        if possible:
            assert made.left_bytes + reserved * GB <= quota * GB, "under the quota when possible"
        elif made.left_bytes + reserved * GB > quota * GB:
            assert made.spare_bytes == 0, "all that may go went"
    assert [item.used_at for item in gone] == sorted(item.used_at for item in gone)
    if gone:
        newest = max(item.used_at for item in gone)
        assert all(item.used_at >= newest for item in free if item.bytes), "least recently used"
    for item in free:
        assert not days or (NOW - item.used_at).days <= days, "nothing unused stays"
    # None goes without need: by the clock, or because the store was over before it went.
    left = made.used_bytes
    for removal in made.removals:
        if removal.rule is Rule.QUOTA:
            assert left + reserved * GB > quota * GB > 0
        else:
            assert days
            assert (NOW - removal.artifact.used_at).days >= days
        left -= removal.artifact.bytes


STATUSES = strategies.lists(
    strategies.builds(
        lambda image, made, used, suspect: one(
            f"u-{image}", f"llama:{image}", made=made, used=used,
            **({"suspect": True} if suspect else {}),
        ),
        strategies.integers(min_value=1, max_value=5),
        SIZES,
        strategies.none() | SIZES,
        strategies.booleans(),
    ),
    max_size=4,
    unique_by=lambda item: item["uuid"],
)  # fmt: skip
NAMES = strategies.sets(
    strategies.integers(min_value=1, max_value=6).map(lambda n: fakes.name_of(f"llama:{n}"))
)


@hypothesis.given(STATUSES, NAMES, strategies.booleans(), strategies.booleans())
def test_what_is_needed_is_never_picked(variants, used, named, auto):
    found = housekeeping.Users(frozenset(used), named=named or bool(used))
    item = checkpoint(*variants, auto=auto)
    made = housekeeping.plan(artifacts(item, found=found), settings(0.001, 0.001), now=NOW)
    gone = {removal.artifact.uuid for removal in made.removals}
    left = [v for v in variants if v["uuid"] not in gone]
    assert all(v["name"] not in used for v in variants if v["uuid"] in gone)
    usable = [v for v in variants if not v.get("suspect")]
    if usable and (found.named or not auto):
        assert any(not v.get("suspect") for v in left), "one that can be restored stays"
    if not auto:
        own = [v for v in usable if v["name"] == LLAMA]
        assert all(v in left for v in own), "its own DynamoCheckpoint stays Ready"


@pytest.mark.parametrize(
    ("left", "spare", "reserved", "expected", "granted", "verdict"),
    [
        (0, 0, 0, 0, 0, "may"),
        (89, 0, 0, 0, 0, "may"),
        (90, 0, 0, 0, 0, "full"),
        (90, 1, 0, 0, 0, "may"),
        (100, 1, 0, 0, 0, "may"),
        (100, 1, 0, 1, 0, "may"),
        (100, 1, 0, 2, 0, "full"),
        (50, 0, 0, 50, 0, "may"),
        (50, 0, 0, 51, 0, "full"),
        (50, 1, 0, 51, 0, "may"),
        (50, 0, 30, 20, 0, "may"),
        (50, 0, 30, 21, 0, "full"),
        (50, 0, 0, 21, 30, "full"),
        (60, 0, 30, 0, 0, "full"),
        (120, 30, 0, 10, 0, "may"),
        (120, 30, 0, 11, 0, "full"),
    ],
)
def test_whether_a_capture_may_begin(left, spare, reserved, expected, granted, verdict):
    made = housekeeping.Plan(
        left_bytes=left * GB, spare_bytes=spare * GB, reserved_bytes=reserved * GB
    )
    asked = {"expected": expected * GB, "granted": granted * GB}
    said = housekeeping.refusal(made, settings(100), **asked)
    assert bool(said) == (verdict == "full")
    assert housekeeping.refusal(made, settings(0), **asked) == "", "no quota, no refusal"
    unsure = housekeeping.Plan(
        left_bytes=left * GB, spare_bytes=0, reserved_bytes=reserved * GB, complete=False
    )
    fits = (left + reserved + granted) < 90 and left + reserved + granted + expected <= 100
    assert housekeeping.refusal(unsure, settings(100), **asked) == ("" if fits else None)


def test_a_refusal_has_the_numbers_and_the_ways_out():
    made = housekeeping.Plan(left_bytes=80 * GB, reserved_bytes=5 * GB)
    said = housekeeping.refusal(made, settings(100), expected=20 * GB, granted=GB)
    for word in (
        "80.0Gi of 100.0Gi",
        f"{housekeeping.SETTING}.maxBytes",
        "run need about 6.0Gi",
        "needs about 20.0Gi",
        "chrek prune --dry-run",
        "raise maxBytes",
        "set unusedFor",
        "delete DynamoCheckpoints",
        "start cold",
    ):
        assert word in said
    plain = housekeeping.refusal(housekeeping.Plan(left_bytes=95 * GB), settings(100), expected=0)
    assert "need about" not in plain


def test_the_percentage_counts():
    made = housekeeping.Plan(left_bytes=60 * GB)
    assert housekeeping.refusal(made, settings(100, percent=60), expected=0)
    assert housekeeping.refusal(made, settings(100, percent=61), expected=0) == ""
    assert housekeeping.refusal(made, settings(60, percent=100), expected=0)


def test_what_another_artifact_is_expected_to_take():
    assert housekeeping.expected_bytes([]) == 0
    assert housekeeping.expected_bytes([A, artifact("x", size=12), B]) == 12 * GB


def test_captures_that_run():
    both = [{"variant": "v", **CREATING}, {"variant": "w", **PENDING}]
    assert housekeeping.running([checkpoint(captures=both)]) == 1
    assert housekeeping.running([checkpoint(captures=both, **GOING)]) == 0
    assert housekeeping.running([]) == 0


def test_what_a_checkpoint_occupies_changes_with_artifacts_and_captures():
    first = housekeeping.occupied(checkpoint(one("a")))
    assert first != housekeeping.occupied(checkpoint(one("b")))
    assert first != housekeeping.occupied(None) == frozenset()
    used = checkpoint(one("a", used=1), captures=[{"variant": "v", **PENDING}])
    assert first == housekeeping.occupied(used)
    used["status"]["captures"] = [{"variant": "v", **CREATING}]
    assert first != housekeeping.occupied(used)


def test_reasons_are_distinct():
    assert len(set(Keep)) == len(Keep)
    assert names.Reason.PRUNED != names.Reason.STORE_NEARLY_FULL
