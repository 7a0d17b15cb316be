"""Until when somebody waits for what a task does: found by those who ask servers, not handed on.

Who asks again and again gives up a little before, so that the one who waits is told why.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import time
from collections.abc import Iterator

_ends: contextvars.ContextVar[float] = contextvars.ContextVar("ends", default=math.inf)


def ends() -> float:
    """On the monotonic clock; infinite where nobody has said."""
    return _ends.get()


def left() -> float:
    """Seconds from now, 0 when it is over; infinite where nobody has said."""
    return max(0.0, _ends.get() - time.monotonic())


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside, and in tasks that are made inside, it is so many seconds from now."""
    token = _ends.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends.reset(token)
