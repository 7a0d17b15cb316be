"""The stand-ins for NVIDIA's libraries, nodes with GPUs, workloads on them, and who calls them."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator

import pytest

from gpu.standin import build
from gpu.standin.processes import PYTHON, WORKLOAD, Caller, Workload


@pytest.fixture(scope="session")
def libraries() -> pathlib.Path:
    """For LD_LIBRARY_PATH. Without gcc this fails: nothing here could be shown."""
    return build.build()


@pytest.fixture
def node(tmp_path: pathlib.Path) -> build.Node:
    """Two GPUs; CHREK_STANDIN_NODE of workloads leads here through a link, as a mount would."""
    made = build.Node(tmp_path / "node", 2)
    (tmp_path / "current").symlink_to("node")
    return made


@pytest.fixture
def move(tmp_path: pathlib.Path) -> Callable[[build.Node], None]:
    """Puts another node below the workload's path."""

    def change(to: build.Node) -> None:
        (tmp_path / "next").symlink_to(to.path)
        (tmp_path / "next").rename(tmp_path / "current")

    return change


@pytest.fixture
def environment(
    libraries: pathlib.Path, node: build.Node, tmp_path: pathlib.Path
) -> dict[str, str]:
    """Of the workloads."""
    return {
        "PATH": os.environ["PATH"],
        **node.environment(libraries),
        "CHREK_STANDIN_NODE": str(tmp_path / "current"),
        "PORT": "0",
        "BYTES": "65536",
        "PINNED": "4096",
    }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: pathlib.Path) -> Iterator[Callable[..., Workload]]:
    """Starts workloads; names are environment variables, `before` goes before the command."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def begin(*before: str | pathlib.Path, **variables: str) -> Workload:
            command = [*before, *PYTHON, WORKLOAD]
            output = tmp_path / f"output-{next(numbers)}"
            workload = Workload(command, {**environment, **variables}, output)
            stack.callback(workload.end)
            return workload

        yield begin


@pytest.fixture
def workload(start: Callable[..., Workload]) -> Workload:
    """One process with both GPUs."""
    return start()


@pytest.fixture(scope="session")
def callers(
    libraries: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], Caller]]:
    """Processes that called cuInit on a node of their own; by number."""
    first = build.Node(tmp_path_factory.mktemp("caller") / "first", 1)
    made: dict[int, Caller] = {}

    def get(number: int) -> Caller:
        # A test that failed in the middle of a call does not spoil the next one.
        if number in made and made[number].unanswered:
            made.pop(number).close()
        if number not in made:
            made[number] = Caller({"PATH": os.environ["PATH"], **first.environment(libraries)})
            assert made[number]("init") == 0
        return made[number]

    yield get
    for caller in made.values():
        caller.close()


@pytest.fixture
def call(callers: Callable[[int], Caller], node: build.Node) -> Caller:
    """Calls the API on the node."""
    caller = callers(0)
    caller("node", node.path)
    return caller


@pytest.fixture
def second_call(callers: Callable[[int], Caller], node: build.Node) -> Caller:
    """Another process that does."""
    caller = callers(1)
    caller("node", node.path)
    return caller
