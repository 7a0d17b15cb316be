"""The workloads: one state each, in files of one form.

    \"\"\"One line: the state.\"\"\"
    OPTIONS = {...}                     # what the container needs, see Options
    def setup() -> object: ...          # makes the state, in a process of its own
    def check(state) -> dict: ...       # what is visible of it, as JSON; before and after
    def compare(before, after): ...     # in the test's process; equal where there is none

setup and check run in the container, with Python's standard library alone.
"""

from __future__ import annotations

import dataclasses
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "workloads"
ASKED = {r"^/10002/fds/\d+:.*socket:": "whoever asks or probes has a connection to the harness"}
HARNESS = (Path(__file__).parent / "harness.py").read_text()

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a workload's container needs.

    Attributes:
        user: its user and group.
        groups: supplementary groups.
        capabilities: added to none, as in a pod's spec.
        volumes: mount path -> kind: `emptyDir`, `shared` (with another container) or `memory`.
        read_only_root: the root file system cannot be written.
        spec: merged into the pod's spec, and `container` into the worker's.
        objects: made beside the pod, in its namespace.
        env: variables of the container.
        pod_only: it needs what only a real pod has.
        differs: pattern of a line of view.differences that may be there -> the reason.
    """

    user: int = 65532
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()
    volumes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    read_only_root: bool = False
    spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    container: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    objects: tuple[Object, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pod_only: bool = False
    differs: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One of them."""

    name: str
    source: str
    options: Options
    compare: Callable[[Object, Object], None]

    @property
    def command(self) -> list[str]:
        """What the container runs."""
        return ["python3", "-c", HARNESS, self.source]

    def tolerates(self, difference: str) -> bool:
        """Whether a line of view.differences is one that this workload expects."""
        patterns = (*ASKED, *self.options.differs)
        return any(re.search(pattern, difference) for pattern in patterns)


def load(name: str) -> Workload:
    path = FOLDER / f"{name}.py"
    scope = runpy.run_path(str(path))
    options = Options(**scope.get("OPTIONS", {}))
    return Workload(name, path.read_text(), options, scope.get("compare", equal))


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def equal(before: Object, after: Object) -> None:
    assert after == before, f"before: {before}\nafter:  {after}"
