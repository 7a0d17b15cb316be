"""Every byte of a file is covered by a digest, and any that differs is named."""

import contextlib
import os

import blake3
import pytest

from chrek import digest, errors, manifest

CHUNK = 1000


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK_BYTES", CHUNK)


@contextlib.contextmanager
def opened(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def described(path, pool):
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        return manifest.File(name=path.name, size=size, chunks=pool.chunks(fd, size))


def verify(path, file, pool):
    with opened(path) as fd:
        for future in pool.verify(fd, file):
            future.result(timeout=5)


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 7 * CHUNK + 3]


@pytest.mark.parametrize("size", SIZES)
def test_chunks_are_plain_blake3(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    with digest.Pool() as pool:
        file = described(tmp_path / "file", pool)
        assert file.chunks == [
            blake3.blake3(data[at : at + CHUNK]).hexdigest() for at in range(0, size, CHUNK)
        ]
        verify(tmp_path / "file", file, pool)
        pool.verify_bytes(data, file)


@pytest.mark.parametrize("at", [0, 999, 1000, 4321, 5002])
def test_one_bit_is_found_and_named(tmp_path, at):
    data = bytearray(os.urandom(5003))
    path = tmp_path / "pages-1.img"
    path.write_bytes(data)
    with digest.Pool() as pool:
        file = described(path, pool)
        data[at] ^= 8
        path.write_bytes(data)
        message = f"pages-1.img: the bytes from {at - at % CHUNK} on"
        with pytest.raises(errors.ArtifactError, match=message):
            verify(path, file, pool)
        with pytest.raises(errors.ArtifactError, match=message):
            pool.verify_bytes(bytes(data), file)


@pytest.mark.parametrize("size", [0, 4999, 5001, 6500])
def test_another_size_is_an_error(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    with digest.Pool() as pool:
        file = described(path, pool)
        path.write_bytes(bytes(size))
        message = f"file: {size} bytes instead of 5000"
        with pytest.raises(errors.ArtifactError, match=message):
            verify(path, file, pool)
        with pytest.raises(errors.ArtifactError, match=message):
            pool.verify_bytes(bytes(size), file)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5000))
    with digest.Pool() as pool:
        file = described(path, pool)
        with opened(path) as fd:
            path.write_bytes(path.read_bytes()[:1500])
            whole = manifest.File(name="file", size=1500, chunks=file.chunks)
            with pytest.raises(errors.ArtifactError):
                [future.result() for future in pool.verify(fd, whole)]


def test_leaving_drops_what_is_queued(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(2000 * CHUNK))
    with opened(path) as fd, digest.Pool() as pool:
        size = 2000 * CHUNK
        futures = pool.verify(fd, manifest.File(name="file", size=size, chunks=["x"] * 2000))
        pool.cancel()
        assert all(future.done() for future in futures)
        assert sum(future.cancelled() for future in futures) > 0
