"""CRIU's command line, its log, and a program in its place that behaves badly."""

import os
import pathlib
import time

import pytest

from chrek import errors, names, process
from chrek.criu import messages_pb2 as pb
from chrek.criu import service


def test_the_command_line_of_chrek_enter():
    enter = str(process.LIBEXEC / "chrek-enter")
    assert service.enter_argv(7) == [enter, "--pidfd", "7"]
    assert service.enter_argv(
        7, cgroup_fds=[8, 9], last_pid=10000, exec_fd=11, argv=["criu", "-x"]
    ) == [
        *(enter, "--pidfd", "7", "--cgroup", "8", "--cgroup", "9"),
        *("--last-pid", "10000", "--exec-fd", "11", "--", "criu", "-x"),
    ]


def test_the_command_line_for_a_program_of_the_container():
    enter = str(process.LIBEXEC / "chrek-enter")
    assert service.confined_argv(7, ["curl", "-f"]) == [
        enter,
        "--confined",
        "7",
        "--",
        "curl",
        "-f",
    ]
    assert service.confined_argv(7, ["x"], cgroup_fds=[8], label="exec p") == [
        *(enter, "--confined", "7", "--cgroup", "8", "--label", "exec p", "--", "x")
    ]


LOG = """\
(00.001) Version: 4.2
(00.002) Error (criu/tun.c:85): tun: Unable to create tun: No such file or directory
(00.003) a
(00.004) b
(00.005) c
(00.006) d
(00.007) e
(00.008) f
(00.009) 10001: Error (criu/files-reg.c:12): File var/tmp/log has bad size 7
(00.010) g
(00.011) Error (criu/cr-restore.c:99): Restoring FAILED.
""" + "".join(f"(00.1{n:02}) end {n}\n" for n in range(20))


def test_the_extract_of_a_log(tmp_path):
    (tmp_path / "log").write_text(LOG)
    lines = service.log_extract(tmp_path / "log").splitlines()
    assert lines[0] == "(00.001) Version: 4.2"
    assert "(00.003) a" not in lines
    assert "(00.004) b" in lines
    assert lines[-10:] == LOG.splitlines()[-10:]
    assert service._first_error("\n".join(lines)) == (
        "10001: Error (criu/files-reg.c:12): File var/tmp/log has bad size 7"
    )
    (tmp_path / "log").write_bytes(b"\xff Error\n")
    assert "Error" in service.log_extract(tmp_path / "log")
    assert service.log_extract(tmp_path / "absent") == ""
    assert service._first_error("all is well") == ""


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle whose chrek-enter is a program that a test writes."""
    monkeypatch.setattr(process, "LIBEXEC", tmp_path)
    for name in ("criu/lib", "criu/plugins"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("criu/criu", "criu/ld.so", "criu-shim.so"):
        (tmp_path / name).touch()

    def write(script):
        path = tmp_path / "chrek-enter"
        path.write_text(f"#!/usr/bin/env python3\n{PREAMBLE}\n{script}\n")
        path.chmod(0o755)

    return write


PREAMBLE = """
import os, socket, sys, time
fd = int(sys.argv[sys.argv.index("swrk") + 1])
criu = socket.socket(fileno=fd)
def notify(script):
    criu.send(bytes([0x08, 6, 0x10, 1, 0x2a, 2 + len(script), 0x0a, len(script)]) + script)
    return criu.recv(1000) == bytes([0x08, 6, 0x18, 1])
def end(success):
    criu.send(bytes([0x08, 1, 0x10, success]))
request = criu.recv(10000)
"""


@pytest.fixture
def run(tmp_path):
    def run(notified=lambda script, pid: None, seconds=5.0, **options):
        images_fd = os.open(tmp_path, os.O_RDONLY)
        pidfd = os.pidfd_open(os.getpid())
        environment = {**service.ENVIRONMENT, "PATH": os.environ["PATH"]}
        try:
            with (
                pytest.MonkeyPatch.context() as patch,
                # A script needs an interpreter, which CRIU itself does not.
                _setting(patch, service, "ENVIRONMENT", environment),
                service.Service(
                    pidfd,
                    images_fd,
                    log_path=tmp_path / "dump.log",
                    deadline=time.monotonic() + seconds,
                ) as criu,
            ):
                criu.dump(7, notified, **options)
        finally:
            os.close(images_fd)
            os.close(pidfd)

    return run


class _setting:  # noqa: N801 - a function in spirit
    def __init__(self, patch, target, name, value):
        patch.setattr(target, name, value)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_dump_that_succeeds(bundle, run):
    bundle('assert notify(b"pre-dump") and notify(b"post-dump"); end(True)')
    told = []
    run(lambda script, pid: told.append(script))
    assert told == ["pre-dump", "post-dump"]


def test_what_is_asked_of_criu(bundle, run, tmp_path):
    bundle(f'open({str(tmp_path / "request")!r}, "wb").write(request); end(True)')
    run()
    request = pb.Request.FromString((tmp_path / "request").read_bytes())
    assert request.type == pb.DUMP
    opts = request.opts
    assert (opts.pid, opts.log_file, opts.notify_scripts) == (7, "dump.log", True)
    assert opts.images_dir.startswith("/proc/self/fd/")
    assert not opts.leave_running
    assert 1 <= opts.timeout <= 5
    assert opts.manage_cgroups_mode == pb.IGNORE


def test_a_tree_that_is_left_running(bundle, run, tmp_path):
    bundle(f'open({str(tmp_path / "request")!r}, "wb").write(request); end(True)')
    run(leave_running=True)
    opts = pb.Request.FromString((tmp_path / "request").read_bytes()).opts
    assert opts.leave_running
    # Its connections are kept by CRIU's own means, not closed.
    assert opts.tcp_established
    assert not opts.tcp_close


def test_what_a_notification_raises_refuses_it(bundle, run):
    bundle('assert not notify(b"post-dump"); end(False)')

    def refuse(script, pid):
        raise errors.StoreError("full")

    with pytest.raises(errors.StoreError, match="full"):
        run(refuse)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("end(False)", "criu dump exited with status 0: no message"),
        ("sys.exit(1)", "criu dump exited with status 1: no message"),
        ('sys.exit("chrek-enter: setns: No such process")', "setns: No such process"),
        ("os.kill(os.getpid(), 9)", "criu dump was killed by SIGKILL"),
        ('criu.send(b"garbage")', "sent no valid message"),
        ('criu.send(b"")', "criu dump exited with status 0"),
    ],
)
def test_a_dump_that_fails(bundle, run, script, message):
    bundle(script)
    with pytest.raises(errors.CriuError) as caught:
        run()
    assert message in str(caught.value)


def test_the_log_says_why(bundle, run, tmp_path):
    bundle("end(False); sys.exit(1)")
    (tmp_path / "dump.log").write_text(LOG)
    with pytest.raises(errors.CriuError, match="bad size 7") as caught:
        run()
    assert "Restoring FAILED" in caught.value.log
    assert caught.value.argv[0].endswith("chrek-enter")


def test_a_dump_that_hangs_is_ended_in_time(bundle, run):
    bundle("time.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(errors.CriuError, match="did not end in time") as caught:
        run(seconds=0.5)
    assert caught.value.reason == names.Reason.DUMP_TIMEOUT
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("missing", ["criu/criu", "criu/ld.so", "criu-shim.so", "chrek-enter"])
def test_an_incomplete_image_is_named(bundle, run, tmp_path, missing):
    bundle("end(True)")
    (tmp_path / missing).unlink()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(errors.ToolError, match=f"{pathlib.Path(missing).name}: not found"):
        run()
    assert len(os.listdir("/proc/self/fd")) == before


def test_filters_of_a_process(bundle, tmp_path):
    path = tmp_path / "chrek-enter"
    one, two = (f"\\00{n}" + "\\000" * 3 for n in (1, 2))
    path.write_text(f"#!/bin/sh\nprintf '{two}{one}12345678{two}1234567887654321'\n")
    path.chmod(0o755)
    assert service.seccomp_filters(1) == [b"12345678", b"1234567887654321"]
    path.write_text("#!/bin/sh\nprintf '\\0\\0\\0\\0'\n")
    assert service.seccomp_filters(1) == []
