"""An artifact as one tar file: the manifest first, then the files that it names, in their order.

The same artifact gives the same bytes wherever and whenever it is written: no times, owners or
modes of the store are in it. With zstd around it, runs of zeros take next to nothing.

What is read may be hostile. Only headers are looked at by the standard library, 512 bytes at a
time; no more is held than a chunk and the manifest, and every entry must be the regular file, of
the name and size, that the manifest says comes next. Contents are verified by whoever asks for
them.

Source: https://www.gnu.org/software/tar/manual/html_node/Standard.html (headers),
https://www.rfc-editor.org/rfc/rfc8878 (zstd).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, Protocol, cast

import zstandard

from chrek import errors, manifest

SUFFIX = ".zst"
LEVEL = 1
WINDOW_BYTES = 8 << 20
"""As much memory a reader of zstd takes; what any level up to 19 needs."""
MOST_PADDING_BYTES = 1 << 20
"""Zeros after the end: tar fills its last record with them."""
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MAGIC = b"\x28\xb5\x2f\xfd"
"""What zstd begins with."""
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.DIRTYPE: "a directory",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.CONTTYPE: "a contiguous file",
    tarfile.GNUTYPE_LONGNAME: "a long name",
    tarfile.GNUTYPE_LONGLINK: "a long name",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
    tarfile.SOLARIS_XHDTYPE: "an extended header",
}


class Output(Protocol):
    """What a tar is written to."""

    def write(self, data: bytes, /) -> int:
        """Take all of it."""
        ...


class Input(Protocol):
    """What a tar is read from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


class Writer:
    """Writes one artifact."""

    def __init__(self, out: Output, *, compressed: bool) -> None:
        """Begin.

        Args:
            out: stays open.
            compressed: whether zstd is put around the tar.
        """
        self._zstd: zstandard.ZstdCompressionWriter | None = None
        self._out = out
        if compressed:
            tool = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
            self._zstd = tool.stream_writer(cast(IO[bytes], out), closefd=False)
            self._out = self._zstd

    def add(self, name: str, size: int, pieces: Iterable[bytes]) -> None:
        """Write a file.

        Args:
            name: at most 100 bytes.
            size: of all pieces together.
            pieces: its contents.
        """
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        self._out.write(info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict"))
        for piece in pieces:
            self._out.write(piece)
        self._out.write(bytes(-size % _BLOCK))

    def close(self) -> None:
        """End the tar: one that was not closed is refused by every reader."""
        self._out.write(_ZEROS * 2)
        if self._zstd is not None:
            self._zstd.flush(zstandard.FLUSH_FRAME)


class Reader:
    """Reads one artifact: its manifest's `text`, `chunks` of each of its files in turn, then `end`.

    All of them raise ArtifactError for what is no such tar, InputError when it cannot be read.
    """

    def __init__(self, stream: Input, where: str) -> None:
        """Begin, with zstd or without: the first bytes tell.

        Args:
            stream: where the tar begins.
            where: its name, for messages.
        """
        self._where = where
        begin = _Begun(stream)
        self._stream: Input = begin
        if self._guarded(begin.peek, len(_MAGIC)) == _MAGIC:
            tool = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
            source = cast(IO[bytes], begin)
            self._stream = tool.stream_reader(source, read_across_frames=True)

    def text(self) -> bytes:
        """The manifest, which nobody vouches for."""
        size = self._header(manifest.NAME)
        if not 0 <= size <= manifest.MAX_BYTES:
            raise self._refused(f"{manifest.NAME} has {size} bytes, not 0 to {manifest.MAX_BYTES}")
        text = self._exactly(size, manifest.NAME)
        self._padding(size, manifest.NAME)
        return text

    def chunks(self, file: manifest.File) -> Iterator[bytes]:
        """A file's contents, in pieces as the manifest has digests of, not verified."""
        size = self._header(file.name)
        if size != file.size:
            raise self._refused(f"{file.name} has {size} bytes, {manifest.NAME} says {file.size}")
        for at in range(0, size, manifest.CHUNK_BYTES):
            yield self._exactly(min(manifest.CHUNK_BYTES, size - at), file.name)
        self._padding(size, file.name)

    def end(self) -> None:
        """See that nothing comes after the last file."""
        for number in (1, 2):
            block = self._exactly(_BLOCK, "its end")
            if block != _ZEROS:
                what = self._name(block) if number == 1 else "something"
                raise self._refused(f"{what} comes after the last file that {manifest.NAME} names")
        left = MOST_PADDING_BYTES
        while data := self._some(_BLOCK):
            left -= len(data)
            if data.strip(b"\0") or left < 0:
                raise self._refused("something comes after its end")

    def _header(self, name: str) -> int:
        """The size that the next entry says it has, which must be the regular file of a name."""
        block = self._exactly(_BLOCK, f"the header of {name}")
        if block == _ZEROS:
            raise self._refused(f"it ends where {name} should come")
        info = self._parsed(block)
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            kind = _KINDS.get(info.type, f"an entry of type {info.type!r}")
            raise self._refused(f"{info.name[:100]!r} is {kind}, where {name} should come")
        if info.name != name:
            raise self._refused(f"{info.name[:100]!r} comes where {name} should")
        return info.size

    def _parsed(self, block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as err:
            raise self._refused(f"a header is damaged: {err}") from err

    def _name(self, block: bytes) -> str:
        return repr(self._parsed(block).name[:100])

    def _padding(self, size: int, name: str) -> None:
        if self._exactly(-size % _BLOCK, name).strip(b"\0"):
            raise self._refused(f"something is hidden behind {name}")

    def _exactly(self, size: int, what: str) -> bytes:
        pieces = []
        while size:
            pieces.append(self._some(size))
            size -= len(pieces[-1])
            if not pieces[-1]:
                raise self._refused(f"it ends in the middle of {what}")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _some(self, size: int) -> bytes:
        return self._guarded(self._stream.read, size)

    def _guarded(self, read: _Read, size: int) -> bytes:
        try:
            return read(size)
        except zstandard.ZstdError as err:
            raise self._refused(f"it cannot be decompressed: {err}") from err
        except OSError as err:
            raise errors.InputError(
                f"{self._where}: cannot be read: {err.strerror}", hint="give a file of chrek export"
            ) from err

    def _refused(self, why: str) -> errors.ArtifactError:
        return errors.ArtifactError(
            f"{self._where}: {why}", hint="it is no file of chrek export, or damaged: export again"
        )


class _Read(Protocol):
    def __call__(self, size: int, /) -> bytes: ...


class _Begun:
    """A stream of which the first bytes have been looked at."""

    def __init__(self, stream: Input) -> None:
        self._stream = stream
        self._head = b""

    def peek(self, size: int) -> bytes:
        """The first bytes; fewer when there are no more."""
        while len(self._head) < size and (data := self._stream.read(size - len(self._head))):
            self._head += data
        return self._head

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        if not self._head:
            return self._stream.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data
