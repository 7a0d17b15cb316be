"""Rules for every test: in CI a skip is a failure unless the test is optional by nature.

A test that cannot run on a developer's machine skips with a reason. With CI=true the same skip
fails, except for reasons that start with `optional:` (what no CI machine must have, such as a GPU).
Tests marked heavy are deselected, not skipped, unless `--heavy` is given.
"""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Generator

import hypothesis
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPTIONAL = "optional:"


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--heavy", action="store_true", help="run tests marked heavy as well")


FAST_FOLDERS = ("unit", "c", "chart", "cluster", "gpu", "conformance")
"""As in `scripts/test`: elsewhere a test without one of these markers is in none of its stages."""
MARKERS = ("system", "cluster", "cluster_down", "e2e")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        marked = any(map(item.get_closest_marker, MARKERS))
        if not marked and folder not in FAST_FOLDERS:
            raise pytest.UsageError(f"{item.nodeid} is in no stage of scripts/test: mark it")
    if config.getoption("--heavy"):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # xfail reports as skipped too, and is an expectation, not a gap.
    if report.skipped and in_ci() and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(OPTIONAL):
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid}: skipped in CI, where it must run: {reason}\n"
                f"Provide what it needs; only reasons that start with {OPTIONAL!r} may skip here."
            )
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that skips itself as a whole (importorskip) is a gap as well."""
    if report.skipped and in_ci():
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: the whole module skips itself in CI: {report.longrepr}"


def pytest_configure(config: pytest.Config) -> None:
    # Children of tests (the chrek command, agents) must not leave caches in the tree. Processes
    # that share the tests may: without, each compiles every assertion again, at each run.
    if not getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    # A shell's background jobs are deaf to Ctrl-C, and so is what they start; tests send it.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # No deadline: a busy machine is no failure. In CI the examples are the same each time.
    hypothesis.settings.register_profile("chrek", deadline=None, derandomize=in_ci())
    hypothesis.settings.load_profile("chrek")
    # Read by chrek.process when it is imported, so before any test.
    os.environ.setdefault("CHREK_LIBEXEC", str(cache_directory() / "libexec"))


def cache_directory() -> pathlib.Path:
    """What scripts/* build: images, tools, the CRIU bundle."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return pathlib.Path(os.environ.get("CHREK_CACHE") or default / "chrek")


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def cache() -> pathlib.Path:
    return cache_directory()


@pytest.fixture(scope="session")
def libexec() -> pathlib.Path:
    """chrek-enter, chrek-init and the CRIU bundle, as `scripts/build bundle` leaves them."""
    path = pathlib.Path(os.environ["CHREK_LIBEXEC"])
    if not (path / "criu" / "criu").exists():
        pytest.skip(f"no CRIU bundle in {path}: run scripts/build bundle")
    return path
