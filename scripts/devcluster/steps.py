"""Progress on the terminal, and waiting for something to become true."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from devcluster import errors

HEARTBEAT_SECONDS = 30.0


def say(message: str) -> None:
    """Write one line of progress. It goes to stderr: stdout is for results."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and say how long it took; a long one shows that it is alive."""
    started = time.monotonic()
    ended = threading.Event()
    say(f"==> {title}")

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            say(f"    {title}: {time.monotonic() - started:.0f} s so far")

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    except BaseException:
        say(f"    {title}: failed after {time.monotonic() - started:.1f} s")
        raise
    else:
        say(f"    {title}: {time.monotonic() - started:.1f} s")
    finally:
        ended.set()
        heart.join()


def wait_until(
    ready: Callable[[], bool],
    what: str,
    *,
    timeout_seconds: float,
    interval_seconds: float = 0.1,
    explain: Callable[[], str] | None = None,
) -> None:
    """Wait for `ready` to answer True.

    Args:
        what: the thing waited for, as the error names it.
        explain: called when time is up; its text ends the error, such as a log's last lines.

    Raises:
        ClusterError: it did not become true in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        if time.monotonic() > deadline:
            detail = f"\n{explain()}" if explain else ""
            raise errors.ClusterError(f"{what}: not so after {timeout_seconds:.0f} s{detail}")
        time.sleep(interval_seconds)
