"""The errors that the command line shows to its user."""

from __future__ import annotations


class ClusterError(Exception):
    """What failed, with the value that failed, and what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class CommandError(ClusterError):
    """A program that ended with an error."""

    def __init__(self, argv: list[str], returncode: int, output: str) -> None:
        how = f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
        tail = "\n".join(output.strip().splitlines()[-20:])
        super().__init__(
            f"command ended with {how}: {' '.join(argv)}" + (f"\n{tail}" if tail else "")
        )
        self.returncode = returncode
        self.output = output
