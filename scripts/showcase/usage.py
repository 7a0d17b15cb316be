"""What a process uses, from /proc."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a process has used until now.

    Attributes:
        cpu_seconds: of all its threads, in user and kernel mode.
        resident_bytes: memory now.
        peak_bytes: most memory that it ever had.
    """

    cpu_seconds: float
    resident_bytes: int
    peak_bytes: int


def of(pid: int, *, proc: Path = Path("/proc")) -> Usage:
    """Usage of one process. Source: man 5 proc."""
    # The name in parentheses may hold blanks and parentheses itself.
    fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    facts = dict(
        line.split(":", 1)
        for line in (proc / str(pid) / "status").read_text().splitlines()
        if ":" in line
    )
    return Usage(
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
        resident_bytes=1024 * int(facts["VmRSS"].split()[0]),
        peak_bytes=1024 * int(facts["VmHWM"].split()[0]),
    )
