"""Tables, screens, and records as JSON, YAML and names."""

import datetime
import io
import json

import pytest
import yaml
from rich import console

from chrek.cli import printing, records

NOW = datetime.datetime(2026, 1, 29, 10, 5, tzinfo=datetime.UTC)
RECORD = records.Retry(namespace="team", name="llama", value="é", effects=[])


def test_columns_are_aligned_and_lines_have_no_end_of_spaces():
    lines = printing.table(("A", "LONGER"), [("xxx", "y"), ("z", "")])
    assert lines == ["A    LONGER", "xxx  y", "z"]


def test_outputs(capsys):
    printing.data("json", RECORD, [])
    text = capsys.readouterr().out
    assert json.loads(text) == {"namespace": "team", "name": "llama", "value": "é", "effects": []}
    assert "é" in text
    printing.data("yaml", RECORD, [])
    assert yaml.safe_load(capsys.readouterr().out) == json.loads(text)
    printing.data("name", RECORD, ["a/b", "a/c"])
    assert capsys.readouterr().out == "a/b\na/c\n"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0s"), (0.9, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"),
     (172799, "47h"), (172800, "2d"), (3e7, "347d")],
)  # fmt: skip
def test_duration(seconds, expected):
    assert printing.duration(seconds) == expected


def test_age():
    assert printing.age("2026-01-29T10:00:00Z", NOW) == "5m"
    assert printing.ago("2026-01-29T10:00:30Z", NOW) == "4m ago"
    assert printing.age("2026-01-29T10:00:00", NOW) == "5m"
    assert printing.age("", NOW) == printing.ago("never", NOW) == ""


def shown(fill, *, width=40, colour=False):
    stream = io.StringIO()
    on = console.Console(
        file=stream, width=width, force_terminal=colour, highlight=False, markup=False
    )
    screen = printing.Screen(on)
    fill(screen)
    screen.show()
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def fill(screen):
    screen.heading("pod [a] was restored", "restored")
    screen.field("why", "a message that is much longer than the screen is wide")
    screen.field("empty", "")
    screen.field("two", "one\nother")
    screen.line()
    screen.command("kubectl get pods -n a-rather-long-namespace --show-labels")


def test_a_terminal_wraps_values_but_no_commands():
    lines = shown(fill)
    assert lines[0] == "pod [a] was restored"
    assert lines[1] == "why  a message that is much longer than"
    assert lines[2] == "     the screen is wide"
    assert lines[3:5] == ["two  one", "     other"]
    assert lines[5] == ""
    assert "  kubectl get pods -n a-rather-long-namespace --show-labels" in "".join(lines[6:])


def test_a_terminal_has_colours():
    assert "\x1b[32mrestored" in shown(fill, colour=True)[0].replace("\x1b[1;32m", "\x1b[32m")


def test_elsewhere_a_field_is_a_line(capsys):
    screen = printing.Screen()
    fill(screen)
    screen.show()
    assert capsys.readouterr().out.splitlines() == [
        "pod [a] was restored",
        "why  a message that is much longer than the screen is wide",
        "two  one",
        "     other",
        "",
        "  kubectl get pods -n a-rather-long-namespace --show-labels",
    ]


def test_lines_are_coloured_on_a_terminal_only(monkeypatch):
    line = "a  Ready  Ready"
    assert printing.coloured(line, "Ready") == line
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout", type("T", (io.StringIO,), {"isatty": lambda _: True})())
    assert printing.coloured(line, "Ready") == "a  \x1b[32mReady\x1b[0m  Ready"
    assert printing.coloured(line, "Other") == line
    monkeypatch.setenv("NO_COLOR", "1")
    assert printing.coloured(line, "Ready") == line
    monkeypatch.delenv("NO_COLOR")
    assert printing.coloured("Ready", "Ready") == "Ready"
