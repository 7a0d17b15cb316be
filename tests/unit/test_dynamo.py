"""Whom a signal reaches, and the files that published Dynamo workers look for."""

import os
import signal
import subprocess
import sys

import pytest

from chrek import dynamo, procfs

CATCHES = """
import os, signal, sys
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, _: os.write(1, b"%d\\n" % number))
print("up", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def start():
    made = []

    def start(*signals):
        argv = [sys.executable, "-c", CATCHES, *signals]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        made.append(process)
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def volume(tmp_path):
    fd = os.open(tmp_path, os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_the_signals_that_a_process_catches(start):
    found = procfs.status(start("SIGCONT", "SIGUSR2").pid).caught_signals
    assert {signal.SIGCONT, signal.SIGUSR2} <= found
    assert signal.SIGUSR1 not in found


def test_only_those_that_wait_are_signalled(start, volume, tmp_path):
    waiting, other = start("SIGCONT", "SIGUSR2"), start("SIGUSR2")
    assert dynamo.failed(os.getpid()) == 1
    assert waiting.stdout.readline() == f"{signal.SIGUSR2.value}\n"
    assert dynamo.restored(os.getpid(), volume) == 1
    assert waiting.stdout.readline() == f"{signal.SIGCONT.value}\n"
    assert other.poll() is None
    path = tmp_path / dynamo.RESTORED_FILE
    assert path.read_text() == "done\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == [dynamo.RESTORED_FILE]


def test_forgotten_also_where_nothing_is(volume, tmp_path):
    for name in (dynamo.RESTORED_FILE, *dynamo.READY_FILES):
        (tmp_path / name).touch()
    for _ in range(2):
        dynamo.forget(volume)
        assert os.listdir(tmp_path) == []


def test_a_process_that_ended():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError):
        procfs.status(process.pid)
