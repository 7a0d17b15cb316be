"""Progress: a bar for a person, lines for a log; nothing is lost of what several threads tell."""

import io
import sys
import threading

import pytest

from chrek import transfer
from chrek.cli import progress

VERBS = {"down": "fetching", transfer.FILES: "copying", "up": "sending"}
PATIENCE_SECONDS = 20


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said():
    return []


@pytest.fixture
def lines(clock, said, monkeypatch):
    """They tell how far it is when a test says so."""
    monkeypatch.setattr(progress, "PERIOD_SECONDS", 3600)
    return progress.Lines(VERBS, say=said.append, clock=clock)


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes stderr one; pytest would take it back before the test."""

    def call():
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return call


def test_lines_of_an_artifact(lines, clock, said):
    with lines.artifact("h/v/u"):
        lines.begins(200_000_000)
        clock.now += 10
        lines.tick()
        clock.now += 2
        lines.moved("down", 50_000_000)
        clock.now += 10
        lines.moved("down", 50_000_000)
        lines.tick()
        clock.now += 5
        lines.tick()
        clock.now += 1
        lines.moved(transfer.FILES, 20_000_000)
        clock.now += 1
        lines.moved(transfer.FILES, 10_000_000)
        lines.tick()
        clock.now += 11
    assert said == [
        "copying h/v/u: 200.0 MB",
        "h/v/u: nothing has come yet, 10 s",
        "fetching h/v/u: 100.0 MB of 200.0 MB, 50 %, 10 MB/s",
        "fetching h/v/u: 100.0 MB of 200.0 MB, 50 %, 0 MB/s",
        "copying h/v/u: 30.0 MB of 200.0 MB, 15 %, 30 MB/s",
        "h/v/u: 200.0 MB in 40.0 s, 5 MB/s",
    ]


def test_what_is_there_already_has_no_lines(lines, said):
    with lines.artifact("h/v/u"):
        pass
    assert said == []


def test_what_fails_has_no_last_line_and_the_next_one_begins_anew(lines, clock, said):
    def fail():
        with lines.artifact("h/v/u"):
            lines.begins(10)
            lines.moved("down", 4)
            raise SystemExit(1)

    with pytest.raises(SystemExit):
        fail()
    with lines.artifact("h/v/w"):
        lines.begins(20_000)
        lines.moved("down", 5_000)
        lines.tick()
        clock.now += 1
    assert said == [
        "copying h/v/u: 0.0 kB",
        "copying h/v/w: 20.0 kB",
        "fetching h/v/w: 5.0 kB of 20.0 kB, 25 %, 5 MB/s",
        "h/v/w: 20.0 kB in 1.0 s, 0 MB/s",
    ]
    assert not [one for one in threading.enumerate() if one.name == "chrek-progress"]


def test_what_is_begun_again_is_no_more_than_all(lines, said):
    with lines.artifact("h/v/u"):
        lines.begins(1_000_000)
        for _ in range(3):
            lines.moved("down", 700_000)
        lines.tick()
    assert "1.0 MB of 1.0 MB, 100 %" in said[1]


def test_nothing_at_all_is_all_of_it(lines, said):
    with lines.artifact("h/v/u"):
        lines.begins(0)
        lines.moved("down", 0)
        lines.tick()
    assert "0.0 kB of 0.0 kB, 100 %" in said[1]


def test_lines_come_now_and_then_by_themselves_until_it_ends(monkeypatch):
    """Also while nothing moves."""
    monkeypatch.setattr(progress, "PERIOD_SECONDS", 0.001)
    said, twice = [], threading.Event()

    def say(line):
        said.append(line)
        if len(said) == 3:
            twice.set()

    one = progress.Lines(VERBS, say=say)
    with one.artifact("h/v/u"):
        one.begins(10)
        assert twice.wait(PATIENCE_SECONDS)
    assert "nothing has come yet" in said[-2]
    assert said[-1].startswith("h/v/u: 0.0 kB in ")
    assert not [one for one in threading.enumerate() if one.name == "chrek-progress"]


def tell(one, step, times, count):
    threads = [
        threading.Thread(target=lambda: [one.moved(step, count) for _ in range(times)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_lines_of_several_threads(lines, said):
    with lines.artifact("h/v/u"):
        lines.begins(16_000_000)
        tell(lines, "up", 1000, 1000)
        lines.tick()
    assert said[1].startswith("sending h/v/u: 8.0 MB of 16.0 MB, 50 %, ")


def test_a_bar(terminal):
    screen, bar = terminal(), progress.Bar(VERBS)
    with bar.artifact("h/v/u"):
        bar.begins(16_000_000)
        tell(bar, "down", 1000, 2000)
        tell(bar, transfer.FILES, 1000, 1000)
    told = screen.getvalue()
    last = told.rpartition("copying h/v/u")[2]
    assert "8.0/16.0 MB" in last
    assert "\x1b[?25l" in told, "no cursor meanwhile"
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l"), "and it is back"


def test_a_bar_goes_when_it_is_interrupted(terminal):
    screen, bar = terminal(), progress.Bar(VERBS)

    def interrupted():
        with bar.artifact("h/v/u"):
            bar.begins(10)
            bar.moved("down", 4)
            raise SystemExit(130)

    with pytest.raises(SystemExit):
        interrupted()
    before = screen.getvalue()
    assert before.rindex("\x1b[?25h") > before.rindex("\x1b[?25l")
    bar.moved("down", 4)
    assert screen.getvalue() == before, "a thread that has not heard of it does no harm"


def test_a_bar_begins_anew_with_each_step_and_each_artifact(terminal):
    terminal()
    bar = progress.Bar(VERBS)
    for label, total in (("h/v/u", 1000), ("h/v/w", 5000)):
        with bar.artifact(label):
            bar.begins(total)
            bar.moved("down", total)
            bar.moved("up", total // 2)
            task = bar._bars.tasks[0]
            assert (task.description, task.completed) == (f"sending {label}", total // 2)
            assert task.total == total


@pytest.mark.parametrize(
    ("term", "kind"),
    [("xterm", progress.Bar), ("dumb", progress.Lines), ("unknown", progress.Lines)],
)
def test_who_watches(terminal, monkeypatch, term, kind):
    terminal()
    monkeypatch.setenv("TERM", term)
    assert type(progress.shown("copying")) is kind


def test_nobody_watches(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    one = progress.shown("copying")
    with one.artifact("h/v/u"):
        one.begins(5_000_000_000)
    first, last = sys.stderr.getvalue().splitlines()
    assert first == "copying h/v/u: 5.0 GB"
    assert last.startswith("h/v/u: 5.0 GB in ")
