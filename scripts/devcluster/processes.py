"""Long-running processes, remembered by PID and start time so that no other one is ever hit.

Each process also carries the variable CHREK_CLUSTER with the cluster's folder. A process
whose record is lost, because its starter was killed between two steps, is found by that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from devcluster import steps

MARK = "CHREK_CLUSTER"


@dataclasses.dataclass(frozen=True)
class Process:
    """One process of one boot of the machine."""

    pid: int
    started: int
    """The start time in clock ticks since boot, field 22 of /proc/PID/stat."""
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this PID now, unless it is dead or a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        parsed = parse_stat(stat)
        if parsed is None:
            return None
        state, started = parsed
        return None if state in "ZXx" else cls(pid, started, boot_id())

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        # The pidfd is opened before the check, so it cannot come to mean a later process.
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def parse_stat(text: str) -> tuple[str, int] | None:
    """State and start time out of /proc/PID/stat; the command's name may hold any character."""
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return fields[0], int(fields[19])


def base_environment() -> dict[str, str]:
    """What every daemon gets: a proxy that the caller's shell names must not come between them."""
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": f"{os.environ.get('PATH', '')}:{system}".lstrip(":"), "HOME": "/root"}


def boot_id() -> str:
    """Which boot of the machine this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def children(pid: int) -> list[int]:
    """The PIDs of a process's children."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


class Records:
    """The processes of one cluster, one JSON file each."""

    def __init__(self, folder: Path, mark: str) -> None:
        self._folder = folder
        self._mark = mark

    def save(self, name: str, process: Process) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(dataclasses.asdict(process)))
        draft.replace(path)

    def load(self, name: str) -> Process | None:
        """The recorded process if it still runs."""
        try:
            process = Process(**json.loads((self._folder / f"{name}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return process if process.alive() else None

    def forget(self, name: str) -> None:
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Everything recorded, whether it still runs or not."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def spawn(
        self, name: str, argv: list[str], *, log: Path, env: dict[str, str] | None = None
    ) -> Process:
        """Start a process in a session of its own, with its output in a log.

        The process outlives the caller. Its record is written right after the start.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, cwd="/",
                env={**base_environment(), **(env or {}), MARK: self._mark},
            )  # fmt: skip
        # Unreaped for now: a zombie keeps its PID from being given to another process.
        child.returncode = 0
        process = Process.of(child.pid) or Process(child.pid, 0, boot_id())
        self.save(name, process)
        return process

    def stop(self, processes: Iterable[Process], *, grace_seconds: float = 5.0) -> None:
        """End processes: SIGTERM first, SIGKILL once the grace is over."""
        targets = [process for process in processes if process.alive()]
        for process in targets:
            process.kill(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while any(process.alive() for process in targets) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in targets:
            process.kill(signal.SIGKILL)
        for process in targets:
            steps.wait_until(
                lambda one=process: not one.alive(),  # type: ignore[misc]
                f"process {process.pid} ends after SIGKILL",
                timeout_seconds=20,
                interval_seconds=0.02,
            )

    def stragglers(self, **variables: str) -> list[Process]:
        """Every process of the machine that carries this cluster's mark.

        Args:
            variables: what else must be in the process's environment.
        """
        marks = {
            f"{key}={value}".encode() for key, value in {MARK: self._mark, **variables}.items()
        }
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            process = Process.of(int(entry.name))
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if process is not None and marks <= set(environment.split(b"\0")):
                found.append(process)
        return found
