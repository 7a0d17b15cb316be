"""Outcomes of checks, and how a person reads them."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator, Sequence


class Status(enum.StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warn"
    FAILED = "fail"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The answer of one check.

    Attributes:
        name: the check, or what it looked at.
        status: whether it is as it should be.
        detail: what was found, with the value.
        hint: what to do; empty when nothing is to be done.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""


Attempt = Callable[[str, Callable[[], Sequence[Outcome]]], Sequence[Outcome]]
"""Runs a check, given the check's name; may turn an error into an outcome of that name."""


def plainly(_: str, check: Callable[[], Sequence[Outcome]]) -> Sequence[Outcome]:
    """Run a check; its errors end the program."""
    return check()


def ok(name: str, detail: str) -> Outcome:
    return Outcome(name, Status.OK, detail)


def warning(name: str, detail: str, hint: str) -> Outcome:
    return Outcome(name, Status.WARNING, detail, hint)


def failed(name: str, detail: str, hint: str) -> Outcome:
    return Outcome(name, Status.FAILED, detail, hint)


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A table: status, name, detail; hints on lines of their own."""
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    for outcome in outcomes:
        yield f"{outcome.status:4}  {outcome.name:{width}}  {outcome.detail}".rstrip()
        if outcome.hint:
            yield f"      {'':{width}}  -> {outcome.hint}"


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.status is Status.FAILED]


def verdict(outcomes: Sequence[Outcome], *, again: str) -> str:
    """The last line: what to do next.

    Args:
        outcomes: all of them.
        again: what to run once the failures are dealt with.
    """
    wrong = failures(outcomes)
    if wrong:
        first = wrong[0]
        others = ", ".join(outcome.name for outcome in wrong[1:])
        return (
            f"{first.name} failed: {first.detail}. To do: {first.hint}"
            + (f" (failed too: {others})" if others else "")
            + f". Then {again}."
        )
    warned = sum(outcome.status is Status.WARNING for outcome in outcomes)
    told = f", {warned} with a warning" if warned else ""
    return f"all {len(outcomes)} checks passed{told}"
