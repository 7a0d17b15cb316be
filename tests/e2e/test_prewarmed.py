"""Checkpoints of the chart's values: made with the release, and gone when they leave the values."""

from __future__ import annotations

import json
from typing import Any

from e2e import place, tiny
from showcase import cluster, setup

LISTED = tiny.Worker("tiny/listed")
RETAINED = tiny.Worker("tiny/listed-and-retained")
LABEL = "chrek.nvidia.com/release"


def entry(worker: tiny.Worker, **spec: Any) -> dict[str, Any]:
    """A checkpoint as the values have it."""
    wanted = worker.checkpoint()
    return {"name": wanted["metadata"]["name"], "spec": {**wanted["spec"], **spec}}


def install(here: place.Place, *entries: dict[str, Any]) -> None:
    listed = {"dynamo-operator.checkpoint.prewarm": json.dumps(entries)} if entries else {}
    setup.install(here.live, namespace=here.namespace, values={**here.values, **listed})


def test_they_are_captured_before_anybody_asks(here: place.Place) -> None:
    install(here, entry(LISTED), entry(RETAINED, deletionPolicy="Retain"))
    for worker in (LISTED, RETAINED):
        found = here.wait_phase(worker.hash, "Ready")
        assert found["metadata"]["labels"][LABEL] == f"{here.namespace}-{setup.RELEASE}"
    with here.pod(LISTED.pod("listed", node="n2")) as pod:
        place.assert_warm(here.live, pod)


def test_another_upgrade_leaves_them_as_they_are(here: place.Place) -> None:
    before = here.checkpoint(LISTED.hash)
    install(here, entry(LISTED), entry(RETAINED, deletionPolicy="Retain"))
    after = here.checkpoint(LISTED.hash)
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["status"]["variants"] == before["status"]["variants"]


def test_they_go_when_the_values_do_not_list_them(here: place.Place) -> None:
    """With their artifacts; those with deletionPolicy Retain stay."""
    artifact = here.artifact(LISTED.hash)
    install(here)
    cluster.wait_until(
        lambda: here.live.get(here.checkpoint_path(LISTED.hash)) is None and not artifact.exists(),
        lambda: f"{LISTED.hash} is still there",
        timeout=60,
    )
    assert here.checkpoint(RETAINED.hash)["status"]["phase"] == "Ready"
    here.remove(f"dckpt/{RETAINED.hash}")
