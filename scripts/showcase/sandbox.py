"""A container without a container runtime: namespaces, an overlay root, chrek-init as PID 1.

Whoever starts one plays the agent on the socket, so that captures and restores need no cluster.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chrek import names, process, procfs
from chrek.criu import service

CACHE = pathlib.Path(os.environ.get("CHREK_CACHE", pathlib.Path.home() / ".cache/chrek"))
ROOT = CACHE / "node/root"
"""A Debian root with python3 in it; `scripts/cluster` makes it."""

_START = r"""
set -e
cd "$DIRECTORY"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$PWD/upper,workdir=$PWD/work" root
cd root
mkdir -p proc dev sys chrek old
mount -t proc proc proc
mount -t tmpfs dev dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mkdir dev/shm
mount -t tmpfs -o mode=1777 shm dev/shm
mkdir dev/pts dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t mqueue mqueue dev/mqueue
mount --bind "$DIRECTORY/chrek" chrek
ip link set lo up
if [ -n "$ADDRESSES" ]; then
    ip link add eth0 type veth peer name wire
    ip link set wire up
    ip link set eth0 up
    for address in $ADDRESSES; do ip address add "$address" dev eth0 nodad; done
    ip route add default dev eth0
    ip -6 route add default dev eth0
fi
hostname "$HOSTNAME"
eval "$PREPARE"
pivot_root . old
umount -l /old
rmdir /old
unset DIRECTORY LOWER ADDRESSES PREPARE
exec "$@" </dev/null
"""


class Container:
    """One container; PID 1 is chrek-init."""

    def __init__(
        self,
        directory: pathlib.Path,
        name: str,
        *init_argv: str,
        user: int = 0,
        before: Sequence[str] = (),
        groups: Sequence[int] = (),
        addresses: Sequence[str] = (),
        boot_seconds: int = 0,
        prepare: str = "",
        lower: pathlib.Path = ROOT,
    ) -> None:
        """Start one.

        Args:
            before: a program in the container that executes its arguments.
            groups: supplementary groups of a user that is not root.
            addresses: of the pod, each with its prefix length.
            boot_seconds: how much longer than this machine the container's node has run.
            prepare: a line for the shell, run in what will be the root directory.
            lower: the root file system that it has a changed view of.
        """
        argv = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork"]
        if boot_seconds:
            argv += ["--time", f"--boottime={boot_seconds}", f"--monotonic={boot_seconds}"]
        argv += ["--propagation", "private", "sh", "-c", _START, "sh"]
        if user:
            argv += ["setpriv", f"--reuid={user}", f"--regid={user}"]
            argv += [f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"]
        argv += [*before, "/chrek/chrek-init", *init_argv]
        self._launch(
            directory,
            argv,
            {
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME": name,
                "DIRECTORY": str(directory),
                "LOWER": str(lower),
                "ADDRESSES": " ".join(addresses),
                "PREPARE": prepare,
            },
        )

    def _launch(
        self,
        directory: pathlib.Path,
        argv: Sequence[str],
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Run what makes the container, as its only child, and wait until chrek-init calls.

        Args:
            directory: gets the folders `upper`, `work` and `root`, for whoever makes the root, and
                `chrek`, with chrek-init and the agent's socket.
        """
        self.directory = directory
        for part in ("upper", "work", "root", "chrek"):
            (directory / part).mkdir(parents=True)
        shutil.copy(process.LIBEXEC / "chrek-init", directory / "chrek/chrek-init")
        listener = socket.socket(socket.AF_UNIX)
        folder = os.open(directory / "chrek", os.O_PATH | os.O_DIRECTORY)
        # An address has 107 bytes, and folders of tests have long names.
        listener.bind(f"/proc/self/fd/{folder}/agent.sock")
        os.close(folder)
        (directory / "chrek/agent.sock").chmod(0o666)
        listener.listen()
        listener.settimeout(10)
        self._unshare = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=pass_fds,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.agent, _ = listener.accept()
        except TimeoutError as err:
            self.stop()
            raise AssertionError(f"chrek-init never called: {self.output}") from err
        finally:
            listener.close()
        self.agent.settimeout(10)
        self._lines = self.agent.makefile("r")
        self.pid = procfs.children(self._unshare.pid)[0]

    def _read(self) -> None:
        assert self._unshare.stdout
        for line in self._unshare.stdout:
            self.output += line.decode(errors="replace")

    def receive(self) -> str:
        return self._lines.readline().rstrip("\n")

    def send(self, line: str) -> None:
        self.agent.sendall(line.encode() + b"\n")

    def child(self, nspid: int) -> int:
        """Host pid of a child of PID 1."""
        found = [p for p in procfs.children(self.pid) if procfs.status(p).nspids[-1] == nspid]
        assert found, f"no child {nspid} of PID 1"
        return found[0]

    def start_worker(self, order: str = "capture") -> int:
        """Have chrek-init start its worker, as the agent does; its host pid.

        Args:
            order: `capture` to one that runs with --source, else `serve` with a Reason.
        """
        hello = self.receive()
        assert hello == ("chrek 1 source" if order == "capture" else "chrek 1 start"), hello
        pidfd = os.pidfd_open(self.pid)
        try:
            service.set_last_pid(pidfd, names.FIRST_WORKER_PID)
        finally:
            os.close(pidfd)
        self.send(order)
        word, number = self.receive().split()
        assert word == "started", word
        assert int(number) > names.FIRST_WORKER_PID
        return self.child(int(number))

    def request(self, text: str, port: int = 8000) -> str:
        """Ask the worker over TCP inside the container's network namespace."""
        code = (
            "import socket,sys\n"
            f"s=socket.create_connection(('127.0.0.1',{port}),5)\n"
            f"s.sendall({text!r}.encode()+b'\\n')\n"
            "sys.stdout.write(s.makefile().readline())"
        )
        argv = ["nsenter", "-t", str(self.pid), "-n", "python3", "-c", code]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
        assert done.returncode == 0, done.stderr + self.output
        return done.stdout.strip()

    def wait_for(self, text: str, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < deadline, f"{text!r} not in {self.output!r}"
            time.sleep(0.01)

    def wait(self, seconds: float = 10) -> int:
        """Exit code of PID 1."""
        code = self._unshare.wait(timeout=seconds)
        self._reader.join(timeout=5)
        return code

    def stop(self) -> None:
        if self._unshare.poll() is None:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(procfs.children(self._unshare.pid)[0], signal.SIGKILL)
            self._unshare.kill()
            self._unshare.wait()
        with contextlib.suppress(AttributeError):
            self._lines.close()
            self.agent.close()
        if self._unshare.stdout:
            self._reader.join(timeout=5)
            self._unshare.stdout.close()


@contextlib.contextmanager
def tmpfs(path: pathlib.Path, *, size: str = "50%") -> Iterator[pathlib.Path]:
    """A file system in memory, in a new directory."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


@contextlib.contextmanager
def container(
    directory: pathlib.Path,
    name: str,
    *init_argv: str,
    user: int = 0,
    before: Sequence[str] = (),
    **more: Any,
) -> Iterator[Container]:
    made = Container(directory / name, name, *init_argv, user=user, before=before, **more)
    try:
        yield made
    finally:
        made.stop()
