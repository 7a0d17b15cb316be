"""docs/standalone.md, typed as it is printed, on a machine whose /var/lib/chrek is empty."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from e2e import documented

pytestmark = pytest.mark.system
ROOT = pathlib.Path(__file__).resolve().parents[2]
STATE = pathlib.Path("/var/lib/chrek")
MACHINE = """
mount --make-rprivate /
mount --bind "$0" /var/lib/chrek
ip link set lo up
echo there
exec sleep infinity
"""
"""Nobody else's checkpoints are there, and every port is free."""
VARYING = {
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"\d+ bytes": r"\d+ bytes",
    r"[0-9.]+ MB": r"[0-9.]+ MB",
    r"[0-9-]+T[0-9:]+Z": r"[0-9-]+T[0-9:]+Z",
    r"[0-9.]+ s\b": r"[0-9.]+ s",
}


class Terminal:
    """One in which a command runs in the foreground."""

    def __init__(self, desk: documented.Desk, command: documented.Command | str) -> None:
        self._file = desk.folder / f"terminal-{time.monotonic_ns()}"
        with self._file.open("wb") as out:
            self.child = subprocess.Popen(
                desk.argv(command), cwd=desk.folder, env={**os.environ, **desk.environment},
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._file.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self.child.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def end(self) -> int:
        """As Ctrl-C does: everything in the foreground hears of it."""
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
        return self.child.wait(timeout=20)


@pytest.fixture
def desk(tmp_path: pathlib.Path, libexec: pathlib.Path) -> Iterator[documented.Desk]:
    if os.geteuid() != 0:
        pytest.skip("root only")
    made = documented.Desk.made(tmp_path / "desk", PYTHONPATH=str(ROOT / "src"))
    here = tmp_path / "state"
    here.mkdir()
    mine = [path for path in (STATE, *STATE.parents) if not path.exists()]
    STATE.mkdir(parents=True, exist_ok=True)
    argv = ["unshare", "--mount", "--net", "bash", "-euc", MACHINE, str(here)]
    machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert machine.stdout is not None
    try:
        assert machine.stdout.readline() == "there\n"
        enter = ("nsenter", f"--target={machine.pid}", "--mount", "--net", f"--wd={made.folder}")
        yield dataclasses.replace(made, within=enter)
    finally:
        machine.kill()
        machine.wait()
        machine.stdout.close()
        for path in mine:
            path.rmdir()


def test_five_minutes(desk: documented.Desk) -> None:
    shutil.copy(ROOT / "examples" / "standalone" / "server.py", desk.folder)
    run, ask, ask_again, dump, run_again, at_last = documented.find(
        "docs/standalone.md#five-minutes"
    )
    first = Terminal(desk, run)
    try:
        first.wait_for("\nready\n")
        documented.assert_shown(run, first.said, VARYING)
        answers = []
        for command in (ask, ask_again):
            answers.append(desk.run(command).stdout)
            documented.assert_shown(command, answers[-1], {"4476cc18": "[0-9a-f]{8}"})
        documented.assert_shown(dump, desk.type(dump), VARYING)
        assert first.child.wait(timeout=20) == 0
        assert re.search(r"chrek: Stopped: checkpoint [0-9a-f-]{36} is complete", first.said)
    finally:
        first.end()
    second = Terminal(desk, run_again)
    try:
        second.wait_for("Restored: ", seconds=4)
        documented.assert_shown(run_again, second.said, VARYING)
        (expected,) = at_last.output
        name = answers[0].split()[0]
        assert desk.run(at_last).stdout.strip() == expected.replace("4476cc18", name)
    finally:
        second.end()


def test_the_table_of_commands(desk: documented.Desk) -> None:
    mine = desk.filled(
        N="table",
        PATH=f"{desk.folder}",
        DIR="/var/lib/chrek/another",
        **{"COMMAND…": "sleep 60"},
    )
    run = re.sub(r"[\[\]]", "", documented.one("chrek run [--name N]*").text)
    first = Terminal(mine, run)
    try:
        first.wait_for("Falling back to cold start: CheckpointNotFound: ")
        assert re.match(r"[0-9a-f-]{36}  \d+ bytes", mine.type(documented.one("chrek dump N")))
        assert first.child.poll() is None, "it runs on"
    finally:
        first.end()
    second = Terminal(mine, documented.one("chrek restore N"))
    try:
        second.wait_for("Restored: ")
    finally:
        second.end()
