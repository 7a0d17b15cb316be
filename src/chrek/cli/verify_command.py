"""`chrek verify`: reads artifacts again and compares every byte with the manifest."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import click

from chrek import errors, storage
from chrek.cli import completing, ends, printing

if TYPE_CHECKING:
    from chrek import store as stores
    from chrek import transfer
    from chrek.cli import progress, records


@click.command("verify")
@click.argument("place", metavar="STORE", shell_complete=completing.directories)
@click.argument("paths", nargs=-1, metavar="[HASH[/VARIANT[/UUID]]]...")
@click.option("--all", "everything", is_flag=True, help="Everything in that part of STORE.")
@ends.options()
@ends.common_options
@printing.output_option
def command(
    place: str, paths: tuple[str, ...], everything: bool, output: str, **options: Any
) -> None:
    """Read artifacts of a store and compare every byte with the manifest.

    STORE is a directory laid out like the volume (it begins with / or ., and exists),
    s3://[HOST/]BUCKET/PREFIX, oci://REGISTRY/REPOSITORY, or `store`: the one that --config names.

    Prints a line for each artifact: path, digest of its manifest, bytes, ok or what is wrong. A bad
    one keeps nobody from reading the others. Whether the manifest itself is the right one, the
    status of the DynamoCheckpoint tells: chrek show NAME prints its digest. How far it is, stderr
    tells, in bytes of the artifact.

    \b
    Exit code:
      0    all bytes are as they were captured
      2    wrong usage
      4    a path or STORE cannot be used
      5    the configuration cannot be used
      20   an artifact is missing or damaged
      24   the store cannot be read
      130  Ctrl-C; as after SIGTERM (143), nothing is left in --scratch

    \b
    Example:
      $ chrek verify /mnt/checkpoints 5941a4cb3c363457
      $ chrek verify s3://models/chrek --all --credentials aws/
    """  # noqa: D301 - click wants the character, not the text
    if everything == bool(paths):
        raise click.UsageError("Give either paths or --all.")
    from chrek import transfer
    from chrek.cli import progress, records

    wanted = [transfer.parse(path) for path in paths]
    watch = progress.shown("comparing")
    with (
        ends.undone_by_signals(),
        ends.opened(
            ends.End.of(place, options), options, reads=True, on_bytes=watch.moved
        ) as store,
    ):
        if everything:
            found = store.artifacts()
        else:
            found = [one for path in wanted for one in transfer.select(store, path)]
        done = []
        for path in dict.fromkeys(found):
            done.append(verified(store, path, watch))
            if output == "table":
                _print(done[-1])
    if output != "table":
        printing.data(output, records.Verification(artifacts=done), [one.path for one in done])
    bad = [one.path for one in done if not one.ok]
    if bad:
        raise errors.ArtifactError(
            f"{len(bad)} of {len(done)} artifacts cannot be restored: {', '.join(bad)}",
            hint="make them again with chrek retry, or copy them from another store",
        )
    if output == "table" and not done:
        click.echo(f"{place} has no artifacts in this namespace's part", err=True)


def verified(
    store: storage.AnyStore, path: stores.ArtifactPath, watch: progress.Bar | progress.Lines
) -> records.Verified:
    """Read an artifact.

    Raises:
        StoreError: the store cannot be read, which says nothing of the artifact.
    """
    from chrek.cli import records

    begin, digest, size, problem = time.monotonic(), "", 0, ""
    try:
        with watch.artifact("/".join(path)):
            digest = store.stored_digest(*path)
            artifact = store.open(*path, digest)
            size = artifact.manifest.bytes
            watch.begins(size)
            with store.fetched(artifact) as there:
                _read(there, watch)
    except errors.ArtifactError as err:
        problem = str(err)
    return records.Verified(
        path="/".join(path),
        digest=digest,
        bytes=size,
        seconds=round(time.monotonic() - begin, 3),
        ok=not problem,
        error=problem,
    )


def _read(artifact: stores.Artifact, watch: transfer.Watch) -> None:
    """Compare all files with the manifest, in pieces; the first difference ends it."""
    from chrek import digest, manifest, transfer, verification

    # The threads end before the files are closed.
    with contextlib.ExitStack() as stack, digest.Pool() as pool:
        for file in artifact.manifest.files:
            futures = verification.begin(artifact, [file], pool, stack)
            left = file.size
            for future in futures:
                future.result()
                watch.moved(transfer.FILES, min(left, manifest.CHUNK_BYTES))
                left -= manifest.CHUNK_BYTES


def _print(one: records.Verified) -> None:
    from chrek.cli import progress

    rate = progress.rate(one.bytes, one.seconds)
    told = f"ok {one.seconds:.1f} s {rate}" if one.ok else f"BAD {one.error}"
    click.echo(f"{one.path} {one.digest or '-'} {one.bytes} {told}")
