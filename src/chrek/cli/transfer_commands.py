"""`chrek copy`, `chrek export` and `chrek import`: checkpoints on the way between stores."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from chrek import cli, errors, storage
from chrek.cli import ends

if TYPE_CHECKING:
    import types

    from chrek import manifest, tarball, transfer
    from chrek import store as stores
    from chrek.cli import imported


@click.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.argument("paths", nargs=-1, metavar="[HASH[/VARIANT[/UUID]]]...")
@click.option(
    "--all", "everything", is_flag=True, help="Everything in that namespace's part of FROM."
)
@ends.options("from-", "FROM")
@ends.options("to-", "TO")
@ends.common_options
def copy(
    source: str, target: str, paths: tuple[str, ...], everything: bool, **options: Any
) -> None:
    """Copy checkpoints from one store into another.

    A store is a directory laid out like the volume (it begins with / or ., and exists),
    s3://[HOST/]BUCKET/PREFIX, oci://REGISTRY/REPOSITORY, or `store`: the one that --config names.

    Prints a line for each: path, digest of its manifest, bytes. What is there already is left as it
    is. Every byte is compared with the manifest on its way.

    \b
    Example:
      $ chrek copy /mnt/checkpoints s3://models/chrek 5941a4cb3c363457 --to-credentials aws/
    """  # noqa: D301 - click wants the character, not the text
    if everything == bool(paths):
        raise click.UsageError("Give either paths or --all.")
    from chrek import transfer

    wanted = [transfer.parse(path) for path in paths]
    first = ends.End.of(source, options, "from-")
    second = ends.End.of(target, options, "to-")
    with (
        _ended_by_signals(),
        ends.opened(first, options, reads=True) as from_store,
        ends.opened(second, options, reads=False) as to_store,
    ):
        if everything:
            found = from_store.artifacts()
        else:
            found = [one for path in wanted for one in transfer.select(from_store, path)]
        _copy_all(from_store, to_store, list(dict.fromkeys(found)))


def _copy_all(
    source: storage.AnyStore, target: storage.AnyStore, paths: Sequence[stores.ArtifactPath]
) -> None:
    """Copy artifacts; a bad one keeps nobody from copying the others."""
    from chrek import transfer

    begin, done, failed = time.monotonic(), [], []
    for path in paths:
        try:
            done.append(transfer.copy(source, target, path))
            click.echo(str(done[-1]))
        except errors.ArtifactError as err:
            if len(paths) == 1:
                raise
            failed.append(path)
            cli.report(err)
    _tell_rate(done, time.monotonic() - begin)
    if failed:
        raise errors.ArtifactError(
            f"{len(failed)} of {len(paths)} artifacts were not copied: "
            f"{', '.join('/'.join(path) for path in failed)}",
            hint="the errors above say why",
        )


@click.command("export")
@click.argument("place", metavar="STORE")
@click.argument("path", metavar="HASH[/VARIANT[/UUID]]")
@click.argument("file", metavar="FILE")
@ends.options()
@ends.common_options
def export(place: str, path: str, file: str, **options: Any) -> None:
    """Write a checkpoint into a tar file.

    STORE is a directory laid out like the volume (it begins with / or ., and exists),
    s3://[HOST/]BUCKET/PREFIX, oci://REGISTRY/REPOSITORY, or `store`: the one that --config names.

    FILE is compressed when its name ends in .zst, and holds the worker's memory, secrets included;
    `-` is standard output. Prints the path, the digest of the manifest and the bytes, on stderr
    when the tar goes to standard output.

    \b
    Example:
      $ chrek export s3://models/chrek 5941a4cb3c363457 llama.tar.zst --credentials aws/
    """  # noqa: D301 - click wants the character, not the text
    from chrek import tarball, transfer

    wanted = transfer.parse(path)
    end = ends.End.of(place, options)
    with _ended_by_signals(), ends.opened(end, options, reads=True) as store:
        found = transfer.select(store, wanted)
        if len(found) > 1:
            raise errors.InputError(
                f"{path} is {len(found)} artifacts: {', '.join('/'.join(one) for one in found)}",
                hint="export them one by one",
            )
        begin = time.monotonic()
        with _output(file) as out:
            compressed = file.endswith(tarball.SUFFIX)
            moved = transfer.export_to(out, store, found[0], compressed=compressed)
    click.echo(str(moved), err=file == "-")
    _tell_rate([moved], time.monotonic() - begin)


@click.command("import")
@click.argument("file", metavar="FILE")
@click.argument("place", metavar="STORE")
@click.option(
    "--digest",
    default="",
    metavar="sha256:...",
    help="Take it only if its manifest has this digest, which export printed.",
)
@click.option(
    "--checkpoint",
    metavar="[NAMESPACE/]NAME",
    help="Have this DynamoCheckpoint use it; made if there is none. Needs --identity, and the "
    "right to write the status of DynamoCheckpoints.",
)
@click.option(
    "--identity",
    metavar="FILE",
    help="YAML with the identity of the checkpoint: by itself, or a DynamoCheckpoint.",
)
@ends.options()
@ends.common_options
def import_(
    file: str,
    place: str,
    digest: str,
    checkpoint: str | None,
    identity: str | None,
    **options: Any,
) -> None:
    """Take a checkpoint out of a file of `chrek export` into a store.

    STORE is a directory laid out like the volume (it begins with / or ., and exists),
    s3://[HOST/]BUCKET/PREFIX, oci://REGISTRY/REPOSITORY, or `store`: the one that --config names.

    FILE may be compressed with zstd; `-` is standard input. It may come from anybody: everything in
    it is compared with its manifest before the checkpoint exists. Whether the manifest itself is
    the right one, only --digest tells. Prints the path, that digest and the bytes.

    \b
    Example:
      $ chrek import llama.tar.zst /mnt/checkpoints --checkpoint my-team/llama \\
          --identity identity.yaml
    """  # noqa: D301 - click wants the character, not the text
    if (checkpoint is None) != (identity is None):
        raise click.UsageError("Give --checkpoint and --identity, or neither.")
    from chrek import transfer

    end = ends.End.of(place, options)
    wanted = _checkpoint(checkpoint, identity, end.namespace) if checkpoint and identity else None
    with (
        _ended_by_signals(),
        _input(file) as stream,
        ends.opened(end, options, reads=False) as store,
    ):
        begin = time.monotonic()
        where = _shown(file, "input")
        hashed = wanted.known.hash() if wanted else ""
        moved = transfer.import_from(stream, store, where=where, digest=digest, of=hashed)
        if moved.already and file == "-":
            # Its writer shall not fail for want of a reader.
            while stream.read(1 << 20):
                pass
        click.echo(str(moved))
        _tell_rate([moved], time.monotonic() - begin)
        if wanted:
            _make_ready(wanted, store.open(*moved.path, moved.digest).manifest, moved.digest)


def _checkpoint(reference: str, file: str, namespace: str) -> imported.Checkpoint:
    """Which DynamoCheckpoint is meant, before anything is done."""
    from chrek.cli import imported
    from chrek.kube import workstation

    where, _, name = reference.rpartition("/")
    raw, known = imported.read_identity(file)
    namespace = where or namespace or workstation.default_namespace()
    return imported.Checkpoint(namespace, name, raw, known)


def _make_ready(wanted: imported.Checkpoint, described: manifest.Manifest, digest: str) -> None:
    from chrek.cli import imported
    from chrek.kube import workstation

    now = datetime.datetime.now(datetime.UTC)
    imported.make_ready(workstation.connect(), wanted, described, digest, now)


@contextlib.contextmanager
def _output(file: str) -> Iterator[BinaryIO]:
    """Where a tar goes; a file has its name only once it is complete."""
    path = pathlib.Path(file)
    try:
        if file == "-":
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
        if file == "-":
            _forget_output()
        raise errors.InputError(
            f"{_shown(file, 'output')}: cannot be written: {err.strerror}",
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


def _shown(file: str, stream: str) -> str:
    return f"standard {stream}" if file == "-" else file


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
def _input(file: str) -> Iterator[tarball.Input]:
    """Where a tar comes from, without a buffer: that would go on reading after a signal."""
    if file == "-":
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


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """While inside, what is half done is undone when the command is told to end."""

    def end(number: int, _frame: types.FrameType | None) -> None:
        raise SystemExit(128 + number)

    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            if before != signal.SIG_IGN:  # As it is below nohup.
                signal.signal(number, end)
                stack.callback(signal.signal, number, before)
        yield


def _tell_rate(moved: Sequence[transfer.Moved], seconds: float) -> None:
    """Say how fast it was, to a person."""
    if not sys.stderr.isatty():
        return
    done = [one.bytes for one in moved if not one.already]
    rate = sum(done) / max(seconds, 1e-3)
    click.echo(
        f"{len(done)} of {len(moved)} moved: {sum(done) / 1e9:.2f} GB in {seconds:.1f} s, "
        f"{rate / 1e6:.0f} MB/s",
        err=True,
    )
