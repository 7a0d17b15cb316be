"""Every workload that needs no pod, captured and restored in containers of this machine.

All of them, on a cluster: tests/e2e/test_conformance.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chrek import store as stores
from conformance import sandboxed, view, workload

pytestmark = pytest.mark.system


NAMES = [name for name in workload.names() if not workload.load(name).options.pod_only]


@pytest.mark.parametrize("name", NAMES)
def test_it_comes_back(name: str, tmp_path: Path) -> None:
    one = workload.load(name)
    store = stores.Store(tmp_path / "checkpoints")
    answers, seen, artifact = sandboxed.capture(one, tmp_path, store)
    with sandboxed.restoring(one, tmp_path, artifact) as target:
        # First from outside: what is asked changes what is asked.
        found = view.differences(seen, view.settled(target.pid))
        assert not view.namespaces(target.pid)
        one.compare(answers, sandboxed.check(target.pid))
    unexpected = [line for line in found if not one.tolerates(line)]
    assert not unexpected, "\n".join(unexpected)
