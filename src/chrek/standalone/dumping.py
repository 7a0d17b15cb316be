"""`chrek dump`: capture a program that `chrek run` has started.

A process of its own captures, which no Ctrl-C, no end of a terminal or of `chrek dump`, and no want
of memory reaches: CRIU ends with it, and a CRIU that is killed leaves connections for which reading
fails for a moment (`leftovers`) or, while it is about to enter a process, a breakpoint that ends
that process with SIGTRAP. `chrek run` stands by, and has the program go on should this one end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

import msgspec

from chrek import checkpoint, errors, log, manifest, names
from chrek import store as stores
from chrek.cuda import client
from chrek.standalone import choice, connections, container, place, records, supervisor

LOG = log.get(__name__)
ABANDONED_SECONDS = 86400
"""Nobody works any more on what a capture left so long ago."""
_NEVER_FOR_MEMORY = "-1000"


@dataclasses.dataclass(frozen=True)
class Dumped:
    """A checkpoint of a program."""

    uuid: str
    bytes: int
    seconds: float
    """All that it took."""


class _Outcome(msgspec.Struct):
    """What the capturing process says at its end."""

    done: Dumped | None = None
    kind: str = ""
    """Class of the error."""
    message: str = ""
    hint: str | None = None
    reason: str = ""

    def result(self) -> Dumped:
        if self.done is not None:
            return self.done
        kind = getattr(errors, self.kind, errors.ChrekError)
        err: errors.ChrekError = kind(self.message, hint=self.hint, reason=self.reason)
        raise err


class _Standby:
    """`chrek run`, which stands by."""

    def __init__(self, name: str, connection: socket.socket, lines: BinaryIO) -> None:
        self._name = name
        self._connection = connection
        self._lines = lines

    def ask(self, text: str) -> dict[str, Any]:
        """Say something and wait for the answer.

        Raises:
            PeerError: it has ended.
        """
        try:
            self._connection.sendall(text.encode() + b"\n")
            found: dict[str, Any] = json.loads(self._lines.readline())
        except (OSError, ValueError) as err:
            raise errors.PeerError(f"chrek run of {self._name} has ended") from err
        return found


def dump(state: pathlib.Path, name: str, *, stop: bool, timeout_seconds: float) -> Dumped:
    """Capture a program; unless it is to stop, it runs on as soon as memory and files are copied.

    Raises:
        InputError: none of that name runs.
        ChrekError: it was not captured, and runs on.
    """
    records.check_root()
    run = records.load(state, name)
    records.check_store(pathlib.Path(run.store))
    # No thread was started yet.
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        _apart(target, lambda: _dump(run, state, stop=stop, timeout_seconds=timeout_seconds))
    os.close(target)
    with os.fdopen(source, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    if not data:
        raise errors.PeerError(
            f"the process that captured {name} was killed", hint=f"{name} runs on: try again"
        )
    return msgspec.json.decode(data, type=_Outcome).result()


def _apart(target: int, work: Callable[[], Dumped]) -> NoReturn:
    """Do it as a process that the end of the one before it does not touch."""
    try:
        os.setsid()
        with contextlib.suppress(OSError):
            pathlib.Path("/proc/self/oom_score_adj").write_text(_NEVER_FOR_MEMORY)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        try:
            found = _Outcome(done=work())
        except errors.ChrekError as err:
            kind = type(err).__name__
            found = _Outcome(kind=kind, message=err.message, hint=err.hint, reason=err.reason)
        except Exception as err:
            LOG.debug("not captured", exc_info=err)
            found = _Outcome(message=f"not captured: {err!r}", reason=names.Reason.INTERNAL_ERROR)
        with contextlib.suppress(OSError):
            os.write(target, msgspec.json.encode(found))
    finally:
        os._exit(0)


def _dump(run: records.Run, state: pathlib.Path, *, stop: bool, timeout_seconds: float) -> Dumped:
    name = run.name
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            connection = container.connected(state / name, supervisor.CONTROL)
        except OSError as err:
            raise errors.InputError(
                f"{name} does not run", hint=f"start it: chrek run --name {name} -- ..."
            ) from err
        stack.enter_context(connection)
        standby = _Standby(name, connection, stack.enter_context(connection.makefile("rb")))
        found = standby.ask(json.dumps({"stop": stop}))
        helper = client.Helper(scratch=state / name / f"{choice.DRIVER}-dump")
        stack.callback(helper.close)
        wanted = _capture(run, state / name, found, stop=stop, timeout_seconds=timeout_seconds)
        store = stores.Store(pathlib.Path(run.store))
        store.sweep(older_than_seconds=ABANDONED_SECONDS)
        try:
            done = checkpoint.capture(
                wanted,
                store,
                LOG,
                gpus=choice.gpus(helper),
                on_committed=lambda done: _committed(standby, done, wanted),
                on_resumed=lambda: _resumed(standby),
            )
        except BaseException as err:
            reason = err.reason if isinstance(err, errors.ChrekError) else "InternalError"
            with contextlib.suppress(errors.PeerError):
                standby.ask(f"resumed {reason} {' '.join(str(err).split()) or repr(err)}")
            raise
        if stop:
            with contextlib.suppress(errors.PeerError):
                standby.ask("stopped")
    seconds = round(time.monotonic() - begin, 3)
    return Dumped(done.manifest.uuid, done.manifest.bytes, seconds)


def _capture(
    run: records.Run,
    folder: pathlib.Path,
    found: dict[str, Any],
    *,
    stop: bool,
    timeout_seconds: float,
) -> checkpoint.Capture:
    known = choice.declared(run)
    memory = place.look(folder, run.volumes).memory
    return checkpoint.Capture(
        init_pid=found["init_pid"],
        root_pid=found["root_pid"],
        identity_hash=run.identity,
        variant=run.variant,
        command=tuple(known.command),
        environment=known.environment,
        volumes=tuple(manifest.Volume(path=path, exclusive=True) for path in memory),
        timeout_seconds=timeout_seconds,
        leave_running=not stop,
    )


def _resumed(standby: _Standby) -> None:
    # Its end is told by what follows: an artifact that is complete is none the worse for it.
    with contextlib.suppress(errors.PeerError):
        standby.ask("resumed")


def _committed(standby: _Standby, done: checkpoint.Captured, wanted: checkpoint.Capture) -> None:
    try:
        standby.ask(f"committed {done.manifest.uuid}")
    except errors.PeerError as err:
        if not wanted.leave_running:
            raise errors.PeerError(str(err), reason=names.Reason.AGENT_GONE) from err
    if not wanted.leave_running:
        connections.reset_at_end(wanted.root_pid)
