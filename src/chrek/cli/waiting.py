"""Waits for a checkpoint, and shows meanwhile how it goes.

On a terminal one line is kept up to date, and each phase that is over stays with the seconds it
took; elsewhere every change is a line. `rich` is imported only for a terminal.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import click

from chrek import cli, errors, names, state

if TYPE_CHECKING:
    from rich import console as consoles

Object = dict[str, Any]

POLL_SECONDS = 1.0
UNNOTICED_SECONDS = 15.0
"""A DynamoCheckpoint without a phase after this time has no operator that looks at it."""
SILENT_SECONDS = 60.0
"""So long an API server may be away, as it is at an upgrade: the checkpoint needs it no more than
that."""
_UNNOTICED = "waiting for an operator to notice it"
INTERRUPTED = 130
"""As a shell has it of a program that SIGINT ended."""


class View(Protocol):
    """What a person sees."""

    def __enter__(self) -> View: ...

    def __exit__(self, *_: object) -> None: ...

    def seen(self, phase: str, message: str) -> None:
        """Told at every look, whether there is news or not."""

    def note(self, text: str) -> None:
        """A line beside."""


class Lines:
    """A line for each change."""

    def __init__(self, *, err: bool = False) -> None:
        """Print them on standard output, or on standard error."""
        self._err = err
        self._said = ""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def seen(self, phase: str, message: str) -> None:
        line = told(phase, message)
        if line != self._said:
            click.echo(line, err=self._err)
            self._said = line

    def note(self, text: str) -> None:
        click.echo(text, err=self._err)


class Live:
    """One line with phase, message and seconds; a phase that is over leaves a line."""

    def __init__(
        self,
        console: consoles.Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing.

        Args:
            console: where it goes; by default standard output.
            clock: seconds that only grow.
        """
        from rich import console as consoles
        from rich import progress, table

        # A phase's message may be longer than the line.
        column = table.Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._clock = clock
        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False, table_column=column),
            progress.TextColumn("{task.elapsed:.0f} s"),
            console=console or consoles.Console(highlight=False, markup=False),
            expand=True,
            transient=True,
            get_time=clock,
        )
        self._task = self._bar.add_task(_UNNOTICED, total=None)
        self._begin = self._since = clock()
        self._phase = self._message = ""

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def seen(self, phase: str, message: str) -> None:
        now, over = self._clock(), ""
        if phase != self._phase:
            if self._phase:
                over = told(f"{self._phase} {now - self._since:.0f} s", self._message)
            self._since = now
            self._bar.reset(self._task)
        self._phase, self._message = phase, message
        self._bar.update(self._task, description=told(phase, message) or _UNNOTICED)
        if over:
            self.note(over)
        if phase == names.Phase.READY:
            self.note(told(f"{phase} after {now - self._begin:.0f} s", message))

    def note(self, text: str) -> None:
        self._bar.console.print(text, soft_wrap=True)


def view(output: str) -> View:
    """How a command shows it: what is not a table leaves standard output to the result."""
    if output != "table":
        return Lines(err=True)
    return Live() if sys.stdout.isatty() else Lines()


def told(phase: str, message: str) -> str:
    """A phase and its message in one line."""
    return f"{phase}: {message}" if message else phase


def wait(
    get: Callable[[], Object | None],
    name: str,
    namespace: str,
    *,
    timeout: float,
    shown: View | None = None,
    again: str = "",
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until a checkpoint is Ready.

    Args:
        get: reads the DynamoCheckpoint, None when there is none.
        name: of the DynamoCheckpoint.
        namespace: where it is.
        timeout: seconds to wait at most.
        shown: what a person sees; by default what `view` chooses.
        again: what else to tell whoever interrupts it.
        sleep: waits between two looks.
        clock: seconds that only grow.

    Raises:
        ApiError: the API server refuses, or has not answered for a minute.
        CheckpointError: it failed, was deleted, or is not Ready in time.
        SystemExit: it was interrupted.
    """
    with interruptible(name, namespace, again), shown or view("table") as screen:
        _wait(get, name, namespace, screen, timeout=timeout, sleep=sleep, clock=clock)


@contextlib.contextmanager
def interruptible(name: str, namespace: str, again: str = "") -> Iterator[None]:
    """Say to whoever presses Ctrl-C what goes on without them."""
    try:
        yield
    except KeyboardInterrupt:
        look = f"{cli.program()} show {name} -n {namespace}"
        text = f"no longer waiting; the checkpoint goes on: {look}"
        click.echo(f"\n{text}{f'; {again}' if again else ''}", err=True)
        raise SystemExit(INTERRUPTED) from None


def _asked(
    get: Callable[[], Object | None],
    screen: View,
    *,
    most_seconds: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> Object | None:
    """What `get` gives; while the API server does not answer it is asked again, for a while."""
    since, noted = clock(), False
    while True:
        try:
            return get()
        except errors.ApiError as err:
            answered = 0 < err.status < 500 and err.status != 429
            if answered or clock() - since >= most_seconds:
                raise
            if not noted:
                screen.note(f"asking again: {err.message}")
            noted = True
        sleep(POLL_SECONDS)


def _wait(
    get: Callable[[], Object | None],
    name: str,
    namespace: str,
    screen: View,
    *,
    timeout: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    label, here = f"{names.CHECKPOINT_KIND} {name}", f"{name} -n {namespace}"
    start, warned = clock(), False
    while True:
        silent = min(SILENT_SECONDS, timeout)
        found = _asked(get, screen, most_seconds=silent, sleep=sleep, clock=clock)
        if found is None:
            raise errors.CheckpointError(f"{label} was deleted", hint="make it again")
        status = state.status_of(found)
        phase, message = str(status.get("phase", "")), str(status.get("message", ""))
        screen.seen(phase, message)
        if phase == names.Phase.READY:
            return
        if phase == names.Phase.FAILED:
            raise errors.CheckpointError(
                f"{label} failed: {message}",
                hint=f"see all of it: {cli.program()} show {here}; when that is mended: "
                f"{cli.program()} retry {here} --wait",
            )
        waited = clock() - start
        if not phase and waited >= UNNOTICED_SECONDS and not warned:
            warned = True
            screen.note(
                f"no operator has noticed it after {waited:.0f} s; is chrek installed for "
                f"namespace {namespace} (dynamo-operator.watchNamespaces)?"
            )
        if waited >= timeout:
            raise errors.CheckpointError(
                f"{label} is not Ready after {timeout:.0f} s: "
                f"{told(phase, message) or 'it has no phase yet'}",
                hint="give more time with --timeout; it goes on either way: "
                f"{cli.program()} show {here}",
            )
        sleep(min(POLL_SECONDS, max(timeout - waited, 0.0)))
