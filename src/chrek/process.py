"""The only place that starts other programs.

Every child gets PDEATHSIG through `chrek-enter`, or is short-lived and has a time limit. Nothing is
run through a shell.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from collections.abc import Mapping, Sequence

from chrek import errors

LIBEXEC = pathlib.Path(os.environ.get("CHREK_LIBEXEC", "/usr/lib/chrek"))
"""Where the image keeps chrek-enter, chrek-init and the CRIU bundle."""


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
    why = "not found" if isinstance(err, FileNotFoundError) else err.strerror
    return errors.ToolError(f"{argv[0]}: {why}", argv=argv, hint="it is part of the chrek image")
