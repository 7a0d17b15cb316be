"""Seconds of steps as bars of text.

The API server sorts the keys of objects, so that the order of the steps is that of this module.
Steps may overlap: a bar tells how long one took, not when it began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ORDER = (
    # Of a capture.
    "quiesce",
    "outsiders",
    "preflight",
    "gpu_lock",
    "gpu_checkpoint",
    "dump",
    "files",
    "digest",
    "sync",
    # Of a restore.
    "queued",
    "fetch",
    "stage",
    "privilege",
    "sockets",
    "criu",
    "pages",
    "verify_wait",
    "tell",
    "gpu_restore",
    "gpu_unlock",
    "wake",
)
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


def ordered(steps: Mapping[str, float]) -> dict[str, float]:
    """The steps in their order; those of other versions last."""
    known = {name: place for place, name in enumerate(ORDER)}
    return dict(sorted(steps.items(), key=lambda item: (known.get(item[0], len(known)), item[0])))


def bars(steps: Mapping[str, float], *, width: int, blocks: bool = True) -> list[str]:
    """A line for each step: name, seconds, bar.

    Args:
        steps: name -> seconds.
        width: columns of the longest line.
        blocks: whether block characters can be shown; else there are number signs.
    """
    if not steps:
        return []
    found = ordered(steps)
    label = max(map(len, found))
    told = {name: f"{seconds:.3f} s" for name, seconds in found.items()}
    number = max(map(len, told.values()))
    room = max(8, width - label - number - 4)
    longest = max(found.values())
    return [
        f"{name.ljust(label)}  {told[name].rjust(number)}  "
        f"{bar(seconds, longest, room, blocks=blocks)}".rstrip()
        for name, seconds in found.items()
    ]


def bar(value: float, longest: float, room: int, *, blocks: bool = True) -> str:
    """A bar in proportion; what is not nothing has at least a trace."""
    if value <= 0 or longest <= 0:
        return ""
    if not blocks:
        return "#" * max(1, round(room * value / longest))
    eighths = max(1, round(8 * room * value / longest))
    return _FULL * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def sentence(steps: Mapping[str, float]) -> str:
    """The steps in a line, the longest first, small change left out."""
    found = sorted(steps.items(), key=lambda item: -item[1])
    shown = [f"{name} {seconds:.2f} s" for name, seconds in found if seconds >= 0.005]
    return ", ".join(shown) or ", ".join(f"{name} {seconds:.3f} s" for name, seconds in found)


def can_show_blocks(encoding: str | None) -> bool:
    """Whether a stream's encoding has the characters."""
    try:
        (_FULL + _EIGHTHS).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def total(steps: Mapping[str, float] | Sequence[float]) -> float:
    """Sum of the seconds."""
    return sum(steps.values() if isinstance(steps, Mapping) else steps)
