"""An artifact as one tar: what every tar reads, and nothing else is read back."""

import io
import itertools
import os
import tarfile

import blake3
import hypothesis
import pytest
import zstandard
from hypothesis import strategies

from chrek import errors, manifest, tarball

TEXT = b'{"version": 1}\n'
CHUNK = manifest.CHUNK_BYTES


def listed(name, data):
    chunks = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    digests = [blake3.blake3(chunk).hexdigest() for chunk in chunks]
    return manifest.File(name=name, size=len(data), chunks=digests)


def written(files, *, text=TEXT, compressed=False):
    out = io.BytesIO()
    tar = tarball.Writer(out, compressed=compressed)
    tar.add(manifest.NAME, len(text), [text])
    for name, data in files.items():
        tar.add(name, len(data), [data[at : at + 1000] for at in range(0, len(data), 1000)])
    tar.close()
    return out.getvalue()


def read(stream, files):
    tar = tarball.Reader(stream, "x.tar")
    text = tar.text()
    found = {name: b"".join(tar.chunks(listed(name, data))) for name, data in files.items()}
    tar.end()
    return text, found


class Dribbles(io.RawIOBase):
    """A pipe that gives little at a time."""

    def __init__(self, data):
        self._data = io.BytesIO(data)
        self._sizes = itertools.cycle([1, 2, 511, 513, 70_000])

    def read(self, size=-1):
        return self._data.read(min(size, next(self._sizes)))


names = strategies.from_regex(r"(criu/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,89}", fullmatch=True)
contents = strategies.one_of(
    strategies.binary(max_size=3000), strategies.integers(0, 3000).map(bytes)
)


@hypothesis.given(
    strategies.dictionaries(names, contents, max_size=4), strategies.booleans(), strategies.binary()
)
def test_what_was_written_is_read(files, compressed, text):
    data = written(files, text=text, compressed=compressed)
    assert read(io.BytesIO(data), files) == (text, files)
    assert read(Dribbles(data), files) == (text, files)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, CHUNK - 1, CHUNK, CHUNK + 1])
def test_sizes_around_blocks_and_chunks(size):
    files = {"criu/a.img": os.urandom(size), "b": b"x"}
    assert read(io.BytesIO(written(files)), files) == (TEXT, files)


def test_any_tar_reads_it():
    files = {"criu/pages-1.img": os.urandom(5000), "files.index": b""}
    for compressed in (False, True):
        data = written(files, compressed=compressed)
        if compressed:
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            found = tar.getmembers()
            assert [one.name for one in found] == [manifest.NAME, *files]
            assert {(one.mode, one.uid, one.gid, one.mtime, one.uname) for one in found} == {
                (0o600, 0, 0, 0, "")
            }
            assert {name: tar.extractfile(name).read() for name in files} == files


def test_what_tar_makes_of_the_same_files_is_read():
    """With its records of 10240 bytes, and in both of its older formats."""
    files = {"criu/pages-1.img": os.urandom(5000), "files.index": b"x"}
    for kind in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            for name, data in {manifest.NAME: TEXT, **files}.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.uname = len(data), 1_700_000_000, "root"
                tar.addfile(info, io.BytesIO(data))
        assert len(out.getvalue()) % 10240 == 0
        assert read(io.BytesIO(out.getvalue()), files) == (TEXT, files)


def test_what_zstd_makes_of_the_same_tar_is_read():
    files = {"a": bytes(3 << 20)}
    data = written(files)
    for level in (1, 3, 19):
        for threads in (0, 2):
            tool = zstandard.ZstdCompressor(level=level, threads=threads)
            assert read(io.BytesIO(tool.compress(data)), files) == (TEXT, files)
    halves = [zstandard.compress(part) for part in (data[:1000], data[1000:])]
    assert read(io.BytesIO(b"".join(halves)), files) == (TEXT, files), "frames one after the other"


def test_zeros_take_next_to_nothing():
    size = 64 << 20
    out = io.BytesIO()
    tar = tarball.Writer(out, compressed=True)
    tar.add("criu/pages-1.img", size, (bytes(CHUNK) for _ in range(size // CHUNK)))
    tar.close()
    assert len(out.getvalue()) < 10_000


def test_a_size_beyond_octal_digits():
    """8 GiB and more: nothing but the header is written here."""
    out = io.BytesIO()
    size = 100 << 40
    tarball.Writer(out, compressed=False).add("criu/pages-1.img", size, [])
    assert tarfile.TarInfo.frombuf(out.getvalue()[:512], "ascii", "strict").size == size
    tar = tarball.Reader(io.BytesIO(out.getvalue() + bytes(CHUNK)), "x.tar")
    file = manifest.File(name="criu/pages-1.img", size=size, chunks=[])
    assert next(tar.chunks(file)) == bytes(CHUNK)


def test_a_file_that_cannot_be_read():
    class Broken(io.RawIOBase):
        def read(self, _=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(errors.InputError, match=r"x\.tar: cannot be read: Input/output error"):
        tarball.Reader(Broken(), "x.tar")


def test_a_reader_of_zstd_takes_little_memory():
    """What was compressed with a window of 128 MiB would need as much to be read."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    tool = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = tool.compress(written({"a": os.urandom(1000)})) + tool.flush()
    with pytest.raises(errors.ArtifactError, match=r"cannot be decompressed: .*memory"):
        read(io.BytesIO(data), {"a": b""})
