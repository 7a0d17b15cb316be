"""The map of GPUs: what every one must be, and the cases that come up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import compatibility, errors, names
from chrek.cuda import mapping, words


def gpu(uuid, minor=0):
    return compatibility.Gpu(
        uuid=uuid,
        minor=minor,
        model="NVIDIA H100 80GB HBM3",
        memoryBytes=80 << 30,
        computeCapability="9.0",
    )


def usage(uuid, free_bytes):
    return words.Usage(uuid=uuid, freeBytes=free_bytes, persistence=True, processes={})


@st.composite
def nodes(draw):
    """(captured, before, allocated, now): GPUs may stay, move between containers, or be new."""
    count = draw(st.integers(1, 8))
    names_of = st.lists(
        st.sampled_from("ABCDEFGHIJKL"), min_size=count, max_size=count, unique=True
    )
    before, now = draw(names_of), draw(names_of)
    held = draw(st.integers(0, count))
    captured = draw(st.permutations(before))[:held]
    allocated = draw(st.permutations(now))[:held]
    return captured, before, allocated, now


@given(nodes())
def test_what_every_map_is(given_nodes):
    captured, before, allocated, now = given_nodes
    found = mapping.extend(captured, before, allocated, now)
    if found is None:
        # The map left out is the identity, so that must be one.
        found = {uuid: uuid for uuid in before}
    else:
        assert any(old != new for old, new in found.items())
    assert sorted(found) == sorted(before)
    assert sorted(found.values()) == sorted(now)
    assert {found[uuid] for uuid in captured} == set(allocated)
    for uuid in set(captured) & set(allocated):
        assert found[uuid] == uuid
    for uuid in (set(before) - set(captured)) & (set(now) - set(allocated)):
        assert found[uuid] == uuid


@given(nodes())
def test_the_same_gpus_need_no_map(given_nodes):
    captured, before, _, _ = given_nodes
    assert mapping.extend(captured, before, [*reversed(captured)], sorted(before)) is None


CASES = {
    "another node": ("AB", "ABCD", "WX", "WXYZ", dict(zip("ABCD", "WXYZ", strict=True))),
    "another place on it": ("AB", "ABCD", "YZ", "WXYZ", {"A": "Y", "B": "Z", "C": "W", "D": "X"}),
    "another GPU of the node": ("A", "AB", "B", "AB", {"A": "B", "B": "A"}),
    "one of two is the same": ("AB", "ABC", "BC", "ABC", {"B": "B", "A": "C", "C": "A"}),
    "in their order": ("CA", "ABC", "ZX", "XYZ", {"C": "Z", "A": "X", "B": "Y"}),
    "one GPU was replaced": ("A", "AB", "A", "AC", {"A": "A", "B": "C"}),
    "none": ("", "AB", "", "AB", None),
}


@pytest.mark.parametrize(("captured", "before", "allocated", "now", "wanted"), CASES.values(),
                         ids=list(CASES))  # fmt: skip
def test_maps(captured, before, allocated, now, wanted):
    assert mapping.extend(captured, before, allocated, now) == wanted


REFUSED = {
    "more here": (
        "A", "AB", "AB", "AB", errors.CompatibilityError, names.Reason.GPU_COUNT_DIFFERS,
        "GPUs: captured with 1, here 2",
    ),
    "fewer here": (
        "AB", "AB", "A", "AB", errors.CompatibilityError, names.Reason.GPU_COUNT_DIFFERS,
        "GPUs: captured with 2, here 1",
    ),
    "a smaller node": (
        "A", "ABCD", "A", "AB", errors.CompatibilityError, names.Reason.GPU_COUNT_DIFFERS,
        "GPUs of the node: 4 at the capture, here 2",
    ),
    "captured off its node": (
        "X", "AB", "A", "AB", errors.ArtifactError, names.Reason.ARTIFACT_CORRUPT, "GPU X",
    ),
    "captured twice": (
        "AA", "AB", "AB", "AB", errors.ArtifactError, names.Reason.ARTIFACT_CORRUPT, "GPU A",
    ),
    "twice on its node": (
        "A", "ABB", "A", "ABC", errors.ArtifactError, names.Reason.ARTIFACT_CORRUPT, "GPU B",
    ),
    "allocated off this node": (
        "A", "AB", "X", "AB", errors.GpuError, names.Reason.GPU_UNAVAILABLE, "GPU X",
    ),
    "allocated twice": (
        "AB", "AB", "BB", "AB", errors.GpuError, names.Reason.GPU_UNAVAILABLE, "GPU B",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("captured", "before", "allocated", "now", "kind", "reason", "told"),
    REFUSED.values(),
    ids=list(REFUSED),
)
def test_refused(captured, before, allocated, now, kind, reason, told):
    with pytest.raises(kind, match=told) as failed:
        mapping.extend(captured, before, allocated, now)
    assert failed.value.reason == reason


@pytest.mark.parametrize("needed", [0, 1 << 30, 50 << 30])
def test_what_fits(needed):
    others = usage("GPU-c", 0)
    two = [gpu("GPU-a"), gpu("GPU-b", 1)]
    mapping.fits(needed, two, [usage("GPU-a", 30 << 30), others, usage("GPU-b", 20 << 30)])


def test_the_gpu_is_too_full():
    with pytest.raises(errors.GpuError) as failed:
        mapping.fits(42 << 30, [gpu("GPU-a")], [usage("GPU-a", 10 << 30), usage("GPU-b", 80 << 30)])
    assert failed.value.reason == names.Reason.GPU_MEMORY_TOO_SMALL
    assert failed.value.message == "GPU memory of 42.0Gi comes back, 10.0Gi are free (GPU-a)"


def test_a_gpu_that_nobody_reports_has_nothing_free():
    with pytest.raises(errors.GpuError, match="0 are free"):
        mapping.fits(1, [gpu("GPU-a")], [])
    mapping.fits(0, [], [])


def test_a_map_in_a_log_line():
    assert mapping.describe({"A": "X", "B": "B", "C": "A", "X": "C"}) == (
        "A->X, C->A, X->C, 1 unchanged"
    )
    assert mapping.describe({"A": "B", "B": "A"}) == "A->B, B->A"
    assert mapping.describe({"A": "A"}) == "1 unchanged"
