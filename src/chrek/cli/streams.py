"""Files and streams that commands write and read: tars of artifacts, and documents."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from chrek import errors

if TYPE_CHECKING:
    from chrek import tarball

STANDARD = "-"
"""What standard output and input are called."""


@contextlib.contextmanager
def output(file: str) -> Iterator[BinaryIO]:
    """Where a tar goes; a file has its name only once it is complete.

    Raises:
        InputError: it cannot be written.
    """
    path = pathlib.Path(file)
    try:
        if file == STANDARD:
            if sys.stdout.isatty():
                raise errors.InputError(
                    "standard output is a terminal", hint="redirect it, or name a file"
                )
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif path.exists() and not path.is_file():
            with path.open("wb") as out:
                yield out
        else:
            with _complete_file(path) as out:
                yield out
    except OSError as err:
        if file == STANDARD:
            _forget_output()
        raise errors.InputError(
            f"{named(file, 'output')}: cannot be written: {err.strerror}",
            hint="check the path and the disk",
        ) from err


def _forget_output() -> None:
    """Let go what cannot be written to standard output: at its exit Python would try again.

    Source: the note on SIGPIPE in https://docs.python.org/3/library/signal.html
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _complete_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def reserved(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
    """Writes a file wholly or not at all; whether it can be made is known at the beginning.

    What is no file, such as /dev/stdout, is written as it is.

    Raises:
        InputError: it cannot be written.
    """
    with _refused(path):
        special = path.exists() and not path.is_file()
        if not special:
            folder = path.resolve().parent
            fd, name = tempfile.mkstemp(prefix=f".{path.name[:200]}.", dir=folder)
    if special:
        yield lambda data: _write(path, data)
        return
    with open(fd, "wb") as out:
        try:
            yield lambda data: _finish(out, data, name, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _write(path: pathlib.Path, data: bytes) -> None:
    with _refused(path):
        path.write_bytes(data)


def _finish(out: BinaryIO, data: bytes, name: str, path: pathlib.Path) -> None:
    with _refused(path):
        out.write(data)
        out.flush()
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(out.fileno(), 0o666 & ~umask)
        os.replace(name, path.resolve())


@contextlib.contextmanager
def _refused(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise errors.InputError(
            f"{path}: cannot be written: {err.strerror}", hint="check the path and the disk"
        ) from err


@contextlib.contextmanager
def source(file: str) -> Iterator[tarball.Input]:
    """Where a tar comes from, without a buffer: that would go on reading after a signal.

    Raises:
        InputError: it cannot be read.
    """
    if file == STANDARD:
        yield getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        return
    try:
        stream = open(file, "rb", buffering=0)  # noqa: SIM115 - closed below
    except OSError as err:
        raise errors.InputError(
            f"{file}: cannot be read: {err.strerror}", hint="give a file of chrek export"
        ) from err
    with stream:
        yield cast("tarball.Input", stream)


def named(file: str, stream: str) -> str:
    """What messages call it.

    Args:
        file: as the command line has it.
        stream: `output` or `input`.
    """
    return f"standard {stream}" if file == STANDARD else file
