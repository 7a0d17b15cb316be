"""Running other programs: kubectl, helm and this repository's own scripts."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from showcase import errors

ROOT = Path(__file__).resolve().parent.parent.parent


def cache() -> Path:
    """The folder that scripts/cluster and scripts/build keep what they built in."""
    if chosen := os.environ.get("CHREK_CACHE"):
        return Path(chosen).expanduser().resolve()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(home).expanduser() / "chrek").resolve()


def find(program: str) -> str:
    """The program that scripts/cluster built, else the one on PATH."""
    built = cache() / "bin" / program
    found = str(built) if built.exists() else shutil.which(program)
    if not found:
        raise errors.ShowError(
            f"{program} is missing",
            hint="install it, or unset KUBECONFIG: scripts/cluster builds it",
        )
    return found


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    text: str | None = None,
    check: bool = True,
    timeout: float = 300,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and keep what it wrote.

    Raises:
        ShowError: it failed or took longer than `timeout` seconds (unless `check` is false).
    """
    line = shlex.join(os.fspath(part) for part in argv)
    try:
        done = subprocess.run(
            argv,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as err:
        raise errors.ShowError(f"{line[:300]}: not done after {timeout:.0f} s") from err
    if check and done.returncode:
        output = (done.stderr.strip() or done.stdout.strip())[-3000:]
        raise errors.ShowError(f"{line[:300]}: exit code {done.returncode}\n{output}")
    return done


def stream(argv: Sequence[str | os.PathLike[str]]) -> None:
    """Run a program whose progress the user sees."""
    line = shlex.join(os.fspath(part) for part in argv)
    code = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode
    if code:
        raise errors.ShowError(f"{line}: exit code {code}", hint="its messages are above")


_START = time.monotonic()


def say(message: str) -> None:
    """Write one line of progress to stderr."""
    sys.stderr.write(f"[{time.monotonic() - _START:6.1f}] {message}\n")
    sys.stderr.flush()
