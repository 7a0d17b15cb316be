"""What a capture needs, and what the store has."""

import os
import pathlib
import subprocess
import sys

import pytest

from chrek import errors, space

CODE = """
import mmap, os, sys
memory = mmap.mmap(-1, 64 << 20)
memory.write(os.urandom(1 << 20) * 64)
if os.fork() == 0:
    memory[0]
    sys.stdin.read()
    os._exit(0)
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def tree():
    argv = [sys.executable, "-c", CODE]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout.readline() == "made\n"
        yield made.pid
        made.stdin.close()


def test_memory_that_two_processes_share_is_counted_once(tree):
    found = space.memory_bytes(tree)
    assert 64 << 20 <= found < 120 << 20


def test_what_fits(tree, tmp_path):
    space.check(space.memory_bytes(tree), tmp_path)


def test_what_does_not(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(space, "free_bytes", lambda path: 10 << 20)
    with pytest.raises(
        errors.StoreError, match=r"0\.01 GB free, the worker's memory alone is 0\.\d\d"
    ):
        space.check(space.memory_bytes(tree), tmp_path)


def test_a_file_system_that_says_nothing_refuses_nothing(tree, monkeypatch):
    assert space.free_bytes(pathlib.Path("/nowhere")) is None
    real = os.statvfs("/")
    nothing = os.statvfs_result([0 if i == 2 else value for i, value in enumerate(real)])
    monkeypatch.setattr(os, "statvfs", lambda path: nothing)
    assert space.free_bytes(pathlib.Path("/")) is None
    space.check(space.memory_bytes(tree), pathlib.Path("/"))
