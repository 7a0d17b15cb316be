"""What is asked of chrek-enter; what comes of it is in tests/system/test_serving.py."""

import contextlib
import os
import subprocess

import pytest

from chrek import cgroups, errors, inside, process, procfs


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A process in the place of PID 1, and a program in the place of chrek-enter."""
    monkeypatch.setattr(process, "LIBEXEC", tmp_path)
    monkeypatch.setattr(cgroups, "opened", lambda pid: contextlib.nullcontext([]))
    environment = {"PATH": "/usr/bin:/bin", "A": "b=c", "EMPTY": ""}

    def write(script):
        path = tmp_path / "chrek-enter"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    with subprocess.Popen(["sleep", "60"], env=environment) as made:
        pidfd = os.pidfd_open(made.pid)

        def run(script, *argv, seconds=5.0):
            write(script)
            inside.run(made.pid, pidfd, argv or ("tool", "an argument"), timeout_seconds=seconds)

        yield run
        os.close(pidfd)
        made.kill()


def test_a_program_and_its_environment(container, tmp_path):
    container(f'printf "%s|" "$@" >{tmp_path}/argv; env >{tmp_path}/env')
    words = (tmp_path / "argv").read_text().split("|")[:-1]
    assert words[0] == "--confined"
    assert words[1].isdecimal()
    assert words[-3:] == ["--", "tool", "an argument"]
    found = set((tmp_path / "env").read_text().splitlines())
    assert {"A=b=c", "EMPTY=", "PATH=/usr/bin:/bin"} <= found
    assert not {line for line in found if line.startswith("HOME=")}


FAILURES = {
    "exit 3": "tool: exited with status 3",
    "echo why >&2; exit 111": "tool: exited with status 111: why",
    "exit 143": "tool: was killed by SIGTERM",
    "kill -9 $$": "tool: was killed by SIGKILL",
    "echo so far; exec sleep 60": "tool: no end after 0.3 seconds: so far",
    "yes": "tool: no end after 0.3 seconds: ",
}


@pytest.mark.parametrize(("script", "message"), FAILURES.items(), ids=list(FAILURES))
def test_a_program_that_fails(container, script, message):
    with pytest.raises(errors.ToolError) as caught:
        container(script, seconds=0.3)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 1000


def test_a_label(container, tmp_path, monkeypatch):
    script = f'printf "%s|" "$@" >{tmp_path}/argv'
    monkeypatch.setattr(procfs, "lsm_label", lambda pid: "a-profile")
    for apparmor, label in ((True, "exec a-profile"), (False, "a-profile")):
        monkeypatch.setattr(procfs, "uses_apparmor", lambda pid, answer=apparmor: answer)
        container(script)
        assert f"|--label|{label}|--|tool|" in (tmp_path / "argv").read_text()


def test_a_container_with_its_own_user_namespace(container, monkeypatch):
    monkeypatch.setattr(procfs, "namespace", lambda pid, kind: pid)
    with pytest.raises(errors.UnsupportedError, match="user namespace"):
        container("exit 0")
