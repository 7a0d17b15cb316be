from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import processes


def test_stat_of_a_command_with_spaces_and_parentheses() -> None:
    fields = " ".join(["S", "1", *["0"] * 17, "4711", "0"])
    assert processes.parse_stat(f"42 (a) b (c)) {fields}") == ("S", 4711)


@pytest.mark.parametrize("text", ["", "42 (sh)", "42 (sh) S 1 2"])
def test_stat_that_is_cut_short(text: str) -> None:
    assert processes.parse_stat(text) is None


def test_a_process_is_told_from_another_one_of_the_same_pid() -> None:
    me = processes.Process.of(os.getpid())
    assert me is not None
    assert me.alive()
    assert not processes.Process(me.pid, me.started - 1, me.boot).alive()
    assert not processes.Process(me.pid, me.started, "another boot").alive()


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = processes.Process.of(child.pid)
        assert process is not None
        process.kill(signal.SIGKILL)
        # Waits for the end and leaves the zombie where it is.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process.alive()
        process.kill(signal.SIGKILL)


def test_a_record_is_forgotten_with_its_process(tmp_path: Path) -> None:
    records = processes.Records(tmp_path / "run", "mark")
    assert records.load("sleeper") is None
    process = records.spawn("sleeper", ["sleep", "60"], log=tmp_path / "sleeper.log")
    assert records.load("sleeper") == process
    records.stop([process], grace_seconds=2)
    assert records.load("sleeper") is None
    assert records.names() == ["sleeper"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "surplus": 2}'])
def test_a_broken_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    assert processes.Records(tmp_path, "mark").load("broken") is None


def test_stop_kills_what_ignores_the_request(tmp_path: Path) -> None:
    records = processes.Records(tmp_path / "run", "mark")
    script = (
        "import signal,time;signal.signal(15,signal.SIG_IGN);print(1,flush=True);time.sleep(60)"
    )
    log = tmp_path / "stubborn.log"
    process = records.spawn("stubborn", [sys.executable, "-c", script], log=log)
    while not log.read_text():
        assert process.alive()
    records.stop([process], grace_seconds=0.1)
    assert not process.alive()


def test_stragglers_are_found_by_the_mark_and_by_nothing_else(tmp_path: Path) -> None:
    records = processes.Records(tmp_path / "run", f"{tmp_path}")
    other = processes.Records(tmp_path / "run", f"{tmp_path}-other")
    one = records.spawn("one", ["sleep", "60"], log=tmp_path / "log", env={"NODE": "n1"})
    two = other.spawn("two", ["sleep", "60"], log=tmp_path / "log")
    try:
        (tmp_path / "run/one.json").unlink()
        assert records.stragglers() == [one]
        assert records.stragglers(NODE="n1") == [one]
        assert records.stragglers(NODE="n2") == []
    finally:
        records.stop([one, two], grace_seconds=2)
