"""Waiting for a checkpoint: what a person sees, on a terminal and elsewhere, and how it ends."""

import io
import json

import pytest
from rich import console

from chrek import errors
from chrek.cli import waiting


def seen(*phases):
    """A checkpoint as it looks from one glance to the next; the last state stays."""
    states = [
        {"metadata": {"name": "c", "namespace": "team"}, "status": status} for status in phases
    ]
    return lambda: states.pop(0) if len(states) > 1 else states[0]


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += max(seconds, 0.01)

    def __call__(self):
        return self.now


def waited(get, timeout=100.0, shown=None, clock=None, **more):
    clock = clock or Clock()
    waiting.wait(
        get, "c", "team", timeout=timeout, shown=shown, sleep=clock.sleep, clock=clock, **more
    )


CREATING = {"phase": "Creating", "message": "pod c-x starts the worker"}
PENDING = {"phase": "Pending", "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu"}
READY = {"phase": "Ready", "message": "captured on node n1, 1.3Gi"}


def test_each_change_is_a_line(capsys):
    waited(seen({}, {"phase": "Pending"}, {"phase": "Pending"}, CREATING, CREATING, READY))
    assert capsys.readouterr().out.splitlines() == [
        "Pending",
        f"Creating: {CREATING['message']}",
        f"Ready: {READY['message']}",
    ]


def test_a_status_in_the_annotation_counts(capsys):
    """Beside the CRD of another chart, which drops fields."""
    item = seen({})()
    item["metadata"]["annotations"] = {"nvidia.com/chrek-state": json.dumps(READY)}
    waited(lambda: item)
    assert capsys.readouterr().out == f"Ready: {READY['message']}\n"


def test_data_has_standard_output_for_itself(capsys):
    waited(seen(CREATING, READY), shown=waiting.view("json"))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("Creating: ")


def live(*phases, width=80, terminal=True, **more):
    """What a terminal shows."""
    clock, out = Clock(), io.StringIO()
    screen = console.Console(
        file=out, force_terminal=terminal, width=width, color_system=None, highlight=False
    )
    try:
        waited(seen(*phases), shown=waiting.Live(screen, clock), clock=clock, **more)
    finally:
        screen.file.flush()
    return out.getvalue()


def test_a_terminal_keeps_each_phase_with_its_seconds():
    """A console that is none prints what stays, and not the line that is kept up to date."""
    text = live({}, PENDING, PENDING, CREATING, READY, terminal=False)
    assert [line.rstrip() for line in text.splitlines() if line.strip()] == [
        f"Pending 2 s: {PENDING['message']}",
        f"Creating 1 s: {CREATING['message']}",
        f"Ready after 4 s: {READY['message']}",
    ]


def test_a_terminal_shows_phase_message_and_seconds_at_once():
    clock, out = Clock(), io.StringIO()
    screen = console.Console(file=out, force_terminal=True, width=60, color_system=None)
    with waiting.Live(screen, clock) as shown:
        shown.seen("", "")
        shown._bar.refresh()
        assert "waiting for an operator to notice it" in out.getvalue()
        shown.seen("Pending", PENDING["message"])
        clock.now = 7.4
        shown._bar.refresh()
        last = out.getvalue().rpartition("Pending: ")[2]
        assert last.startswith("0/2 nodes are available")
        assert "… 7 s" in last
        shown.seen("Creating", "[bold]no markup[/bold]")
        clock.now = 9.4
        shown._bar.refresh()
        last = out.getvalue().rpartition("Creating: ")[2]
        assert last.startswith("[bold]no markup[/bold]")
        assert " 2 s" in last


def test_it_ends_in_time(capsys):
    with pytest.raises(errors.CheckpointError) as caught:
        waited(seen({"phase": "Creating", "message": "busy"}), timeout=7)
    assert caught.value.message == "DynamoCheckpoint c is not Ready after 7 s: Creating: busy"
    assert "--timeout" in caught.value.hint
    assert caught.value.hint.endswith("chrek show c -n team")
    assert capsys.readouterr().out == "Creating: busy\n"


def refusing(status, times):
    """An API server that does not answer so often, or with this status."""
    answers = [errors.ApiError("no answer from x", status=status)] * times

    def get():
        if answers:
            raise answers.pop()
        return seen(READY)()

    return get


@pytest.mark.parametrize("status", [0, 429, 503])
def test_an_api_server_may_be_away_for_a_while(capsys, status):
    waited(refusing(status, 5))
    assert capsys.readouterr().out.splitlines() == [
        "asking again: no answer from x",
        f"Ready: {READY['message']}",
    ]


@pytest.mark.parametrize(("status", "looks"), [(403, 1), (404, 1), (0, 61), (503, 61)])
def test_but_not_for_ever(status, looks):
    clock, get = Clock(), refusing(status, 100)
    asked = []
    with pytest.raises(errors.ApiError):
        waited(lambda: (asked.append(1), get()), clock=clock)
    assert len(asked) == looks


def test_it_failed():
    with pytest.raises(errors.CheckpointError, match="DynamoCheckpoint c failed: no") as caught:
        waited(seen({"phase": "Failed", "message": "no"}))
    assert "chrek retry c -n team --wait" in caught.value.hint


def test_nobody_works(capsys):
    with pytest.raises(errors.CheckpointError, match="it has no phase yet"):
        waited(seen({}), timeout=60)
    out = capsys.readouterr().out
    assert out.count("no operator has noticed it after 15 s") == 1
    assert "namespace team" in out


def test_nobody_works_on_a_terminal():
    text = live({}, {}, READY, terminal=False)
    assert "no operator" not in text
    with pytest.raises(errors.CheckpointError):
        live({}, timeout=60)


def test_it_is_deleted():
    with pytest.raises(errors.CheckpointError, match="DynamoCheckpoint c was deleted"):
        waited(lambda: None)


@pytest.mark.parametrize("again", ["", "the same command waits on"])
def test_ctrl_c(capsys, monkeypatch, again):
    monkeypatch.setattr("sys.argv", ["kubectl-chrek"])

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        waited(interrupted, again=again)
    assert caught.value.code == 130
    text = "\nno longer waiting; the checkpoint goes on: kubectl chrek show c -n team"
    assert capsys.readouterr().err == f"{text}; {again}\n" if again else f"{text}\n"


def test_which_view(monkeypatch):
    assert isinstance(waiting.view("table"), waiting.Lines)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert isinstance(waiting.view("table"), waiting.Live)
    assert isinstance(waiting.view("json"), waiting.Lines)


class Terminal(io.StringIO):
    def isatty(self):
        return True
