"""`chrek run` as a user meets it; what it does is in tests/system/test_standalone.py."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest
from click import testing

from chrek import cli, errors
from chrek.standalone import records, supervisor


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def start(run: records.Run, state: pathlib.Path, _say: object) -> int:
        found.extend([run, state])
        return 7

    monkeypatch.setattr(supervisor, "start", start)
    monkeypatch.setattr(records, "check_root", lambda: None)
    return found


def call(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(cli.main, ["run", *arguments])


def test_what_is_started(
    started: list[Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/etc")
    options = ["--name", "web", "--store", "c", "--volume", "link", "--state", "s"]
    result = call(*options, "--", "server", "--name", "x")
    assert (result.exit_code, result.output) == (7, "")
    run, state = started
    assert run == records.Run(
        name="web",
        command=["server", "--name", "x"],
        cwd=str(tmp_path),
        environment=dict(os.environ),
        volumes=["/etc"],
        store=str(tmp_path / "c"),
    )
    assert state == tmp_path / "s"


def test_without_a_name_and_dashes(started: list[Any]) -> None:
    result = call("--own-network", "server", "-v")
    run = started[0]
    assert run.own_network
    assert run.command == ["server", "-v"]
    assert result.stderr == f"chrek: This program is called {run.name}\n"
    assert run.name.startswith("server-")
    assert run.store == str(records.STORE)
    assert started[1] == records.STATE


@pytest.mark.parametrize("arguments", [[], ["--"], ["--volume", "/nonexistent", "--", "x"]])
def test_wrong_usage(started: list[Any], arguments: list[str]) -> None:
    assert call(*arguments).exit_code == 2
    assert not started


def test_a_name_that_is_none(started: list[Any]) -> None:
    result = call("--name", "../x", "--", "server")
    assert result.exit_code == errors.InputError.exit_code
    assert "error: '../x' is no name" in result.stderr
