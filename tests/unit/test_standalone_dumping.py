from __future__ import annotations

import json
import os
import pathlib
import socket
import threading
from collections.abc import Callable

import msgspec
import pytest

from chrek import checkpoint, errors
from chrek.standalone import container, dumping, records, supervisor

RUN = records.Run(
    name="web", command=["x"], cwd="/", environment={}, volumes=[], store="/nonexistent"
)


@pytest.fixture
def state(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(records, "check_root", lambda: None)
    (tmp_path / "web").mkdir()
    records.save(tmp_path / "web", msgspec.structs.replace(RUN, store=str(tmp_path / "store")))
    return tmp_path


def test_nobody_runs(state: pathlib.Path) -> None:
    with pytest.raises(errors.InputError, match="web does not run") as caught:
        dumping.dump(state, "web", stop=False, timeout_seconds=1)
    assert caught.value.hint == "start it: chrek run --name web -- ..."


def answered(state: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capture: object) -> list[str]:
    """What a `chrek dump` says to `chrek run`; its result is the last line."""
    said: list[str] = []
    monkeypatch.setattr(checkpoint, "capture", capture)
    with container.listening(state / "web", supervisor.CONTROL) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    said.append(line.decode().strip())
                    found = {"init_pid": os.getpid(), "root_pid": 5}
                    connection.sendall(json.dumps(found).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            said.append(repr(dumping.dump(state, "web", stop=True, timeout_seconds=1)))
        except errors.ChrekError as err:
            said.append(f"{type(err).__name__} {err.reason} {err.message} {err.hint}")
        finally:
            thread.join()
    return said


def refused(err: BaseException) -> Callable[..., None]:
    def capture(*_: object, **__: object) -> None:
        raise err

    return capture


def test_an_error_comes_out_as_it_was(state: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    err = errors.CriuError("criu\nfailed", hint="so", reason="DumpTimeout")
    said = answered(state, monkeypatch, refused(err))
    assert said[0] == '{"stop": true}'
    assert said[1] == "resumed DumpTimeout criu failed (so)"
    assert said[-1] == "CriuError DumpTimeout criu\nfailed so"
    said = answered(state, monkeypatch, refused(ValueError("x")))
    assert said[1] == "resumed InternalError x"
    assert said[-1] == "ChrekError InternalError not captured: ValueError('x') None"


def test_a_process_that_is_killed(state: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = answered(state, monkeypatch, lambda *_, **__: os.kill(os.getpid(), 9))
    assert said[-1].startswith("PeerError PeerRefused the process that captured web was killed")


def test_a_standby_that_has_ended() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, ours.makefile("rb") as lines:
        standby = dumping._Standby("web", ours, lines)
        with pytest.raises(errors.PeerError, match="chrek run of web has ended"):
            standby.ask("resumed")
        dumping._resumed(standby)
