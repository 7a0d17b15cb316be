"""`chrek copy`, `chrek export` and `chrek import`: checkpoints on the way between stores."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from chrek import cli, errors, storage
from chrek.cli import completing, ends, printing, streams

if TYPE_CHECKING:
    from chrek import manifest, transfer
    from chrek import store as stores
    from chrek.cli import imported, moved, progress, reading

    Timed = tuple[transfer.Moved, float]


@click.command("copy")
@click.argument("source", metavar="FROM", shell_complete=completing.directories)
@click.argument("target", metavar="TO", shell_complete=completing.directories)
@click.argument("paths", nargs=-1, metavar="[HASH[/VARIANT[/UUID]]]...")
@click.option(
    "--all", "everything", is_flag=True, help="Everything in that namespace's part of FROM."
)
@ends.options("from-", "FROM")
@ends.options("to-", "TO")
@ends.common_options
@printing.output_option
def copy(
    source: str,
    target: str,
    paths: tuple[str, ...],
    everything: bool,
    output: str,
    **options: Any,
) -> None:
    """Copy checkpoints from one store into another.

    A store is a directory laid out like the volume (it begins with / or ., and exists),
    s3://[HOST/]BUCKET/PREFIX, oci://REGISTRY/REPOSITORY, or `store`: the one that --config names.

    Prints a line for each: path, digest of its manifest, bytes. What is there already is left as it
    is. Every byte is compared with the manifest on its way. How far it is, stderr tells, in bytes
    of the artifact.

    \b
    Exit code:
      0    all of them are in TO
      2    wrong usage
      4    a path or a store's name cannot be used
      5    the configuration cannot be used
      20   an artifact is missing or damaged, or TO has another one of its name
      24   a store cannot be read or written
      130  Ctrl-C; as after SIGTERM (143), nothing half done is left

    \b
    Example:
      $ chrek copy /mnt/checkpoints s3://models/chrek 5941a4cb3c363457 --to-credentials aws/
    """  # noqa: D301 - click wants the character, not the text
    if everything == bool(paths):
        raise click.UsageError("Give either paths or --all.")
    from chrek import transfer
    from chrek.cli import progress

    wanted = [transfer.parse(path) for path in paths]
    first = ends.End.of(source, options, "from-")
    second = ends.End.of(target, options, "to-")
    watch = progress.shown("copying")
    with (
        ends.undone_by_signals(),
        ends.opened(first, options, reads=True, on_bytes=watch.moved) as from_store,
        ends.opened(second, options, reads=False, on_bytes=watch.moved) as to_store,
    ):
        if everything:
            found = from_store.artifacts()
        else:
            found = [one for path in wanted for one in transfer.select(from_store, path)]
        _copy_all(from_store, to_store, list(dict.fromkeys(found)), watch, output)


def _copy_all(
    source: storage.AnyStore,
    target: storage.AnyStore,
    paths: Sequence[stores.ArtifactPath],
    watch: progress.Bar | progress.Lines,
    output: str,
) -> None:
    """Copy artifacts; a bad one keeps nobody from copying the others."""
    from chrek import transfer
    from chrek.cli import moved

    begin = time.monotonic()
    done: list[Timed] = []
    failed: list[moved.Failure] = []
    for path in paths:
        try:
            with watch.artifact("/".join(path)):
                one = _timed(transfer.copy, source, target, path, watch=watch)
        except errors.ArtifactError as err:
            failed.append(moved.Failure(path="/".join(path), error=str(err)))
            if len(paths) > 1:
                cli.report(err)
            elif output == "table":
                raise
        else:
            done.append(one)
            if output == "table":
                click.echo(str(one[0]))
    if output == "table":
        _tell_rate([one for one, _ in done], time.monotonic() - begin)
    else:
        _print(output, done, failed)
    if failed:
        raise errors.ArtifactError(
            f"{len(failed)} of {len(paths)} artifacts were not copied: "
            f"{', '.join(one.path for one in failed)}",
            hint="the errors above say why",
        )


@click.command("export")
@click.argument("place", metavar="STORE", shell_complete=completing.directories)
@click.argument("path", metavar="HASH[/VARIANT[/UUID]]")
@click.argument("file", metavar="FILE", shell_complete=completing.files)
@ends.options()
@ends.common_options
@printing.output_option
def export(place: str, path: str, file: str, output: str, **options: Any) -> None:
    """Write a checkpoint into a tar file.

    STORE is a directory laid out like the volume (it begins with / or ., and exists),
    s3://[HOST/]BUCKET/PREFIX, oci://REGISTRY/REPOSITORY, or `store`: the one that --config names.

    FILE is compressed when its name ends in .zst, and holds the worker's memory, secrets included;
    `-` is standard output. Prints the path, the digest of the manifest and the bytes, on stderr
    when the tar goes to standard output: --output needs a FILE. How far it is, stderr tells, in
    bytes of the artifact.

    \b
    Exit code:
      0    the file is complete
      2    wrong usage
      4    the path, the store's name or FILE cannot be used, or the path is several artifacts
      5    the configuration cannot be used
      20   the artifact is missing or damaged
      24   the store cannot be read
      130  Ctrl-C; as after SIGTERM (143), nothing half done is left

    \b
    Example:
      $ chrek export s3://models/chrek 5941a4cb3c363457 llama.tar.zst --credentials aws/
    """  # noqa: D301 - click wants the character, not the text
    if file == streams.STANDARD and output != "table":
        raise click.UsageError("--output needs a FILE: the tar goes to standard output.")
    from chrek import tarball, transfer
    from chrek.cli import progress

    wanted = transfer.parse(path)
    end = ends.End.of(place, options)
    watch = progress.shown("writing")
    with (
        ends.undone_by_signals(),
        ends.opened(end, options, reads=True, on_bytes=watch.moved) as store,
    ):
        found = transfer.select(store, wanted)
        if len(found) > 1:
            raise errors.InputError(
                f"{path} is {len(found)} artifacts: {', '.join('/'.join(one) for one in found)}",
                hint="export them one by one",
            )
        compressed = file.endswith(tarball.SUFFIX)
        with watch.artifact("/".join(found[0])), streams.output(file) as out:
            done, seconds = _timed(
                *(transfer.export_to, out, store, found[0]), compressed=compressed, watch=watch
            )
    if output == "table":
        click.echo(str(done), err=file == streams.STANDARD)
        _tell_rate([done], seconds)
    else:
        _print(output, [(done, seconds)])


@click.command("import")
@click.argument("file", metavar="FILE", shell_complete=completing.files)
@click.argument("place", metavar="STORE", shell_complete=completing.directories)
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
    shell_complete=completing.files,
    help="YAML with the identity of the checkpoint: by itself, or a DynamoCheckpoint.",
)
@click.option(
    "--context",
    metavar="NAME",
    help="Of the kubeconfig, for --checkpoint; by default the one in use.",
)
@ends.options()
@ends.common_options
@printing.output_option
def import_(
    file: str,
    place: str,
    digest: str,
    checkpoint: str | None,
    identity: str | None,
    context: str | None,
    output: str,
    **options: Any,
) -> None:
    """Take a checkpoint out of a file of `chrek export` into a store.

    STORE is a directory laid out like the volume (it begins with / or ., and exists),
    s3://[HOST/]BUCKET/PREFIX, oci://REGISTRY/REPOSITORY, or `store`: the one that --config names.

    FILE may be compressed with zstd; `-` is standard input. It may come from anybody: everything in
    it is compared with its manifest before the checkpoint exists. Whether the manifest itself is
    the right one, only --digest tells. Prints the path, that digest and the bytes. How far it is,
    stderr tells, in bytes of the artifact.

    \b
    Exit code:
      0    it is in STORE, and the DynamoCheckpoint has it
      2    wrong usage
      4    FILE, the store's name, the identity or the DynamoCheckpoint cannot be used
      5    the configuration or the kubeconfig cannot be used
      20   FILE is no such tar, damaged or another artifact, or STORE has another one of its name
      23   the CRD of another chart keeps no artifacts
      24   the store cannot be read or written
      30   the API server does not answer or refuses; the artifact is in STORE then
      130  Ctrl-C; as after SIGTERM (143), nothing half done is left

    \b
    Example:
      $ chrek import llama.tar.zst /mnt/checkpoints --checkpoint my-team/llama \\
          --identity identity.yaml
    """  # noqa: D301 - click wants the character, not the text
    if (checkpoint is None) != (identity is None):
        raise click.UsageError("Give --checkpoint and --identity, or neither.")
    if context and not checkpoint:
        raise click.UsageError("--context is for --checkpoint.")
    from chrek import transfer
    from chrek.cli import progress

    end = ends.End.of(place, options)
    asked = None
    if checkpoint and identity:
        asked = _checkpoint(checkpoint, identity, end.namespace, context)
    watch = progress.shown("reading")
    with (
        ends.undone_by_signals(),
        streams.source(file) as stream,
        ends.opened(end, options, reads=False, on_bytes=watch.moved) as store,
    ):
        where = streams.named(file, "input")
        hashed = asked[1].known.hash() if asked else ""
        with watch.artifact(where):
            done, seconds = _timed(
                *(transfer.import_from, stream, store),
                where=where,
                digest=digest,
                of=hashed,
                watch=watch,
            )
        if done.already and file == streams.STANDARD:
            # Its writer shall not fail for want of a reader.
            while stream.read(1 << 20):
                pass
        if output == "table":
            click.echo(str(done))
            _tell_rate([done], seconds)
        else:
            _print(output, [(done, seconds)])
        if asked:
            found = store.open(*done.path, done.digest)
            _make_ready(*asked, found.manifest, done.digest, quiet=output != "table")


def _checkpoint(
    reference: str, file: str, namespace: str, context: str | None
) -> tuple[reading.Reader, imported.Checkpoint]:
    """Which DynamoCheckpoint of which cluster is meant, before anything is done."""
    from chrek.cli import imported, reading

    where, _, name = reference.rpartition("/")
    raw, known = imported.read_identity(file)
    reader = reading.connect(where or namespace, context)
    wanted = imported.Checkpoint(reader.namespace, name, raw, known)
    imported.check(reader, wanted)
    return reader, wanted


def _make_ready(
    reader: reading.Reader,
    wanted: imported.Checkpoint,
    described: manifest.Manifest,
    digest: str,
    *,
    quiet: bool,
) -> None:
    from chrek.cli import imported

    now = datetime.datetime.now(datetime.UTC)
    for line in imported.make_ready(reader, wanted, described, digest, now):
        click.echo(line, err=quiet)


def _timed(move: Callable[..., transfer.Moved], *given: Any, **named: Any) -> Timed:
    begin = time.monotonic()
    done = move(*given, **named)
    return done, time.monotonic() - begin


def _print(output: str, done: Sequence[Timed], failed: Sequence[moved.Failure] = ()) -> None:
    from chrek.cli import moved

    artifacts = [moved.of(*one) for one in done]
    record = moved.Movement(artifacts=artifacts, failed=list(failed))
    printing.data(output, record, [one.path for one in artifacts])


def _tell_rate(done: Sequence[transfer.Moved], seconds: float) -> None:
    """Say how fast it was, to a person; a log has it already."""
    from chrek.cli import progress

    if not sys.stderr.isatty():
        return
    count = [one.bytes for one in done if not one.already]
    click.echo(
        f"{len(count)} of {len(done)} moved: {progress.size(sum(count))} in {seconds:.1f} s, "
        f"{progress.rate(sum(count), seconds)}",
        err=True,
    )
