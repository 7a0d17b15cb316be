"""`chrek dump` as a user meets it; what it does is in tests/system/test_standalone.py."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from click import testing

from chrek import cli, errors
from chrek.standalone import dumping


def call(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(cli.main, ["dump", *arguments])


@pytest.mark.parametrize(
    ("options", "stop"), [([], False), (["--leave-running"], False), (["--stop"], True)]
)
def test_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, options: list[str], *, stop: bool
) -> None:
    def dump(state: pathlib.Path, name: str, **more: Any) -> dumping.Dumped:
        assert (str(state), name) == ("/var/lib/chrek/standalone", "web")
        assert more == {"stop": stop, "timeout_seconds": 5}
        return dumping.Dumped("u-u", 1234, 1.5)

    monkeypatch.setattr(dumping, "dump", dump)
    result = call("web", "--timeout", "5", *options)
    assert (result.exit_code, result.output) == (0, "u-u  1234 bytes  1.50 s\n")


def test_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> dumping.Dumped:
        raise errors.UnsupportedError("io_uring", hint="do without")

    monkeypatch.setattr(dumping, "dump", refuse)
    result = call("web")
    assert result.exit_code == errors.UnsupportedError.exit_code
    assert result.stderr == "error: io_uring\n  hint: do without\n"


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--timeout", "0"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert call(*arguments).exit_code == 2
