from __future__ import annotations

import copy
from typing import Any

import pytest

from devcluster import objects, provisioner

CLAIM: dict[str, Any] = {
    "metadata": {
        "name": "data",
        "namespace": "team",
        "uid": "u-1",
        "annotations": {provisioner.WANTED_FROM: objects.PROVISIONER},
    },
    "spec": {
        "storageClassName": "shared",
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "3Gi"}},
    },
    "status": {"phase": "Pending"},
}


def test_a_pending_claim_of_the_class_is_wanted() -> None:
    assert provisioner.wanted(CLAIM)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("status", {"phase": "Bound"}),
        ("spec", {"volumeName": "chosen"}),
        ("metadata", {"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ("metadata", {"annotations": {provisioner.WANTED_FROM: "another"}}),
        ("metadata", {"annotations": None}),
    ],
)
def test_any_other_claim_is_not(part: str, change: dict[str, Any]) -> None:
    claim = copy.deepcopy(CLAIM)
    claim[part].update(change)
    assert not provisioner.wanted(claim)


def test_the_volume_is_bound_to_its_claim_and_lies_in_the_nodes_folder() -> None:
    volume = provisioner.volume_for(CLAIM)
    assert volume["metadata"]["name"] == "pvc-u-1"
    assert volume["spec"]["hostPath"] == {"path": "/srv/volumes/pvc-u-1", "type": "Directory"}
    assert volume["spec"]["claimRef"]["uid"] == "u-1"
    assert volume["spec"]["capacity"] == {"storage": "3Gi"}
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
