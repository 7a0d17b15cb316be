from __future__ import annotations

import pathlib

import pytest

from chrek import errors, procfs
from chrek.standalone import place

STATE = pathlib.Path("/var/lib/chrek/standalone/web")
MOUNTS = """\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /proc rw - proc proc rw
3 1 0:6 / /dev rw - devtmpfs dev rw
4 3 0:7 / /dev/shm rw - tmpfs tmpfs rw
5 1 0:8 / /run rw,nosuid,nodev - tmpfs tmpfs rw
6 5 0:9 / /run/user/0 rw - tmpfs tmpfs rw
7 1 8:2 / /home rw,nosuid - ext4 /dev/sda2 rw
8 1 8:3 / /data rw - xfs /dev/sdb rw
9 8 8:4 / /data/inner ro - xfs /dev/sdc ro
10 1 0:10 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
11 1 0:11 / /tmp rw - tmpfs tmpfs rw
12 11 0:12 / /tmp/inner rw - ext4 /dev/sdd rw
13 1 0:13 / /var/lib/chrek/standalone/web/staging rw - tmpfs tmpfs rw
14 1 0:14 / /snap/core ro,nodev - squashfs /dev/loop0 ro
"""


def plan(text: str = MOUNTS, *volumes: str, state: pathlib.Path = STATE) -> place.Place:
    return place.plan(procfs.parse_mountinfo(text), state, volumes, {"null": "/dev/null"})


def test_what_is_bound_cannot_be_written() -> None:
    found = plan()
    assert [(bind.path, bind.read_only) for bind in found.binds] == [
        ("/data", True),
        ("/data/inner", True),
        ("/home", True),
        ("/run", True),
        ("/snap/core", True),
    ]
    assert found.binds[3].options == ["nosuid", "nodev"]
    assert found.memory == ["/dev/shm", "/tmp"]
    assert found.devices == {"null": "/dev/null"}


def test_volumes_are_written_in_place() -> None:
    found = {bind.path: bind.read_only for bind in plan(MOUNTS, "/data", "/srv/models").binds}
    assert found["/data"] is False
    assert found["/data/inner"] is True, "it is read-only on the machine"
    assert found["/srv/models"] is False
    assert found["/home"] is True


def test_the_temporary_directory_of_the_machine_as_a_volume() -> None:
    found = plan(MOUNTS, "/tmp")
    assert found.memory == ["/dev/shm"]
    assert place.Bind(path="/tmp", read_only=False) in found.binds


def test_a_temporary_directory_on_the_root_is_part_of_it() -> None:
    text = "".join(line for line in MOUNTS.splitlines(keepends=True) if " /tmp" not in line)
    assert plan(text).memory == ["/dev/shm"]


def test_a_machine_that_is_a_container() -> None:
    with pytest.raises(errors.UnsupportedError, match="is overlay, as in a container"):
        plan("1 0 0:1 / / rw - overlay overlay rw\n")


@pytest.mark.parametrize("name", ["a b", "a,b", "a:b", "a\\b"])
def test_a_folder_that_overlayfs_cannot_name(name: str) -> None:
    with pytest.raises(errors.UnsupportedError, match="cannot be an option of overlayfs"):
        plan(state=pathlib.Path("/x") / name)


def test_device_files(tmp_path: pathlib.Path) -> None:
    for name in ("null", "nvidia0", "nvidiactl", "sda", "kvm"):
        (tmp_path / name).touch()
    (tmp_path / "nvidia-caps").mkdir()
    (tmp_path / "nvidia-caps/nvidia-cap1").touch()
    assert place.devices(tmp_path) == {
        name: str(tmp_path / name)
        for name in ("null", "nvidia0", "nvidiactl", "nvidia-caps/nvidia-cap1")
    }


def test_this_machine(tmp_path: pathlib.Path) -> None:
    try:
        found = place.look(tmp_path, [])
    except errors.UnsupportedError:
        pytest.skip("optional: this machine's root is an overlay")
    assert place.SHARED_MEMORY in found.memory
    assert found.devices["null"] == "/dev/null"
