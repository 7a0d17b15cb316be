"""Two releases in two namespaces share the nodes and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from e2e import place, tiny
from showcase import setup

OTHER = "other-team"


@pytest.fixture(scope="module")
def other(here: place.Place) -> Iterator[place.Place]:
    """A second release, in a namespace of its own, serving itself alone."""
    setup.install(here.live, namespace=OTHER, values={"storage.pvc.size": '"5Gi"'})
    found = place.Place(here.live, OTHER)
    yield found
    # Uninstall, then delete the namespace with everything that is still in it.
    begin = time.monotonic()
    here.live.helm("uninstall", setup.RELEASE, f"--namespace={OTHER}", "--wait")
    here.live.kubectl("delete", "namespace", OTHER, "--timeout=60s")
    assert time.monotonic() - begin < 60


def test_both_capture_and_restore(
    here: place.Place, other: place.Place, counter: tiny.Worker
) -> None:
    """The same identity in both: each has its own checkpoint on its own volume."""
    other.capture(counter, node="n1")
    assert (other.volume() / counter.hash).is_dir()
    assert here.volume() != other.volume()
    assert here.artifact(counter.hash).name != other.artifact(counter.hash).name
    with other.pod(counter.pod("warm-there", node="n2")) as pod:
        place.assert_warm(other.live, pod)
    with here.pod(counter.pod("warm-here", node="n2")) as pod:
        place.assert_warm(here.live, pod)


def test_a_checkpoint_of_one_is_nothing_to_the_other(here: place.Place, other: place.Place) -> None:
    worker = tiny.Worker("tiny/other-team")
    other.capture(worker)
    with here.pod(worker.pod("not-theirs")) as pod:
        place.assert_cold(here.live, pod, {"CheckpointNotFound"})
    other.forget(worker)
    assert not (other.volume() / worker.hash).exists()
