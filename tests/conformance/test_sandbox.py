"""Every workload that needs no pod, captured and restored in containers of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from chrek import store as stores
from conformance import sandboxed, view, workload

pytestmark = pytest.mark.system


@pytest.mark.parametrize("name", workload.names())
def test_it_comes_back(name: str, tmp_path: Path) -> None:
    one = workload.load(name)
    if one.options.pod_only:
        pytest.skip("it needs what only a pod has: tests/conformance/test_cluster.py")
    store = stores.Store(tmp_path / "checkpoints")
    answers, seen, artifact = sandboxed.capture(one, tmp_path, store)
    later, seen_later, strangers = sandboxed.restored(one, tmp_path, artifact)
    one.compare(answers, later)
    found = [line for line in view.differences(seen, seen_later) if not one.tolerates(line)]
    assert not found, "\n".join(found)
    assert not strangers
