"""Running other programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import IO

from devcluster import errors


def run(
    argv: list[str],
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    text: str | None = None,
    stdin: IO[bytes] | None = None,
    log: Path | None = None,
    timeout_seconds: float | None = None,
) -> str:
    """Run a program to its end and return what it wrote to stdout.

    Args:
        env: variables to set on top of the caller's.
        text: what to give the program on stdin.
        stdin: a file to give the program as stdin; excludes `text`.
        log: a file that gets stdout and stderr instead; the result is then empty.
        timeout_seconds: how long the program may take.

    Raises:
        CommandError: the program is missing, ended with an error, or took too long.
    """
    merged = {**os.environ, **(env or {})}
    try:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                done = subprocess.run(
                    argv, env=merged, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, timeout=timeout_seconds, check=False,
                )  # fmt: skip
            if done.returncode:
                shown = f"{tail(log)}\n(the whole log is {log})"
                raise errors.CommandError(argv, done.returncode, shown)
            return ""
        finished = subprocess.run(
            argv, env=merged, cwd=cwd, capture_output=True, timeout=timeout_seconds, check=False,
            input=text.encode() if text is not None else None,
            stdin=None if text is not None else (stdin or subprocess.DEVNULL),
        )  # fmt: skip
    except FileNotFoundError as err:
        raise errors.CommandError(argv, 127, str(err)) from err
    except subprocess.TimeoutExpired as err:
        raise errors.CommandError(argv, 124, f"no end after {timeout_seconds} s") from err
    stdout = finished.stdout.decode(errors="replace")
    if finished.returncode:
        stderr = finished.stderr.decode(errors="replace")
        raise errors.CommandError(argv, finished.returncode, f"{stdout}\n{stderr}")
    return stdout


def succeeds(argv: list[str]) -> bool:
    """Whether a program ends well; what it writes is dropped."""
    try:
        run(argv)
    except errors.CommandError:
        return False
    return True


def missing(names: list[str]) -> list[str]:
    """Which of the programs are not on PATH (nor in the folders that only root has there)."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return [name for name in names if shutil.which(name, path=path) is None]


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, or a word that there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 64 * 1024))
            text = log.read().decode(errors="replace")
    except OSError:
        return f"({path} does not exist)"
    return "\n".join(text.splitlines()[-lines:])
