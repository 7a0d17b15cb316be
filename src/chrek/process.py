"""The only place that starts other programs.

Every child gets PDEATHSIG, through `chrek-enter` or by its own doing, or is short-lived and has a
time limit. Nothing is run through a shell.
"""

from __future__ import annotations

import os
import pathlib
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from chrek import errors

LIBEXEC = pathlib.Path(os.environ.get("CHREK_LIBEXEC", "/usr/lib/chrek"))
"""Where the image keeps chrek-enter, chrek-init and the CRIU bundle."""
_WHERE = (
    "chrek's image has it; elsewhere `scripts/build bundle` makes a directory with it, for the "
    "variable CHREK_LIBEXEC"
)


def describe(returncode: int) -> str:
    """`exited with status 1`, `was killed by SIGKILL`."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float = 30,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run a program to its end and return what it wrote to stdout.

    Raises:
        ToolError: it could not be started, failed, or ran out of time.
    """
    line = list(argv)
    try:
        done = subprocess.run(  # noqa: S603 - argv lists only, never a shell
            line,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_seconds,
            pass_fds=pass_fds,
            env=env,
            check=False,
        )
    except OSError as err:
        raise _not_started(line, err) from err
    except subprocess.TimeoutExpired as err:
        raise errors.ToolError(
            f"{line[0]}: no end after {timeout_seconds:g} seconds", argv=line
        ) from err
    if done.returncode:
        log = done.stderr.decode(errors="replace")
        raise errors.ToolError(
            f"{line[0]} {describe(done.returncode)}: {log.strip()[-512:]}",
            argv=line,
            returncode=done.returncode,
            log=log,
        )
    return done.stdout


def tail(
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    most_bytes: int = 4096,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> tuple[int | None, bytes]:
    """Run a program that is not trusted, and keep the end of what it writes.

    However much it writes and whoever keeps its output open, this returns soon after its end or
    after `timeout_seconds`, and holds no more than `most_bytes`.

    Returns:
        Its exit status, as in `subprocess`, or None when it was ended because time was up; and the
        last bytes of stdout and stderr together.

    Raises:
        ToolError: it could not be started.
    """
    line, kept = list(argv), b""
    try:
        child = subprocess.Popen(  # noqa: S603 - argv lists only, never a shell
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            env=env,
        )
    except OSError as err:
        raise _not_started(line, err) from err
    deadline = time.monotonic() + timeout_seconds
    with child:
        output = child.stdout.fileno() if child.stdout else -1
        ended = os.pidfd_open(child.pid)
        os.set_blocking(output, False)
        poller = select.poll()
        poller.register(output, select.POLLIN)
        poller.register(ended, select.POLLIN)
        try:
            while (left := deadline - time.monotonic()) > 0:
                ready = {fd for fd, _ in poller.poll(1000 * left)}
                data = _read(output) if output in ready else b""
                kept = (kept + data)[-most_bytes:]
                if output in ready and not data:
                    poller.unregister(output)
                if ended in ready:
                    kept = (kept + _read(output))[-most_bytes:]
                    return child.wait(), kept
        finally:
            child.kill()
            os.close(ended)
    return None, kept


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""


def start(
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a program that the caller talks to and ends.

    The calling thread must outlive it: PDEATHSIG fires when the thread that started it ends.
    """
    try:
        return subprocess.Popen(  # noqa: S603 - argv lists only, never a shell
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=pass_fds,
            env=env,
        )
    except OSError as err:
        raise _not_started(list(argv), err) from err


def _not_started(argv: list[str], err: OSError) -> errors.ToolError:
    if isinstance(err, FileNotFoundError):
        return absent(argv[0], argv)
    return errors.ToolError(f"{argv[0]}: {err.strerror}", argv=argv, hint=_WHERE)


def absent(path: str | os.PathLike[str], argv: list[str] | None = None) -> errors.ToolError:
    """The error for a program or file of the image's that is not there."""
    return errors.ToolError(f"{os.fspath(path)}: not found", argv=argv, hint=_WHERE)


def become(argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Go on as another program.

    Raises:
        OSError: it cannot be run; its file name is the program's.
    """
    try:
        os.execve(argv[0], [*argv], environment)  # noqa: S606 - argv lists only, never a shell
    except OSError as err:
        raise OSError(err.errno, err.strerror, argv[0]) from err
