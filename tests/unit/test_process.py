"""Programs end, fail or are missing; each is told apart."""

import os
import subprocess
import time

import pytest

from chrek import errors, process


def test_what_a_program_writes_is_returned():
    assert process.run(["printf", "%s", "a\\nb $HOME"]) == b"a\\nb $HOME"
    assert process.run(["env"], env={"ONE": "1"}) == b"ONE=1\n"
    assert process.run(["cat"]) == b""


def test_descriptors_are_passed():
    read, write = os.pipe()
    try:
        argv = ["sh", "-c", f"echo through >/proc/self/fd/{write}"]
        process.run(argv, pass_fds=[write])
        assert os.read(read, 100) == b"through\n"
        with pytest.raises(errors.ToolError):
            process.run(argv)
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("script", "message", "code"),
    [
        ("echo out; echo why >&2; exit 3", "sh exited with status 3: why", 3),
        ("kill -9 $$", "sh was killed by SIGKILL: ", -9),
        ("printf '\\377' >&2; exit 1", "sh exited with status 1: \ufffd", 1),
    ],
)
def test_a_failure_says_what_the_program_said(script, message, code):
    with pytest.raises(errors.ToolError) as caught:
        process.run(["sh", "-c", script])
    assert str(caught.value) == message
    assert caught.value.returncode == code
    assert caught.value.argv == ["sh", "-c", script]


def test_much_output_is_cut_at_its_end():
    script = "yes x | head -n 10000 >&2; echo last >&2; exit 1"
    with pytest.raises(errors.ToolError) as caught:
        process.run(["sh", "-c", script])
    assert len(str(caught.value)) < 600
    assert len(caught.value.log) <= 4096
    assert caught.value.log.endswith("last\n")


def test_a_program_that_hangs_is_ended():
    with pytest.raises(errors.ToolError, match=r"sleep: no end after 0\.05 seconds"):
        process.run(["sleep", "60"], timeout_seconds=0.05)


@pytest.mark.parametrize("start", [process.run, process.start])
def test_a_program_that_cannot_be_started(tmp_path, start):
    with pytest.raises(errors.ToolError, match="absent: not found"):
        start([str(tmp_path / "absent")])
    (tmp_path / "text").write_text("not a program")
    with pytest.raises(errors.ToolError, match="text: Permission denied"):
        start([str(tmp_path / "text")])
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(errors.ToolError, match="text: Exec format error"):
        start([str(tmp_path / "text")])


def test_a_program_that_the_caller_ends():
    with process.start(["sh", "-c", "echo why >&2; sleep 60"]) as started:
        assert started.stderr.readline() == b"why\n"
        started.kill()
        assert started.wait() == -9
    with process.start(["true"], stderr=subprocess.DEVNULL) as started:
        assert started.wait() == 0


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exited with status 0"),
        (75, "exited with status 75"),
        (-15, "was killed by SIGTERM"),
        (-63, "was killed by signal 63"),
    ],
)
def test_describe(code, text):
    assert process.describe(code) == text


TAILS = {
    "exit 3": (3, b""),
    "echo out; echo err >&2": (0, b"out\nerr\n"),
    "seq 100000": (0, b"99998\n99999\n100000\n"),
    "kill -15 $$": (-15, b""),
    # What it leaves behind keeps its output open.
    "echo up; sleep 60 & exit 4": (4, b"up\n"),
    "exec >&- 2>&-; sleep 0.2; exit 5": (5, b""),
}


@pytest.mark.parametrize(("script", "expected"), TAILS.items(), ids=list(TAILS))
def test_the_end_of_what_is_written(script, expected):
    code, output = process.tail(["sh", "-c", script], timeout_seconds=5, most_bytes=64)
    assert code == expected[0]
    assert output.endswith(expected[1])
    assert len(output) <= 64


@pytest.mark.parametrize("script", ["sleep 60", "yes", "sleep 60 & wait"])
def test_the_end_comes_in_time(script):
    begin = time.monotonic()
    code, output = process.tail(["sh", "-c", script], timeout_seconds=0.2, most_bytes=64)
    assert code is None
    assert len(output) <= 64
    assert time.monotonic() - begin < 2


def test_a_tail_of_nothing(tmp_path):
    with pytest.raises(errors.ToolError, match="not found"):
        process.tail([str(tmp_path / "absent")], timeout_seconds=1)
