"""What is of the old pod in the images becomes the new one's."""

import os
import time
import types

import pytest

from chrek import log, procfs, surroundings
from chrek.criu import images
from chrek.criu import messages_pb2 as pb

LOG = log.get(__name__)
OLD, NEW = "..2026_11_24_10_00_00.1", "..2026_11_25_11_11_11.22"

MOVED = [
    ([], ["10.0.0.2"], {}),
    (["10.0.0.1"], [], {}),
    (["10.0.0.1"], ["10.0.0.1"], {}),
    (["10.0.0.1"], ["10.0.0.2"], {"10.0.0.1": "10.0.0.2"}),
    (
        ["10.0.0.1", "fd00::1"],
        ["fd00::2", "10.0.0.2"],
        {"10.0.0.1": "10.0.0.2", "fd00::1": "fd00::2"},
    ),
    (["fd00::1"], ["10.0.0.2"], {}),
    (["10.0.0.1", "10.1.0.1"], ["10.0.0.2"], {"10.0.0.1": "10.0.0.2"}),
]


@pytest.mark.parametrize(("old", "new", "expected"), MOVED)
def test_addresses_move_within_their_family(old, new, expected):
    assert surroundings.moved_addresses(old, new) == expected


def regular(name):
    return pb.FileEntry(type=1, id=1, reg=pb.RegFileEntry(id=1, flags=0, name=name, size=7))


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        (f"etc/config/{OLD}/setting", f"etc/config/{NEW}/setting"),
        (f"/etc/config/{OLD}/a/b", f"/etc/config/{NEW}/a/b"),
        (f"etc/config/{OLD}", f"etc/config/{NEW}"),
        (f"etc/other/{OLD}/setting", None),
        ("etc/config/setting", None),
        ("etc/config/..dated/setting", None),
        (f"etc/{OLD}x/config/setting", None),
    ],
)
def test_files_of_the_kubelet_are_found_by_their_new_name(name, renamed):
    entry = regular(name)
    found = surroundings._rename([entry], {"/etc/config": NEW})
    assert found == ({1} if renamed else set(), 0)
    assert entry.reg.name == (renamed or name)
    assert entry.reg.HasField("size") == (renamed is None)


@pytest.mark.parametrize(
    ("name", "resized"),
    [("etc/hosts", 1), ("/etc/resolv.conf", 1), ("dev/termination-log", 1), ("srv/etc/hosts", 0)],
)
def test_files_that_each_pod_has_of_its_own_may_have_any_size(name, resized):
    entry = regular(name)
    assert surroundings._rename([entry], {}) == (set(), resized)
    assert entry.reg.name == name
    assert entry.reg.HasField("size") == (not resized)


def test_the_newest_folder_is_what_the_link_leads_to(tmp_path, monkeypatch):
    made = {}
    for name, target in (("one", NEW), ("two", "../elsewhere"), ("three", None)):
        (tmp_path / name).mkdir()
        if target:
            (tmp_path / name / "..data").symlink_to(target)
        made[f"/{name}"] = str(tmp_path / name)

    def mount(_root, point, _number):
        return os.open(made[point], os.O_PATH | os.O_DIRECTORY)

    monkeypatch.setattr(surroundings.rootfd, "mount", mount)
    mounts = [
        procfs.Mount(number, 1, "0:1", "/", point, (), "tmpfs", "tmpfs", ())
        for number, point in enumerate(made)
    ]
    assert surroundings.folders(os.getpid(), mounts) == {"/one": NEW}


def test_images_are_edited_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings.procfs, "addresses", lambda _: ["10.0.0.2"])
    monkeypatch.setattr(surroundings, "folders", lambda *_: {"/etc/config": NEW})
    monkeypatch.setattr(surroundings.procfs, "mounts", lambda _: [])
    files = [regular(f"etc/config/{OLD}/setting"), regular("usr/bin/python3")]
    (tmp_path / "files.img").write_bytes(images.encode("files.img", files))
    stream = images.encode(
        "tcp-stream-1.img", [pb.TcpStreamEntry(inq_len=1, outq_len=3, unsq_len=2)]
    )
    (tmp_path / "tcp-stream-1.img").write_bytes(stream + b"abcd")
    described = types.SimpleNamespace(
        source=types.SimpleNamespace(addresses=["10.0.0.1"]), createdAt="2026-11-25T10:00:00Z"
    )
    surroundings.adapt(tmp_path, described, 1, LOG)
    found = images.read(tmp_path / "files.img", pb.FileEntry)
    assert [entry.reg.name for entry in found] == [f"etc/config/{NEW}/setting", "usr/bin/python3"]
    head, rest = images.head(
        (tmp_path / "tcp-stream-1.img").read_bytes(), pb.TcpStreamEntry, "tcp-stream-1.img"
    )
    assert (head.unsq_len, rest) == (0, b"abcd")


def test_time_passes_and_never_backwards():
    def written(seconds):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))

    assert 90 < surroundings._seconds_since(written(-100)) < 110
    assert surroundings._seconds_since(written(1000)) == 0
    assert surroundings._seconds_since("when") == 0


def test_replaced_files_of_the_kubelet_are_not_made_again(tmp_path):
    path = tmp_path / "remap-fpath.img"
    surroundings._forget_deleted(tmp_path, {1})
    assert not path.exists()
    remaps = [pb.RemapFilePathEntry(orig_id=number, remap_id=7, remap_type=1) for number in (1, 2)]
    path.write_bytes(images.encode(path.name, remaps))
    surroundings._forget_deleted(tmp_path, {1, 5})
    assert [one.orig_id for one in images.read(path, pb.RemapFilePathEntry)] == [2]
