"""A container of the machine's own root file system, with chrek-init as PID 1."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator

from chrek import errors, names, process, procfs
from chrek.criu import service
from chrek.standalone import place, records, starter

START_SECONDS = 30
ANSWER_SECONDS = 10
ROOT_PID = names.FIRST_WORKER_PID + 1
_PARTS = ("upper", "work", "root", "chrek")
_HINT = (
    "the line above says why; overlayfs wants a local file system below --state, and a directory "
    "that the program needs of another file system can be named with --volume"
)


@contextlib.contextmanager
def listening(folder: pathlib.Path, name: str) -> Iterator[socket.socket]:
    """A socket in a folder, however long its path is; gone afterwards."""
    path = folder / name
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as made, _short(folder) as short:
        made.bind(f"{short}/{name}")
        path.chmod(0o600)
        made.listen()
        try:
            yield made
        finally:
            path.unlink(missing_ok=True)


def connected(folder: pathlib.Path, name: str) -> socket.socket:
    """A connection to such a socket.

    Raises:
        OSError: nobody is there.
    """
    made = socket.socket(socket.AF_UNIX)
    try:
        with _short(folder) as short:
            made.connect(f"{short}/{name}")
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def _short(folder: pathlib.Path) -> Iterator[str]:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


class Streams:
    """Pipes between this program's standard streams and a container's.

    CRIU dumps no terminal, and a restored program has the pipes of its new container.
    """

    def __init__(self) -> None:
        self.inside: list[int] = []
        self._outside: list[int] = []
        for number in range(3):
            ends = os.pipe()
            self.inside.append(ends[0] if number == 0 else ends[1])
            self._outside.append(ends[1] if number == 0 else ends[0])
        self._threads: list[threading.Thread] = []

    def started(self) -> None:
        """The container has its ends; from now on bytes flow."""
        for fd in self.inside:
            os.close(fd)
        self.inside = []
        pairs = [(0, self._outside[0]), (self._outside[1], 1), (self._outside[2], 2)]
        for source, target in pairs:
            thread = threading.Thread(target=_pump, args=(source, target), daemon=True)
            thread.start()
            self._threads.append(thread)

    def drain(self) -> None:
        """Wait for what the container has written; what it left behind cannot hold this up."""
        for thread in self._threads[1:]:
            thread.join(timeout=2)

    def close(self) -> None:
        """Of a container that was not made."""
        for fd in self.inside + ([] if self._threads else self._outside):
            os.close(fd)
        self.inside = []


def _pump(source: int, target: int) -> None:
    """Copy to the end, and let go of the pipe's end; the other is a standard stream's."""
    try:
        while data := os.read(source, 1 << 16):
            while data:
                data = data[os.write(target, data) :]
    except OSError:
        pass  # A terminal in the background, or nobody reads any more.
    finally:
        os.close(max(source, target))


class Container:
    """One; it ends with this program at the latest.

    Attributes:
        pid: of PID 1, on the machine.
        agent: the connection of chrek-init, on which this program plays the agent.
    """

    def __init__(self, folder: pathlib.Path, run: records.Run, place_: place.Place) -> None:
        """Start one, of the main thread.

        Raises:
            UnsupportedError: it could not be made.
        """
        _renew(folder)
        streams = Streams()
        wanted = starter.Wanted(
            directory=str(folder),
            place=place_,
            own=["network"] if run.own_network else [],
            cwd=run.cwd,
            argv=[names.INIT_PATH, "--wait", str(START_SECONDS), "--", *run.command],
            environment=run.environment,
            stdio=streams.inside,
        )
        try:
            with (
                starter.command(wanted) as (argv, memory),
                listening(folder / "chrek", names.SOCKET_NAME) as listener,
            ):
                self._starter = process.start(
                    argv,
                    pass_fds=[memory, *streams.inside],
                    env=dict(os.environ),
                    stderr=streams.inside[2],
                )
                self.ended = os.pidfd_open(self._starter.pid)
                streams.started()
                self._streams = streams
                self.agent = self._accept(listener)
        except errors.ChrekError:
            streams.close()
            raise
        self._buffer = b""
        self.pid = procfs.children(self._starter.pid)[0]
        self._pidfd = os.pidfd_open(self.pid)

    def _accept(self, listener: socket.socket) -> socket.socket:
        waited = [listener.fileno(), self.ended]
        ready, _, _ = select.select(waited, [], [], START_SECONDS)
        if listener.fileno() not in ready:
            self._starter.kill()
            self._starter.wait()
            self._streams.drain()
            raise errors.UnsupportedError("the container was not made", hint=_HINT)
        found, _ = listener.accept()
        found.settimeout(ANSWER_SECONDS)
        return found

    def receive(self) -> str:
        """The next line of chrek-init; empty when it said no more."""
        while b"\n" not in self._buffer:
            try:
                data = self.agent.recv(4096)
            except OSError:
                data = b""
            if not data:
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("ascii", "replace")

    def send(self, *words: str) -> None:
        """A line to chrek-init: printable, and short enough for it."""
        line = "".join(c if " " <= c <= "~" else " " for c in " ".join(words))[:1000]
        with contextlib.suppress(OSError):
            self.agent.sendall(line.encode() + b"\n")

    def serve(self, reason: str, message: str) -> int:
        """Have chrek-init start the program cold, and say why; the tree's root on the machine.

        Raises:
            PeerError: it ended instead.
        """
        service.set_last_pid(self._pidfd, names.FIRST_WORKER_PID)
        self.send("serve", reason, message)
        word, _, number = self.receive().partition(" ")
        if word != "started":
            raise errors.PeerError("chrek-init ended before it had started the program")
        return self.child(int(number))

    def child(self, nspid: int) -> int:
        """A child of PID 1, on the machine.

        Raises:
            PeerError: there is none, any more.
        """
        with contextlib.suppress(OSError):
            for pid in procfs.children(self.pid):
                with contextlib.suppress(ProcessLookupError):
                    if procfs.status(pid).nspids[-1] == nspid:
                        return pid
        raise errors.PeerError(f"process {nspid} of the container has ended")

    def signal(self, number: int) -> None:
        """To chrek-init, which passes it on."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def wait(self) -> int:
        """Its exit status, when all it wrote has been passed on."""
        code = self._starter.wait()
        self._streams.drain()
        return code

    def stop(self) -> None:
        """End it, if it has not ended."""
        self.signal(signal.SIGKILL)
        try:
            self._starter.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            self._starter.kill()
            self._starter.wait()
        self.agent.close()
        os.close(self._pidfd)
        os.close(self.ended)


def _renew(folder: pathlib.Path) -> None:
    """Empty folders for the changes of a container, and chrek-init in its place."""
    for part in _PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(mode=0o755)
    source = process.LIBEXEC / names.INIT_CONTAINER
    try:
        shutil.copy(source, folder / "chrek" / names.INIT_CONTAINER)
    except FileNotFoundError as err:
        raise process.absent(source) from err
