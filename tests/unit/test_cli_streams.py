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
