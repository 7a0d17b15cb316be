"""chrek-enter --confined: a program with the privileges of the container's PID 1, and no more."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

from c import container

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
FLAGS = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--mount-proc")
FIELDS = (
    *("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("NoNewPrivs", "Seccomp", "Seccomp_filters", "Umask", "SigBlk", "SigIgn", "SigCgt"),
)

INSTALL = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
for number in map(int, sys.argv[1].split(",")):
    lines = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x00050026), (6, 0, 0, 0x7fff0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
    if libc.prctl(22, 2, program, 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
"""
SWAPOFF = {"x86_64": 168, "aarch64": 225}[os.uname().machine]
ACCT = {"x86_64": 163, "aarch64": 89}[os.uname().machine]
FILTERS = (*container.PYTHON, INSTALL, f"{SWAPOFF},{ACCT}")
USER = ("setpriv", "--reuid=65532", "--regid=65533")


@contextlib.contextmanager
def target(*before: str, script: str = "echo ready; exec sleep 300") -> Iterator[int]:
    """PID 1 of a container, started by a program that executes its arguments."""
    with subprocess.Popen(
        ["unshare", *FLAGS, "--kill-child=KILL", *before, "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        pid = container.children(process.pid)[0]
        try:
            yield pid
        finally:
            # A program before it may have taken its end with unshare's from it.
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def started(
    enter: pathlib.Path, pid: int, *argv: str, options: Sequence[str] = (), **keywords: object
) -> Iterator[subprocess.Popen[str]]:
    pidfd = os.pidfd_open(pid)
    kept = os.open("/", os.O_RDONLY)
    line = [str(enter), "--confined", str(pidfd), *options, "--", *argv]
    try:
        with subprocess.Popen(
            line,
            pass_fds=(pidfd, kept),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **keywords,  # type: ignore[call-overload]
        ) as process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        os.close(pidfd)
        os.close(kept)


def run(
    enter: pathlib.Path, pid: int, *argv: str, options: Sequence[str] = (), **keywords: object
) -> tuple[int, str, str]:
    with started(enter, pid, *argv, options=options, **keywords) as process:
        out, err = process.communicate(timeout=container.PATIENCE_SECONDS)
        return process.returncode, out, err


CONTAINERS: dict[str, tuple[str, ...]] = {
    "root": (),
    "root with few capabilities": ("setpriv", "--bounding-set=-all,+chown,+kill"),
    "user": (*USER, "--clear-groups"),
    "user with groups": (*USER, "--groups=1,2,70000"),
    "user without new privileges": (*USER, "--clear-groups", "--no-new-privs"),
    "user with ambient capabilities": (
        *(*USER, "--clear-groups", "--inh-caps=-all,+net_bind_service,+kill"),
        *("--ambient-caps=-all,+net_bind_service", "--bounding-set=-all,+net_bind_service,+kill"),
    ),
    "root with filters": FILTERS,
    "user with filters": (*FILTERS, *USER, "--clear-groups"),
    "user with filters and no new privileges": (
        *(*FILTERS, *USER, "--clear-groups", "--no-new-privs"),
        *("--bounding-set=-all", "--inh-caps=-all"),
    ),
    "umask": ("sh", "-c", 'umask 027; exec "$@"', "sh"),
}


@pytest.mark.parametrize("before", CONTAINERS.values(), ids=list(CONTAINERS))
def test_privileges_are_those_of_a_child(enter: pathlib.Path, before: tuple[str, ...]) -> None:
    with target(*before) as pid:
        # The shell caught signals.
        container.eventually(lambda: container.comm(pid) == "sleep", "the shell executes sleep")
        code, out, err = run(enter, pid, "cat", "/proc/self/status")
        assert (code, err) == (0, "")
        found = dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)
        for field in FIELDS:
            if field != "Seccomp_filters" or field in found:
                assert found[field].strip() == container.status(pid, field), field


def filters(enter: pathlib.Path, pid: int) -> bytes:
    argv = [enter, "--seccomp", str(pid)]
    return subprocess.run(argv, capture_output=True, check=True).stdout


@pytest.mark.parametrize("before", [FILTERS, (*FILTERS, *USER, "--clear-groups", "--no-new-privs")])
def test_filters_in_their_order(
    release: pathlib.Path, enter: pathlib.Path, before: tuple[str, ...], superuser: None
) -> None:
    with target(*before) as pid, started(enter, pid, "sleep", "60") as sleeping:
        container.eventually(lambda: container.children(sleeping.pid), "it is started")
        child = container.children(sleeping.pid)[0]
        container.eventually(lambda: container.comm(child) == "sleep", "it is the program")
        assert filters(release / "chrek-enter", child) == filters(release / "chrek-enter", pid)


def test_namespaces(enter: pathlib.Path, superuser: None) -> None:
    with target(*USER, "--clear-groups") as pid:
        script = f"for name in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$name; done"
        _, out, _ = run(enter, pid, "sh", "-c", script)
        assert out.split() == [os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES]


def test_nothing_of_the_host_comes_along(enter: pathlib.Path, superuser: None) -> None:
    """No descriptor, no input, no parent, no terminal, no session, no environment but the given."""
    with target() as pid:
        script = "ls /proc/$$/fd; cat; echo $PPID; ps -o sid=,tty= -p $$; env"
        environment = {"PATH": os.environ["PATH"], "A": "b", "ASAN_OPTIONS": "detect_leaks=0"}
        _, out, err = run(enter, pid, "sh", "-c", f"echo $$; {script}", env=environment)
        own, *rest = out.split("\n")
        assert err == ""
        assert rest[:3] == ["0", "1", "2"]
        assert rest[3] == "0"
        assert rest[4].split() == [own, "?"]
        names = {line.partition("=")[0] for line in rest[5:] if line}
        assert names <= {*environment, "PWD", "OLDPWD", "SHLVL", "_"}


def test_root_and_working_directory(
    enter: pathlib.Path, superuser: None, tmp_path: pathlib.Path
) -> None:
    for name in ("usr", "bin", "lib", "lib64", "proc", "srv"):
        (tmp_path / name).mkdir()
    script = (
        f"cd {tmp_path}; for d in usr bin lib lib64; do mount --bind /$d $d; done;"
        "mount -t proc proc proc; exec chroot . sh -c 'cd /srv; echo ready; exec sleep 300'"
    )
    with target(script=script) as pid:
        root = os.stat(f"/proc/{pid}/root")
        code, out, _ = run(enter, pid, "sh", "-c", "stat -c %d:%i / .; ls /")
        assert code == 0
        lines = out.splitlines()
        here = os.stat(tmp_path / "srv")
        assert lines[:2] == [f"{root.st_dev}:{root.st_ino}", f"{here.st_dev}:{here.st_ino}"]
        assert sorted(lines[2:]) == ["bin", "lib", "lib64", "proc", "srv", "usr"]


def test_limits(enter: pathlib.Path, superuser: None) -> None:
    argv = ("prlimit", "--nofile=100:200", "--core=0:0")
    with target(*argv) as pid:
        script = "cat /proc/self/limits /proc/self/oom_score_adj"
        pathlib.Path(f"/proc/{pid}/oom_score_adj").write_text("321")
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        _, out, _ = run(enter, pid, "sh", "-c", script)
        assert out == pathlib.Path(f"/proc/{pid}/limits").read_text() + "321\n"
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_program_is_looked_up_in_the_container(
    enter: pathlib.Path, superuser: None, tmp_path: pathlib.Path
) -> None:
    script = f"mount -t tmpfs x {tmp_path}; printf '#!/bin/sh\\necho inside $*' >{tmp_path}/tool;"
    script += f"chmod 755 {tmp_path}/tool; echo ready; exec sleep 300"
    environment = {"PATH": f"/nowhere:{tmp_path}", "ASAN_OPTIONS": "detect_leaks=0"}
    with target(script=script) as pid:
        assert run(enter, pid, "tool", "a b", env=environment) == (0, "inside a b\n", "")
    with target() as pid:
        code, _, err = run(enter, pid, "tool", env=environment)
        assert (code, err) == (111, "chrek-enter: tool: No such file or directory\n")


def test_a_program_that_only_root_may_run(
    enter: pathlib.Path, superuser: None, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o700)
    tmp_path.chmod(0o755)
    with target(*USER, "--clear-groups") as pid:
        code, _, err = run(enter, pid, str(tmp_path / "tool"))
        assert (code, err) == (111, f"chrek-enter: {tmp_path / 'tool'}: Permission denied\n")


@pytest.mark.parametrize("script", ["exit 0", "exit 42", "kill -TERM $$"])
def test_exit_code(enter: pathlib.Path, superuser: None, script: str) -> None:
    wanted = {"exit 0": 0, "exit 42": 42}.get(script, 128 + signal.SIGTERM)
    with target(*USER, "--clear-groups") as pid:
        assert run(enter, pid, "sh", "-c", script)[0] == wanted


@pytest.mark.parametrize("before", [(), (*USER, "--clear-groups")])
def test_it_dies_with_its_parent(
    enter: pathlib.Path, superuser: None, before: tuple[str, ...]
) -> None:
    with (
        target(*before) as pid,
        started(enter, pid, "sh", "-c", "echo up; exec sleep 60") as process,
    ):
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        (child,) = container.children(process.pid)
        process.kill()
        process.wait()
        container.eventually(lambda: gone(child), "the program is killed")


def gone(pid: int) -> bool:
    try:
        return container.status(pid, "State")[0] in "ZX"
    except OSError:
        return True


def test_nobody_looks_into_it_before_it_is_the_program(
    release: pathlib.Path, superuser: None
) -> None:
    """A root container without CAP_SYS_PTRACE watches for a process whose program it could open."""
    watch = (
        "import os, sys\n"
        "print('ready', flush=True)\n"
        "found = set()\n"
        "while not os.path.exists('/tmp/chrek-stop-watching'):\n"
        "    for name in os.listdir('/proc'):\n"
        "        if name.isdigit() and name != '1':\n"
        "            try:\n"
        "                found.add(os.readlink(f'/proc/{name}/exe'))\n"
        "            except OSError:\n"
        "                continue\n"
        "print(sorted(found), flush=True)\n"
    )
    capabilities = ("setpriv", "--bounding-set=-all,+chown,+setuid,+kill")
    stop = pathlib.Path("/tmp/chrek-stop-watching")
    stop.unlink(missing_ok=True)
    with subprocess.Popen(
        ["unshare", *FLAGS, "--kill-child=KILL", *capabilities, *container.PYTHON, watch],
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        assert watcher.stdout
        assert watcher.stdout.readline() == "ready\n"
        pid = container.children(watcher.pid)[0]
        for _ in range(40):
            assert run(release / "chrek-enter", pid, "sleep", "0.02")[0] == 0
        stop.touch()
        seen = watcher.stdout.readline()
        stop.unlink()
        watcher.kill()
    assert "sleep" in seen or "coreutils" in seen
    assert "chrek-enter" not in seen


def test_a_filter_that_forbids_what_is_needed(enter: pathlib.Path, superuser: None) -> None:
    """Then nothing is run, rather than with more privilege."""
    capset = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
    before = (*container.PYTHON, INSTALL, str(capset))
    with target(*before) as pid:
        code, out, err = run(enter, pid, "echo", "ran")
        assert (code, out, err) == (111, "", "chrek-enter: capset: Function not implemented\n")


def test_a_label(enter: pathlib.Path, superuser: None) -> None:
    """Without the module the label cannot be had, and nothing is run."""
    if pathlib.Path("/sys/kernel/security/lsm").exists():
        pytest.skip("optional: a machine without AppArmor and SELinux is needed")
    with target() as pid:
        code, out, err = run(enter, pid, "echo", "ran", options=["--label", "exec some-profile"])
        assert (code, out) == (111, "")
        assert err.startswith("chrek-enter: self/attr/exec: ")


def test_process_that_has_ended(enter: pathlib.Path, superuser: None) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        pidfd = os.pidfd_open(process.pid)
        process.kill()
    done = subprocess.run(
        [enter, "--confined", str(pidfd), "--", "true"],
        pass_fds=[pidfd],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(pidfd)
    assert done.returncode == 111
    assert done.stderr == "chrek-enter: --confined: no process of this PID namespace\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confined"], "--confined: needs a number"),
        (["--confined", "5"], "--confined: needs -- COMMAND"),
        (["--confined", "5", "--"], "--confined: needs -- COMMAND"),
        (["--confined", "5", "--exec-fd", "0", "--", "x"], "--confined: goes with --cgroup"),
        (["--confined", "5", "--last-pid", "9", "--", "x"], "--confined: goes with --cgroup"),
        (["--confined", "0", "--", "x"], "--confined: no process of this PID namespace"),
        (["--label"], "--label: no such option"),
    ],
)
def test_errors(enter: pathlib.Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [enter, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 111
    assert done.stderr.startswith(f"chrek-enter: {message}")


def test_it_takes_milliseconds(release: pathlib.Path, superuser: None) -> None:
    with target() as pid:
        best = 1.0
        for _ in range(5):
            began = time.monotonic()
            assert run(release / "chrek-enter", pid, "true")[0] == 0
            best = min(best, time.monotonic() - began)
    assert best < 0.1, sys.version
