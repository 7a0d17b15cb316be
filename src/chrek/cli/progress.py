"""How far an artifact is, on stderr: a bar where a person watches, a line now and then elsewhere.

Bytes are those of the artifact as its manifest counts them, whatever a server sends or keeps for
them. What comes from a server is counted on its way here first, then as its files are compared;
what goes to one once more as it is sent. Each of these steps has its own percentage and rate.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from chrek import transfer

if TYPE_CHECKING:
    from rich import progress as bars

PERIOD_SECONDS = 10.0
"""Between two lines."""


def shown(verb: str) -> Bar | Lines:
    """As whoever looks at stderr wants it.

    Args:
        verb: what is done with an artifact's files, such as `copying`.
    """
    verbs = {"down": "fetching", transfer.FILES: verb, "up": "sending"}
    return Bar(verbs) if watched() else Lines(verbs)


def watched() -> bool:
    """Whether a person looks at stderr, on a terminal that can go back in a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def size(count: int) -> str:
    """A number of bytes for a person, such as `268.4 MB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1e3:.1f} kB"


def rate(count: int, seconds: float) -> str:
    """Such as `21 MB/s`."""
    return f"{count / max(seconds, 1e-3) / 1e6:.0f} MB/s"


class Bar(transfer.Watch):
    """A line of a terminal that changes, for one artifact after the other."""

    def __init__(self, verbs: dict[str, str]) -> None:
        self._verbs = verbs
        self._lock = threading.Lock()
        self._bars: bars.Progress | None = None
        self._label = ""
        self._step = ""
        self._total = 0

    @contextlib.contextmanager
    def artifact(self, label: str) -> Iterator[None]:
        """While inside, it is this one; nothing of it stays on the screen."""
        from rich import console, progress, table

        columns = (
            # On a narrow screen it is the path that is cut.
            progress.TextColumn(
                "{task.description}",
                markup=False,
                table_column=table.Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            progress.BarColumn(bar_width=20),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        screen = console.Console(stderr=True)
        with progress.Progress(*columns, console=screen, transient=True, expand=True) as made:
            with self._lock:
                self._bars, self._label, self._step = made, label, ""
                made.add_task(label, total=None)
            try:
                yield
            finally:
                with self._lock:
                    self._bars = None

    def begins(self, total: int) -> None:
        """Told of its size."""
        self._total = total
        if self._bars is not None:
            (task,) = self._bars.task_ids
            self._bars.update(task, total=total)

    def moved(self, step: str, count: int) -> None:
        """Told of more bytes, on any thread."""
        with self._lock:
            if self._bars is None:
                return  # A thread that has not heard that all is over.
            (task,) = self._bars.task_ids
            if step != self._step:
                self._step = step
                described = f"{self._verbs[step]} {self._label}"
                self._bars.reset(task, total=self._total, description=described)
            self._bars.advance(task, count)


class Lines(transfer.Watch):
    """Lines for a log: where an artifact begins, now and then, and at its end."""

    def __init__(
        self,
        verbs: dict[str, str],
        *,
        say: Callable[[str], None] = lambda line: click.echo(line, err=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            verbs: what each step is called.
            say: takes a line.
            clock: seconds.
        """
        self._verbs = verbs
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._label = ""
        self._step = ""
        self._total = 0
        self._done = 0
        self._begin = 0.0
        """Of the artifact."""
        self._last = (0.0, 0)
        """When the last line was, and what was done then."""
        self._ticker: _Ticker | None = None

    @contextlib.contextmanager
    def artifact(self, label: str) -> Iterator[None]:
        """While inside, it is this one; what is there already has no lines."""
        self._label = label
        try:
            yield
        finally:
            told, self._ticker = self._ticker, None
            if told:
                told.end()
        if told:
            seconds = self._clock() - self._begin
            took = f"{size(self._total)} in {seconds:.1f} s, {rate(self._total, seconds)}"
            self._say(f"{self._label}: {took}")

    def begins(self, total: int) -> None:
        """Told of its size."""
        self._total, self._step, self._done = total, "", 0
        self._begin = self._clock()
        self._last = (self._begin, 0)
        self._say(f"{self._verbs[transfer.FILES]} {self._label}: {size(total)}")
        self._ticker = _Ticker(self.tick)

    def moved(self, step: str, count: int) -> None:
        """Told of more bytes, on any thread."""
        with self._lock:
            if step != self._step:
                self._step, self._done = step, 0
                self._last = (self._clock(), 0)
            # What was begun again is told again.
            self._done = min(self._total, self._done + count)

    def tick(self) -> None:
        """Say how far it is; the rate is that since the last line."""
        with self._lock:
            now, step, done = self._clock(), self._step, self._done
            (then, before), self._last = self._last, (now, done)
        if not step:
            self._say(f"{self._label}: nothing has come yet, {now - self._begin:.0f} s")
            return
        part = f"{size(done)} of {size(self._total)}, {_percent(done, self._total)} %"
        self._say(f"{self._verbs[step]} {self._label}: {part}, {rate(done - before, now - then)}")


def _percent(count: int, total: int) -> int:
    return 100 * count // total if total else 100


class _Ticker:
    """Calls something every `PERIOD_SECONDS`, also while nothing moves."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chrek-progress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(PERIOD_SECONDS):
            self._call()

    def end(self) -> None:
        """After this it calls nothing."""
        self._over.set()
        self._thread.join()
