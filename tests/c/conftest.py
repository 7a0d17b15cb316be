"""Builds the C programs and gives them to the tests, also with the sanitizers on."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

SOURCES = pathlib.Path(__file__).resolve().parents[2] / "src" / "c"


def make(out: pathlib.Path, *arguments: str) -> pathlib.Path:
    done = subprocess.run(
        ["make", "-s", "-C", SOURCES, f"OUT={out}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"make {arguments} failed:\n{done.stdout}{done.stderr}"
    return out


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory with the programs as they are shipped."""
    if not shutil.which("musl-gcc"):
        pytest.skip("no musl-gcc: install musl-tools")
    return make(tmp_path_factory.mktemp("c-release"))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory with the programs built by gcc with address and undefined-behaviour checks."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    return make(tmp_path_factory.mktemp("c-sanitized"), "CC=gcc", "SANITIZE=1")


@pytest.fixture(scope="session")
def superuser() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes PID namespaces")


@pytest.fixture(params=["release", "sanitized"])
def programs(
    request: pytest.FixtureRequest, superuser: None, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """Both builds, one after the other, for tests that need root."""
    # The leak check traces its process from a clone, which gets lost in a joined PID namespace;
    # the programs allocate nothing.
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")
    directory: pathlib.Path = request.getfixturevalue(request.param)
    return directory


@pytest.fixture
def init(programs: pathlib.Path) -> pathlib.Path:
    return programs / "chrek-init"


@pytest.fixture
def enter(programs: pathlib.Path) -> pathlib.Path:
    return programs / "chrek-enter"
