"""`chrek run` and `chrek restore`: start a program, warm or cold, and stay with it to its end."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import selectors
import signal
import socket
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

from chrek import context, errors, gpustate, leftovers, log, names, process, procfs, restore
from chrek import store as stores
from chrek.cuda import client
from chrek.standalone import choice, container, kernel, place, records

LOG = log.get(__name__)
CONTROL = "control.sock"
RESTORE_SECONDS = 1800
_SILENCE_SECONDS = 3600
UNTRACED_SECONDS = 5
_LINE_BYTES = 1 << 16
_FORWARDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT),
)
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
_STARTED = "chrek 1 start"


class Supervisor:
    """Of one program, in the main thread of this one.

    Attributes:
        say: prints a line for the person who started it.
    """

    def __init__(
        self,
        run: records.Run,
        folder: pathlib.Path,
        helper: client.Helper,
        say: Callable[[str], None],
    ) -> None:
        self._run = run
        self._folder = folder
        self._gpus = choice.gpus(helper)
        self._place = place.look(folder, run.volumes)
        self.say = say
        self._container: container.Container | None = None
        self._root_pid = 0
        self._told_to_end = 0
        self._dumping = False
        self._stopped = ""
        """UUID of the checkpoint that the program was stopped for."""
        self._held: list[int] = []

    def start(self, *, only_warm: bool) -> int:
        """Start the program and wait for its end; returns its exit status.

        Args:
            only_warm: without a restore there is no start.

        Raises:
            ChrekError: the container was not made; with `only_warm`, why it was not restored.
        """
        with self._signals():
            try:
                self._begin(only_warm=only_warm)
                with container.listening(self._folder, CONTROL) as control:
                    return self._watch(control)
            except (errors.ChrekError, OSError):
                if self._told_to_end:
                    return 128 + self._told_to_end
                raise
            finally:
                self._end()

    def _begin(self, *, only_warm: bool) -> None:
        try:
            artifact = choice.newest(self._run)
            inside = self._make()
            choice.compare(artifact, self._run, inside.pid, self._gpus)
            self._restore(inside, artifact)
            return
        except Exception as err:
            if only_warm or self._told_to_end:
                raise
            reason, message = _why(err)
            LOG.debug("not restored", reason=reason, error=repr(err), log=errors.log_of(err))
            if self._root_pid:
                # A restore has changed it. The next one is as the first.
                self._end()
        inside = self._container or self._make()
        self._root_pid = inside.serve(reason, message)

    def _make(self) -> container.Container:
        made = container.Container(self._folder, self._run, self._place)
        self._container = made
        if self._told_to_end:
            made.signal(self._told_to_end)
        if made.receive() != _STARTED:
            raise errors.PeerError("chrek-init ended before it asked how to start")
        return made

    def _restore(self, inside: container.Container, artifact: stores.Artifact) -> None:
        described = artifact.manifest
        self._root_pid = -1
        inside.send("restoring", str(_SILENCE_SECONDS), str(described.rootPid), "exit")
        done = restore.restore(
            artifact,
            inside.pid,
            self._folder / "staging" / "one",
            LOG,
            volumes=dict.fromkeys(self._place.memory, True),
            pod=context.Pod(name=self._run.name),
            gpus=self._gpus,
            timeout_seconds=RESTORE_SECONDS,
            progress=lambda step: inside.send("progress", step),
        )
        self._root_pid = inside.child(described.rootPid)
        inside.send("restored")
        self.say(
            f"Restored: {described.bytes / 1e6:.1f} MB of checkpoint {described.uuid} of "
            f"{described.createdAt} in {done.total_seconds:.2f} s"
        )

    def _end(self) -> None:
        if self._container is not None:
            self._container.stop()
        self._container = None
        self._root_pid = 0

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        before: dict[int, Any] = {}

        def forward(number: int, _frame: types.FrameType | None) -> None:
            if not self._root_pid or self._root_pid < 0:
                self._told_to_end = number if number in _ENDING else self._told_to_end
            if self._dumping:
                # Pending in a frozen process, it would become part of the checkpoint.
                self._held.append(number)
            elif self._container is not None:
                self._container.signal(number)

        for wanted in _FORWARDED:
            if signal.getsignal(wanted) != signal.SIG_IGN:  # As it is below nohup.
                before[wanted] = signal.signal(wanted, forward)
        # Reading a terminal in the background fails then, instead of stopping this program.
        before[signal.SIGTTIN] = signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _watch(self, control: socket.socket) -> int:
        """Until the container ends; one capture at a time."""
        inside = self._container
        assert inside is not None  # noqa: S101 - for mypy: it was made above
        with selectors.DefaultSelector() as selector:
            selector.register(inside.ended, selectors.EVENT_READ)
            selector.register(control, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if inside.ended in ready:
                    code = inside.wait()
                    if not self._stopped:
                        return code
                    self.say(f"Stopped: checkpoint {self._stopped} is complete")
                    return 0
                if control in ready:
                    client_, _ = control.accept()
                    with client_:
                        self._dump(inside, client_)

    def _dump(self, inside: container.Container, asking: socket.socket) -> None:
        """Stand by while `chrek dump` captures: what it does, and its end, cannot end the tree."""
        asking.settimeout(container.ANSWER_SECONDS)
        with asking.makefile("rb") as lines:
            try:
                request = json.loads(lines.readline(_LINE_BYTES))
                stop = bool(request["stop"])
            except (OSError, ValueError, KeyError, TypeError):
                return
            asking.settimeout(None)
            self._dumping = True
            inside.send("dumping")
            _answer(asking, {"init_pid": inside.pid, "root_pid": self._root_pid})
            try:
                self._follow(inside, asking, lines, stop=stop)
            finally:
                if self._dumping:
                    self._clear()
                    self._go_on(inside, names.Reason.AGENT_GONE, "chrek dump has ended early")

    def _follow(
        self, inside: container.Container, asking: socket.socket, lines: Any, *, stop: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while line := lines.readline(_LINE_BYTES):
                word, _, rest = line.decode(errors="replace").strip().partition(" ")
                if word == "resumed":
                    self._go_on(inside, *([rest] if rest else []))
                elif word == "committed":
                    self._stopped = rest if stop else ""
                    if not stop:
                        # Upon which chrek-init says that the program runs on.
                        inside.send("committed")
                elif word == "stopped":
                    self._dumping = False
                _answer(asking, {})

    def _go_on(self, inside: container.Container, *why: str) -> None:
        """The tree runs: have its signals delivered, and where it was not captured, say why."""
        self._dumping = False
        self._stopped = ""
        inside.send("resumed", *why)
        while self._held:
            inside.signal(self._held.pop(0))

    def _clear(self) -> None:
        """As the agent does it for a capture that was cut off."""
        with _still(self._root_pid):
            _wait_until_untraced(self._root_pid)
            with contextlib.suppress(OSError):
                leftovers.clear(self._root_pid)
        if self._stopped:
            return
        try:
            gpustate.release(self._root_pid, self._gpus, LOG)
        except (errors.GpuError, OSError) as err:
            LOG.error("gpu memory was not released", error=str(err))


@contextlib.contextmanager
def _still(root_pid: int) -> Iterator[None]:
    """While inside, a tree that CRIU no longer freezes does nothing.

    Its connections may be in TCP_REPAIR still, where reading and writing fail. The root only waits
    for signals; and whoever has a use of its own for SIGCONT is not told by it.
    """
    stopped = []
    for pid in procfs.tree(root_pid)[1:]:
        with contextlib.suppress(OSError):
            if signal.SIGCONT not in procfs.status(pid).caught_signals:
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
    try:
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _wait_until_untraced(root_pid: int) -> None:
    """CRIU ends with `chrek dump`, but a moment later."""
    deadline = time.monotonic() + UNTRACED_SECONDS
    while time.monotonic() < deadline:
        traced = False
        for pid in procfs.tree(root_pid):
            with contextlib.suppress(OSError):
                text = (procfs.PROC / str(pid) / "status").read_text(errors="replace")
                traced = traced or "\nTracerPid:\t0\n" not in text
        if not traced:
            return
        time.sleep(0.01)


def _answer(asking: socket.socket, found: dict[str, int]) -> None:
    with contextlib.suppress(OSError):
        asking.sendall(json.dumps(found).encode() + b"\n")


def _why(err: Exception) -> tuple[str, str]:
    """Reason and message."""
    if isinstance(err, errors.ChrekError):
        return err.reason, str(err)
    return names.Reason.INTERNAL_ERROR, str(err) or repr(err)


def start(
    run: records.Run, state: pathlib.Path, say: Callable[[str], None], *, only_warm: bool = False
) -> int:
    """Run a program to its end; returns its exit status.

    Raises:
        ChrekError: it could not be started.
    """
    records.check_root()
    for part in ("chrek-init", "chrek-enter", "criu"):
        if not (process.LIBEXEC / part).exists():
            raise process.absent(process.LIBEXEC / part)
    try:
        return _start(run, state, say, only_warm=only_warm)
    except OSError as err:
        raise errors.UnsupportedError(
            f"{run.name} cannot be started: {err}",
            hint="see whether a directory that can be written is named with --state",
        ) from err


def _start(
    run: records.Run, state: pathlib.Path, say: Callable[[str], None], *, only_warm: bool
) -> int:
    with records.taken(state, run.name) as folder:
        folder = folder.resolve()
        records.save(folder, run)
        # Mounts of a restore are seen by nobody else, and end with this process however it ends.
        kernel.unshare(["mount"])
        kernel.mount("none", "/", flags=kernel.SLAVE | kernel.RECURSIVE)
        staging = folder / "staging"
        staging.mkdir(mode=0o700, exist_ok=True)
        kernel.mount("tmpfs", staging, "tmpfs", data="mode=700")
        helper = client.Helper(scratch=folder / choice.DRIVER)
        try:
            return Supervisor(run, folder, helper, say).start(only_warm=only_warm)
        finally:
            helper.close()
            with contextlib.suppress(OSError):
                kernel.unmount(staging)
                os.rmdir(staging)
