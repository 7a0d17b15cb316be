"""chrek-enter: joins a container's namespaces and cgroups and runs a program there."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from c import container

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")

DASH = shutil.which("dash") or "/bin/sh"


@pytest.fixture
def target(superuser: None) -> Iterator[int]:
    """PID 1 of a set of new namespaces, as this machine counts."""
    flags = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--mount-proc"]
    with subprocess.Popen(
        ["unshare", *flags, "--kill-child=KILL", "sh", "-c", "echo ready; exec sleep 300"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield container.children(process.pid)[0]
        process.kill()


@contextlib.contextmanager
def opened(path: str | pathlib.Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def run(
    enter: pathlib.Path,
    *options: str,
    fds: Sequence[int] = (),
    pid: int | None = None,
    argv: Sequence[str] = (),
    program: str = DASH,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs chrek-enter with a pidfd of pid, and a program when there is an argv."""
    with contextlib.ExitStack() as stack:
        arguments = list(options)
        passed = list(fds)
        if pid is not None:
            pidfd = os.pidfd_open(pid)
            stack.callback(os.close, pidfd)
            arguments += ["--pidfd", str(pidfd)]
            passed.append(pidfd)
        if argv:
            executable = stack.enter_context(opened(program))
            arguments += ["--exec-fd", str(executable), "--", *argv]
            passed.append(executable)
        return subprocess.run(
            [enter, *arguments],
            capture_output=True,
            text=True,
            pass_fds=passed,
            env=env,
            input="",
            timeout=container.PATIENCE_SECONDS,
            check=False,
        )


def test_joins_every_namespace(enter: pathlib.Path, target: int) -> None:
    script = "for name in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$name; done"
    done = run(enter, pid=target, argv=["sh", "-c", script])
    assert done.stderr == ""
    wanted = [os.readlink(f"/proc/{target}/ns/{name}") for name in NAMESPACES]
    assert done.stdout.split() == wanted
    mine = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert not set(wanted) & set(mine)


def test_stays_out_of_the_ipc_namespace_when_told(enter: pathlib.Path, target: int) -> None:
    """CRIU dumps a namespace only when it is another one than its own."""
    script = "for name in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$name; done"
    done = run(enter, "--own-ipc", "1", pid=target, argv=["sh", "-c", script])
    assert done.stderr == ""
    wanted = [os.readlink(f"/proc/{target}/ns/{name}") for name in NAMESPACES]
    wanted[NAMESPACES.index("ipc")] = os.readlink("/proc/self/ns/ipc")
    assert done.stdout.split() == wanted


def test_next_process_gets_the_next_pid(enter: pathlib.Path, target: int) -> None:
    assert run(enter, "--last-pid", "9999", pid=target).returncode == 0
    done = run(enter, pid=target, argv=["sh", "-c", "echo $$"])
    assert done.stdout == "10000\n"
    # In one go, the program's own first child is the next.
    done = run(enter, "--last-pid", "19999", pid=target, argv=["sh", "-c", "sh -c 'echo $$'; :"])
    assert done.stdout == "20000\n"


def test_last_pid_is_the_targets_only(enter: pathlib.Path, target: int) -> None:
    before = int(pathlib.Path("/proc/sys/kernel/ns_last_pid").read_text())
    run(enter, "--last-pid", str(before + 100000), pid=target)
    after = int(pathlib.Path("/proc/sys/kernel/ns_last_pid").read_text())
    assert after < before + 50000 or after < before


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_code(enter: pathlib.Path, target: int, code: int) -> None:
    assert run(enter, pid=target, argv=["sh", "-c", f"exit {code}"]).returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_exit_code_after_a_signal(enter: pathlib.Path, target: int, number: signal.Signals) -> None:
    script = f"ulimit -c 0; kill -{int(number)} $$"
    assert run(enter, pid=target, argv=["sh", "-c", script]).returncode == 128 + number


def test_exit_code_when_children_are_ignored(enter: pathlib.Path) -> None:
    with opened(DASH) as executable:
        done = subprocess.run(
            [enter, "--exec-fd", str(executable), "--", "sh", "-c", "exit 42"],
            pass_fds=[executable],
            preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
            check=False,
        )
    assert done.returncode == 42


def test_program_that_the_container_does_not_have(
    release: pathlib.Path, enter: pathlib.Path, superuser: None
) -> None:
    """And nothing of the container is run: it has no file at all."""
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0\n"
        "os.chdir('/mnt')\n"
        "pivot_root = {'x86_64': 155, 'aarch64': 41}[os.uname().machine]\n"
        "assert libc.syscall(pivot_root, b'.', b'.') == 0\n"
        "assert libc.umount2(b'.', 2) == 0\n"
        "sys.stdin.read()\n"
    )
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
    with subprocess.Popen([*unshare, *container.PYTHON, script], stdin=subprocess.PIPE) as process:
        container.eventually(lambda: container.children(process.pid), "unshare forks")
        pid = container.children(process.pid)[0]
        container.eventually(
            lambda: not os.path.exists(f"/proc/{pid}/root/bin"), "the root is empty"
        )
        init = str(release / "chrek-init")
        done = run(enter, pid=pid, argv=["any name", "--version"], program=init)
        assert (done.returncode, done.stdout) == (0, "chrek-init 0.2.0\n")
        process.kill()


def test_environment_and_descriptors(enter: pathlib.Path, target: int) -> None:
    """The environment as it is, the inherited descriptors, and none of the helper's own."""
    with opened("/dev/null") as kept, opened("/dev/null", os.O_WRONLY) as cgroup:
        env = {"A": "b c", "EMPTY": "", "ASAN_OPTIONS": os.environ["ASAN_OPTIONS"]}
        done = run(
            enter,
            "--cgroup",
            str(cgroup),
            "--last-pid",
            "500",
            fds=[kept, cgroup],
            pid=target,
            argv=["sh", "-c", "env; echo; ls /proc/$$/fd"],
            env=env,
        )
    # What dash adds itself is PWD.
    variables, _, fds = done.stdout.partition("\n\n")
    assert {"A=b c", "EMPTY="} <= set(variables.split("\n"))
    assert {line.split("=")[0] for line in variables.split("\n")} <= {*env, "PWD", "_"}
    assert sorted(map(int, fds.split())) == [0, 1, 2, kept]


def test_parent_holds_nothing_open(enter: pathlib.Path, superuser: None) -> None:
    """An end of file must come when the program closes its end, not when its parent does."""
    reading, writing = os.pipe()
    script = f"import os, time; os.close({writing}); time.sleep(60)"
    with opened(sys.executable) as program, os.fdopen(reading, "rb") as stream:
        arguments = ["--exec-fd", str(program), "--", *container.PYTHON, script]
        with subprocess.Popen([enter, *arguments], pass_fds=[program, writing]) as process:
            os.close(writing)
            ready, _, _ = select.select([stream], [], [], container.PATIENCE_SECONDS)
            assert ready, "somebody else holds the pipe open"
            assert process.poll() is None
            process.kill()


@pytest.mark.parametrize("joined", [False, True])
def test_child_dies_with_its_parent(enter: pathlib.Path, target: int, joined: bool) -> None:
    pidfd = os.pidfd_open(target)
    flags = ["--pidfd", str(pidfd)] if joined else []
    with (
        opened(DASH) as executable,
        subprocess.Popen(
            [
                enter,
                *flags,
                "--exec-fd",
                str(executable),
                "--",
                "sh",
                "-c",
                "echo up; exec sleep 60",
            ],
            pass_fds=[pidfd, executable],
            stdout=subprocess.PIPE,
        ) as process,
    ):
        os.close(pidfd)
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        child = container.children(process.pid)[0]
        process.kill()
        process.wait()
        container.eventually(lambda: not alive(child), "the child is killed")


def alive(pid: int) -> bool:
    try:
        return container.status(pid, "State")[0] not in "ZX"
    except OSError:
        return False


def test_dies_with_its_creator(enter: pathlib.Path, superuser: None) -> None:
    """The agent's death leaves no criu behind."""
    with opened("/bin/sleep") as executable:
        script = f"{enter} --exec-fd {executable} -- sleep 60 & echo $!; read line"
        with subprocess.Popen(
            ["sh", "-c", script],
            pass_fds=[executable],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as creator:
            assert creator.stdout
            helper = int(creator.stdout.readline())
            container.eventually(lambda: container.children(helper), "the program runs")
            program = container.children(helper)[0]
            container.eventually(lambda: container.comm(program) == "sleep", "the program runs")
            creator.kill()
            creator.wait()
            container.eventually(lambda: not alive(helper) and not alive(program), "both die")


def await_empty(path: pathlib.Path) -> None:
    container.eventually(lambda: not (path / "cgroup.procs").read_text(), "the cgroup is empty")


@pytest.fixture
def cgroup(superuser: None) -> Iterator[pathlib.Path]:
    """A new cgroup, in whichever hierarchy this machine lets one make."""
    name = f"chrek-test-{os.getpid()}"
    for base in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"):
        path = pathlib.Path(base, name)
        if (path.parent / "cgroup.procs").exists():
            with contextlib.suppress(OSError):
                path.mkdir()
                yield path
                await_empty(path)
                path.rmdir()
                return
    pytest.skip("optional: no cgroup hierarchy to make a cgroup in")


def test_joins_cgroups(enter: pathlib.Path, target: int, cgroup: pathlib.Path) -> None:
    with opened(cgroup / "cgroup.procs", os.O_WRONLY) as procs:
        # From the outside: the joined cgroup namespace hides what is above its root.
        with subprocess.Popen(
            [enter, "--cgroup", str(procs), "--exec-fd", str(procs), "--", "x"],
            pass_fds=[procs],
            stderr=subprocess.DEVNULL,
        ) as failing:
            pass
        assert failing.returncode == 111, "cgroup.procs is no program"
        done = run(
            enter,
            "--cgroup",
            str(procs),
            fds=[procs],
            argv=["sh", "-c", "cat /proc/self/cgroup"],
        )
    assert f"/{cgroup.name}\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: chrek-enter"),
        (["--pidfd"], "--pidfd: needs a number"),
        (["--pidfd", "x"], "--pidfd: not a number"),
        (["--pidfd", "-1"], "--pidfd: not a number"),
        (["--last-pid", "99999999999"], "--last-pid: not a number"),
        (["--nonsense", "1"], "--nonsense: no such option"),
        (["--cgroup", "1"] * 33, "--cgroup: given too often"),
        (["--exec-fd", "0"], "--exec-fd: needs -- ARGV0"),
        (["--exec-fd", "0", "--"], "--exec-fd: needs -- ARGV0"),
        (["--", "x"], "--: needs --exec-fd"),
        (["--pidfd", "99"], "--pidfd: Bad file descriptor"),
        (["--cgroup", "99"], "--cgroup: Bad file descriptor"),
        (["--exec-fd", "99", "--", "x"], "--exec-fd: Bad file descriptor"),
        (["--pidfd", "0"], "setns: Invalid argument"),
        (["--cgroup", "0"], "join cgroup: Bad file descriptor"),
        (["--exec-fd", "0", "--", "prog"], "prog: Permission denied"),
        (["--seccomp", "0"], "PTRACE_SEIZE: No such process"),
        (["--seccomp", "x"], "--seccomp: not a number"),
    ],
)
def test_errors(enter: pathlib.Path, arguments: list[str], message: str) -> None:
    done = run(enter, *arguments)
    assert done.returncode == 111
    assert done.stdout == ""
    assert done.stderr.startswith(f"chrek-enter: {message}")
    assert done.stderr.count("\n") == 1


def test_target_that_has_ended(enter: pathlib.Path, superuser: None) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        pidfd = os.pidfd_open(process.pid)
        process.kill()
    done = subprocess.run(
        [enter, "--pidfd", str(pidfd)], pass_fds=[pidfd], capture_output=True, check=False
    )
    os.close(pidfd)
    assert done.returncode == 111
    assert done.stderr == b"chrek-enter: setns: No such process\n"
