"""One event a line, data in fields."""

import io
import json
import logging
import sys

import pytest

from chrek import log


@pytest.fixture
def lines():
    """Logs through a formatter into a list of lines."""
    stream = io.StringIO()

    def record(formatter, level="debug"):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger = logging.Logger("chrek.test", level.upper())
        logger.addHandler(handler)
        return log.Logger(logger, {})

    record.read = lambda: stream.getvalue().splitlines()
    return record


def test_json_line_carries_fields(lines):
    logger = lines(log.JsonFormatter()).bind(pod="a").bind(node="n")
    logger.info("restored", seconds=1.5, path=object)
    (line,) = lines.read()
    event = json.loads(line)
    assert event["event"] == "restored"
    assert event["severity"] == "info"
    assert event["logger"] == "chrek.test"
    assert (event["pod"], event["node"], event["seconds"]) == ("a", "n", 1.5)
    assert event["path"] == str(object)
    assert event["time"].endswith("Z")


def test_a_field_at_the_call_wins_over_a_bound_one(lines):
    lines(log.JsonFormatter()).bind(step="one").info("x", step="two")
    assert json.loads(lines.read()[0])["step"] == "two"


def test_an_event_stays_on_one_line(lines):
    lines(log.JsonFormatter()).error("failed", message_text="two\nlines")
    assert len(lines.read()) == 1


def test_a_bug_is_logged_with_its_traceback(lines):
    logger = lines(log.JsonFormatter())
    try:
        1 / 0  # noqa: B018 - the point
    except ZeroDivisionError:
        logger.error("bug", exc_info=True)
    assert "ZeroDivisionError" in json.loads(lines.read()[0])["traceback"]


def test_text_for_a_terminal(lines):
    lines(log.TextFormatter()).warning("agent is gone", pod="a")
    assert lines.read()[0].split(maxsplit=1)[1] == "warning agent is gone pod=a"


def test_steps_are_timed_and_added_up(lines):
    logger = lines(log.JsonFormatter())
    seconds = {}
    for _ in range(2):
        with logger.step("criu dump", seconds):
            pass
    assert 0 <= seconds["criu dump"] < 1
    ended = [json.loads(line) for line in lines.read()][1]
    assert (ended["event"], ended["step"]) == ("step ended", "criu dump")


def test_a_step_that_fails_is_timed_too(lines):
    seconds = {}
    with pytest.raises(KeyError), lines(log.JsonFormatter()).step("x", seconds):
        raise KeyError
    assert "x" in seconds


@pytest.mark.parametrize(
    ("json_lines", "formatter"), [(True, log.JsonFormatter), (False, log.TextFormatter)]
)
def test_setup_replaces_handlers(monkeypatch, json_lines, formatter):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(root, "level", root.level)
    log.setup("warning", json_lines=json_lines)
    (handler,) = root.handlers
    assert isinstance(handler.formatter, formatter)
    assert handler.stream is sys.stderr
    assert root.level == logging.WARNING
