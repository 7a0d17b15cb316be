"""Where tars go and come from: complete files only, and streams that are not read too far."""

import os
import stat

import pytest

from chrek import errors
from chrek.cli import streams


def test_a_file_has_its_name_once_it_is_complete(tmp_path):
    path = tmp_path / "x.tar"
    path.write_text("before")
    with streams.output(str(path)) as out:
        out.write(b"after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "it may hold secrets"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_fails_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "x.tar"
    path.write_text("before")

    def fail():
        with streams.output(str(path)) as out:
            out.write(b"after")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["x.tar"]


@pytest.mark.parametrize(
    ("name", "why"), [("absent/x.tar", "No such file"), (".", "Is a directory")]
)
def test_what_cannot_be_written(tmp_path, name, why):
    with (
        pytest.raises(errors.InputError, match=f"cannot be written: {why}"),
        streams.output(str(tmp_path / name)),
    ):
        pass


def test_a_source_is_read_as_far_as_it_is_asked_for(tmp_path):
    parent, child = os.pipe()
    os.write(child, b"abcdef")
    with streams.source(f"/dev/fd/{parent}") as stream:
        assert stream.read(2) == b"ab"
        assert os.read(parent, 10) == b"cdef"
    os.close(parent)
    os.close(child)


def test_a_source_that_is_not_there(tmp_path):
    with (
        pytest.raises(errors.InputError, match="absent: cannot be read: No such file"),
        streams.source(str(tmp_path / "absent")),
    ):
        pass


def test_names():
    assert streams.named("-", "output") == "standard output"
    assert streams.named("x.tar", "input") == "x.tar"


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with streams.reserved(path) as write:
            write(b"a document")
        assert os.read(reader, 100) == b"a document"
        assert path.is_fifo()
    finally:
        os.close(reader)
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]


def test_a_document_is_there_wholly_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(KeyError), streams.reserved(path):
        raise KeyError
    assert path.read_text() == "old"
    with streams.reserved(path) as write:
        write(b"new")
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]
