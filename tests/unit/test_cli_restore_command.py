"""`chrek restore` as a user meets it; what it does is in tests/system/test_standalone.py."""

from __future__ import annotations

import pathlib

import pytest
from click import testing

from chrek import cli, errors
from chrek.standalone import records, supervisor

RUN = records.Run(name="web", command=["x"], cwd="/", environment={}, volumes=[], store="/s")


@pytest.fixture
def state(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(records, "check_root", lambda: None)
    (tmp_path / "web").mkdir()
    records.save(tmp_path / "web", RUN)
    return tmp_path


def call(state: pathlib.Path, name: str = "web") -> testing.Result:
    return testing.CliRunner().invoke(cli.main, ["restore", name, "--state", str(state)])


def test_it_is_started_as_the_last_time(
    state: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(run: records.Run, where: pathlib.Path, _say: object, *, only_warm: bool) -> int:
        assert (run, where, only_warm) == (RUN, state, True)
        return 3

    monkeypatch.setattr(supervisor, "start", start)
    assert call(state).exit_code == 3


def test_the_reason(state: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise errors.CriuError("bind failed", hint="free it")

    monkeypatch.setattr(supervisor, "start", refuse)
    result = call(state)
    assert result.exit_code == errors.CriuError.exit_code
    assert result.stderr == (
        "error: web was not restored: CriuFailed: bind failed\n  hint: free it\n"
    )


def test_a_name_that_nobody_had(state: pathlib.Path) -> None:
    result = call(state, "other")
    assert result.exit_code == errors.InputError.exit_code
    assert "hint: known are web" in result.stderr
