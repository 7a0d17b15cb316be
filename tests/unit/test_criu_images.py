"""CRIU's files are read and written to the byte, and damage is an ArtifactError."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import errors
from chrek.criu import images
from chrek.criu import messages_pb2 as pb

TASKS = [pb.PstreeEntry(pid=n, ppid=0, pgid=n, sid=n, threads=[n, n + 1]) for n in (1, 300)]
GOOD = images.encode("pstree.img", TASKS)


def test_the_bytes_of_a_file():
    body = bytes.fromhex("0801 1000 1801 2001 2801 2802")
    magic = struct.pack("<II", 0x54564319, 0x50273030)
    assert images.encode("pstree.img", TASKS[:1]) == magic + struct.pack("<I", 12) + body
    assert images.decode(GOOD, pb.PstreeEntry, "pstree.img") == TASKS
    assert images.decode(magic, pb.PstreeEntry, "pstree.img") == []


def test_fields_that_are_not_named_here_survive():
    """Only part of CRIU's messages is described; what is written again must keep the rest."""
    body = TASKS[0].SerializeToString() + bytes.fromhex("fa3f 03 616263")
    data = GOOD[:8] + struct.pack("<I", len(body)) + body
    entries = images.decode(data, pb.PstreeEntry, "pstree.img")
    entries[0].sid = 7
    again = images.encode("pstree.img", entries)
    assert bytes.fromhex("fa3f 03 616263") in again
    assert images.decode(again, pb.PstreeEntry, "pstree.img")[0].sid == 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a CRIU image of this kind"),
        (GOOD[:7], "not a CRIU image of this kind"),
        (b"\0" * 8, "not a CRIU image of this kind"),
        (images.encode("core-1.img", []), "not a CRIU image of this kind"),
        (GOOD[:10], "ends inside an entry"),
        (GOOD[:-1], "ends inside an entry"),
        (GOOD[:8] + b"\xff\xff\xff\xff" + GOOD[12:], "ends inside an entry"),
        (GOOD[:8] + struct.pack("<I", 4) + b"\xff" * 4, "pstree.img: "),
        (GOOD[:8] + struct.pack("<I", 0), "an entry lacks required fields"),
    ],
)
def test_damage(tmp_path, data, message):
    (tmp_path / "pstree.img").write_bytes(data)
    with pytest.raises(errors.ArtifactError) as caught:
        images.read(tmp_path / "pstree.img", pb.PstreeEntry)
    assert message in str(caught.value)


def test_a_file_that_is_missing_or_huge(tmp_path, monkeypatch):
    with pytest.raises(errors.ArtifactError, match=r"pstree\.img: No such file"):
        images.read(tmp_path / "pstree.img", pb.PstreeEntry)
    (tmp_path / "pstree.img").write_bytes(GOOD)
    monkeypatch.setattr(images, "MAX_BYTES", len(GOOD) - 1)
    with pytest.raises(errors.ArtifactError, match="larger than"):
        images.read(tmp_path / "pstree.img", pb.PstreeEntry)


KINDS = [
    ("core-1.img", pb.CoreEntry),
    ("files.img", pb.FileEntry),
    ("seccomp.img", pb.SeccompEntry),
]


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=[name for name, _ in KINDS])
@given(data=st.binary(max_size=200), framed=st.booleans())
def test_any_bytes_are_an_image_or_an_error(name, kind, data, framed):
    if framed:
        data = images.encode(name, []) + struct.pack("<I", len(data)) + data
    with contextlib.suppress(errors.ArtifactError):
        images.encode(name, images.decode(data, kind, name))
