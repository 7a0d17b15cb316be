"""The driver's libraries and device files are found wherever a node has them."""

import os
import pathlib
import platform
import stat

import pytest

from chrek import errors
from chrek.cuda import library

ROOT = os.geteuid() == 0
OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
MULTIARCH = f"usr/lib/{platform.machine()}-linux-gnu"


def elf(*, wide=True, machine=""):
    number = {"x86_64": 62, "aarch64": 183}[machine or platform.machine()]
    return b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(11) + number.to_bytes(2, "little")


def put(directory, version="580.65.06", data=None, only=()):
    """The libraries as a driver's package lays them out: links to files with the version."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("libcuda.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so"):
        if only and name not in only:
            continue
        (directory / f"{name}.{version}").write_bytes(elf() if data is None else data)
        (directory / f"{name}.1").symlink_to(f"{name}.{version}")
        (directory / name).symlink_to(f"{name}.1")


@pytest.fixture
def find(tmp_path, monkeypatch):
    """Looks below a node's root directory and nowhere else."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)

    def find(roots=library.DRIVER_ROOTS, own=()):
        return library.find(roots, tmp_path, own=own)

    return find


@pytest.mark.parametrize(
    "place",
    [
        "run/nvidia/driver/" + MULTIARCH,
        "run/nvidia/driver/usr/lib64",
        "run/nvidia/driver/lib64",
        "usr/lib64",
        MULTIARCH,
        MULTIARCH + "/nvidia/current",
        "usr/lib",
        "home/kubernetes/bin/nvidia/lib64",
        "home/kubernetes/bin/nvidia",
    ],
)
def test_each_place_is_tried(tmp_path, find, place):
    assert find() is None
    put(tmp_path / place)
    found = find()
    assert found.directory == tmp_path / place
    assert found.files["libcuda.so.1"] == tmp_path / place / "libcuda.so.580.65.06"
    assert found.files["libnvidia-ml.so.1"] == tmp_path / place / "libnvidia-ml.so.580.65.06"


def test_roots_are_tried_in_their_order(tmp_path, find):
    put(tmp_path / "usr/lib64", "535.1")
    put(tmp_path / "run/nvidia/driver/usr/lib64")
    assert find().directory == tmp_path / "run/nvidia/driver/usr/lib64"
    assert find(["/", "/run/nvidia/driver"]).directory == tmp_path / "usr/lib64"
    assert find(["/opt/nvidia"]) is None
    put(tmp_path / "opt/nvidia/lib64")
    assert find(["/opt/nvidia"]).directory == tmp_path / "opt/nvidia/lib64"
    assert find(["opt/nvidia/"]).directory == tmp_path / "opt/nvidia/lib64"


def test_own_directories_come_last_and_ld_library_path_first(tmp_path, find, monkeypatch):
    own, wished = tmp_path / "own", tmp_path / "wished"
    put(own)
    assert find(own=[str(own)]).directory == own
    put(tmp_path / "usr/lib64")
    assert find(own=[str(own)]).directory == tmp_path / "usr/lib64"
    put(wished)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"relative:{tmp_path}/absent:{wished}")
    assert find(own=[str(own)]).directory == wished


def test_this_machine_is_looked_at():
    found = library.find()
    assert found is None or set(library.REQUIRED) <= set(found.files)


def test_both_libraries_are_needed_in_one_place(tmp_path, find):
    put(tmp_path / "usr/lib64", only=["libcuda.so"])
    put(tmp_path / "lib64", only=["libnvidia-ml.so"])
    assert find() is None


@pytest.mark.parametrize("data", [elf(wide=False), elf(machine=OTHER), b"", b"INPUT(libcuda.so.2)"])
def test_libraries_for_other_programs_are_passed_over(tmp_path, find, data):
    put(tmp_path / "usr/lib64", data=data)
    assert find() is None
    put(tmp_path / "lib64")
    assert find().directory == tmp_path / "lib64"


def test_absolute_links_start_at_their_own_root(tmp_path, find):
    """As Debian's alternatives are, in the root of a driver's container."""
    root = tmp_path / "run/nvidia/driver"
    put(root / "opt/current")
    (root / "etc/alternatives").mkdir(parents=True)
    (root / MULTIARCH).mkdir(parents=True)
    for name in library.REQUIRED:
        (root / "etc/alternatives" / name).symlink_to(f"/opt/current/{name}")
        (root / MULTIARCH / name).symlink_to(f"/etc/alternatives/{name}")
    found = find()
    assert found.files["libcuda.so.1"] == root / "opt/current/libcuda.so.580.65.06"


def test_links_of_a_root_that_is_the_nodes_own_start_there(tmp_path, find):
    put(tmp_path / "var/lib/nvidia")
    (tmp_path / "home/kubernetes/bin").mkdir(parents=True)
    (tmp_path / "home/kubernetes/bin/nvidia").mkdir()
    (tmp_path / "home/kubernetes/bin/nvidia/lib64").symlink_to("/var/lib/nvidia")
    assert find().directory == tmp_path / "var/lib/nvidia"


def test_links_never_lead_out_of_the_root(tmp_path):
    root = tmp_path / "root"
    put(tmp_path / "outside")
    (root / "a").mkdir(parents=True)
    (root / "a/up").symlink_to("../../../../outside")
    (root / "a/absolute").symlink_to(tmp_path / "outside")
    (root / "a/loop").symlink_to("loop")
    (root / "a/round").symlink_to("../b")
    (root / "b").symlink_to("a/round")
    (root / "a/file").touch()
    (root / "a/self").symlink_to("/a/./file")
    for path in ("a/up", "a/absolute", "a/loop", "b", "a/absent", "a/file/more"):
        assert library.resolve(root, path) is None, path
    assert library.resolve(root, "/a/self") == root / "a/file"
    assert library.resolve(root, "a/../../a/file") == root / "a/file"
    assert library.resolve(root, "") == root


def test_only_the_family_is_linked(tmp_path, find):
    place = tmp_path / "usr/lib64"
    put(place)
    for name in ("libcudart.so.13", "libc.so.6", "libnvidia-ml.so.1.backup"):
        (place / name).write_bytes(elf())
    for name in ("libcudadebugger.so.1", "libnvidia-gpucomp.so.580.65.06"):
        (place / name).write_bytes(elf())
    (place / "libnvidia-dangling.so.1").symlink_to("absent")
    (place / "libnvidia-directory.so.1").mkdir()
    into = tmp_path / "made/links"
    into.mkdir(parents=True)
    (into / "libcuda.so.1").symlink_to("of an older driver")
    (into / "libnvidia-old.so.1").symlink_to("of an older driver")
    find().link(into)
    linked = {path.name for path in into.iterdir()}
    assert linked == {
        *("libcuda.so", "libcuda.so.1", "libcuda.so.580.65.06", "libcudadebugger.so.1"),
        *("libnvidia-ml.so", "libnvidia-ml.so.1", "libnvidia-ml.so.580.65.06"),
        *("libnvidia-ptxjitcompiler.so", "libnvidia-ptxjitcompiler.so.1"),
        *("libnvidia-ptxjitcompiler.so.580.65.06", "libnvidia-gpucomp.so.580.65.06"),
    }
    assert os.readlink(into / "libcuda.so.1") == str(place / "libcuda.so.580.65.06")
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) & 0o7000 == 0


def test_the_directory_of_links_is_made(tmp_path, find):
    put(tmp_path / "usr/lib64")
    find().link(tmp_path / "new/links")
    assert (tmp_path / "new/links/libcuda.so.1").read_bytes() == elf()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        find().link(tmp_path / "file")


def test_where_it_was_looked_for_can_be_told():
    assert library.describe(["/a", "/b"]) == (
        "on the node below /a, /b, and in the agent's container"
    )


# -- device files


def device(path, minor, major=1):
    """The numbers are those of /dev/null and its like: harmless, whatever the machine has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own-dev"
    path.mkdir()
    return path


def make(tmp_path, own):
    return library.make_device_files(tmp_path / "host", library.DRIVER_ROOTS, own)


def test_there_may_be_no_device_files(tmp_path, own):
    assert make(tmp_path, own) == []
    (tmp_path / "host/dev").mkdir(parents=True)
    (tmp_path / "host/dev/nvidia0").touch()
    (tmp_path / "host/dev/nvidia-caps").mkdir()
    assert make(tmp_path, own) == []
    assert list(own.iterdir()) == []


if ROOT:

    def test_missing_device_files_are_made(tmp_path, own):
        for minor, name in enumerate(("nvidia0", "nvidiactl", "nvidia-uvm", "null"), 3):
            device(tmp_path / "host/dev" / name, minor)
        assert make(tmp_path, own) == ["nvidia-uvm", "nvidia0", "nvidiactl"]
        assert {path.name for path in own.iterdir()} == {"nvidia-uvm", "nvidia0", "nvidiactl"}
        status = (own / "nvidiactl").stat()
        assert status.st_rdev == os.makedev(1, 4)
        assert status.st_mode == stat.S_IFCHR | 0o666
        assert make(tmp_path, own) == []

    def test_device_files_of_a_drivers_container_are_used(tmp_path, own):
        device(tmp_path / "host/run/nvidia/driver/dev/nvidia0", 3)
        device(tmp_path / "host/run/nvidia/driver/dev/nvidia1", 3)
        device(tmp_path / "host/dev/nvidia1", 5)
        assert sorted(make(tmp_path, own)) == ["nvidia0", "nvidia1"]
        assert (own / "nvidia0").stat().st_rdev == os.makedev(1, 3)
        # The node's own come first.
        assert (own / "nvidia1").stat().st_rdev == os.makedev(1, 5)

    def test_a_number_that_has_changed_is_changed(tmp_path, own):
        """The number of nvidia-uvm is another one each time that the driver is loaded."""
        device(tmp_path / "host/dev/nvidia-uvm", 5)
        device(own / "nvidia-uvm", 3)
        assert make(tmp_path, own) == ["nvidia-uvm"]
        assert (own / "nvidia-uvm").stat().st_rdev == os.makedev(1, 5)

    def test_what_is_no_device_stays(tmp_path, own):
        device(tmp_path / "host/dev/nvidia0", 3)
        (own / "nvidia0").write_text("somebody's")
        assert make(tmp_path, own) == []
        assert (own / "nvidia0").read_text() == "somebody's"

    def test_that_they_cannot_be_made_is_told(tmp_path):
        device(tmp_path / "host/dev/nvidia0", 3)
        with pytest.raises(errors.GpuError, match=r"absent/nvidia0: cannot be made") as caught:
            make(tmp_path, pathlib.Path(tmp_path / "absent"))
        assert "privileged" in caught.value.hint

else:

    def test_others_than_root_are_told(own):
        # The device files of this machine stand for those of a GPU.
        host = own.parent / "host"
        (host / "dev").mkdir(parents=True)
        with pytest.raises(PermissionError):
            device(host / "dev/nvidia0", 3)
