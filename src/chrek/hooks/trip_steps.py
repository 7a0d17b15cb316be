"""The steps of the round trip: what each took, for a table, and how long all of them may wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from chrek import errors, names

POLL_SECONDS = 0.2
T = TypeVar("T")


class GivenUp(errors.ChrekError):
    """Another step failed, so that nobody needs this one any more."""


class NotTested(errors.ChrekError):
    """Something could not be tested, which says nothing against the release."""


class Row(NamedTuple):
    """A line of the table."""

    name: str
    seconds: float | None
    """None of what is no step."""
    note: str


class Steps:
    """Steps that one thread takes, one after the other."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time what is done inside; yields what takes a note for the table."""
        start = time.monotonic()
        notes: list[str] = []
        try:
            yield notes.append
        except GivenUp:
            notes.append("given up")
            raise
        except NotTested:
            notes.append("not tested")
            raise
        except errors.ChrekError as err:
            notes.append(f"FAILED: {err.reason}")
            raise
        finally:
            self.rows.append(Row(name, time.monotonic() - start, ", ".join(notes)))


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Lines for a person, the first one with the names of the columns."""
    kept = list(rows)
    width = max((len(row.name) for row in kept), default=0)
    yield f"{'step':{width}}  seconds  note"
    for name, seconds, note in kept:
        took = "" if seconds is None else f"{seconds:.2f}"
        yield f"{name:{width}}  {took:>7}  {note}".rstrip()


class Patience:
    """The time that is left for all steps together, in whatever thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every wait of other threads."""
        self._stopped.set()

    def wait(self, probe: Callable[[], T | None], what: str, *, look: str = "") -> T:
        """Ask until there is an answer.

        Args:
            probe: asks; None means not yet.
            what: what is waited for.
            look: where else to look when it does not come.

        Raises:
            ChrekError: the time is over.
            GivenUp: `stop` was called.
        """
        while not self._stopped.is_set():
            found = probe()
            if found is not None:
                return found
            if time.monotonic() >= self._deadline:
                places = "see the logs of the agents and of the operator"
                raise errors.ChrekError(
                    f"waited {self._seconds:.0f} s in all, at the end for {what}",
                    hint=", ".join(filter(None, [places, look, "or raise tests.timeoutSeconds"])),
                    reason=names.Reason.RESTORE_TIMEOUT,
                )
            self._stopped.wait(POLL_SECONDS)
        raise GivenUp(f"nobody waits for {what} any more")
