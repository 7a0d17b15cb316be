"""The last command of the chart's page, which takes every DynamoCheckpoint with it.

It is typed here, where no release is installed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster import kube, operator_process
from e2e import documented

pytestmark = pytest.mark.cluster


def test_giving_the_crds_up(namespaced: kube.Kube, tmp_path: Path) -> None:
    operator_process.install_crds(namespaced)
    listed = ("get", "crds", "-o", "name")
    assert namespaced.kubectl(*listed).count(".nvidia.com") == 2
    desk = documented.Desk.made(
        tmp_path / "desk",
        tools=os.fspath(namespaced.where.bin),
        KUBECONFIG=os.fspath(namespaced.where.kubeconfig),
    )
    try:
        said = desk.type(documented.one("kubectl delete crd*"))
        assert said.count(" deleted") == 2
        assert ".nvidia.com" not in namespaced.kubectl(*listed)
    finally:
        operator_process.install_crds(namespaced)
