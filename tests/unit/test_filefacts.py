"""Files that an artifact does not hold: found, and read within bounds."""

import dataclasses
import os
import subprocess
import sys

import pytest

from chrek import compatibility, errors, filefacts, procfs

SALT = "salt"
PIECE, PIECES = filefacts.SAMPLE_BYTES, filefacts.SAMPLES
ROOT_MOUNT = procfs.parse_mountinfo("1 0 0:1 / / rw - overlay overlay rw")[0]
HOLD = """
import mmap, os, sys
read, written, appended, mapped, gone = sys.argv[1:]
a = open(read)
b = open(written, "r+")
c = open(appended, "a")
d = mmap.mmap(os.open(mapped, os.O_RDONLY), 0, prot=mmap.PROT_READ)
e = open(gone)
os.unlink(gone)
print(flush=True)
input()
"""


def mount(point, fs_type="ext4", options="rw"):
    return dataclasses.replace(
        ROOT_MOUNT, mount_point=str(point), fs_type=fs_type, options=(options,), mount_id=7
    )


@pytest.fixture
def root():
    fd = os.open("/", os.O_PATH)
    yield fd
    os.close(fd)


@pytest.fixture
def held(tmp_path):
    """A process that holds files; returns its pid and their directory."""
    directory = tmp_path / "volume"
    directory.mkdir()
    paths = [directory / name for name in ("read", "written", "appended", "mapped", "gone")]
    for path in paths:
        path.write_text(path.name)
    argv = [sys.executable, "-c", HOLD, *map(str, paths)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        yield process.pid, directory
        process.kill()


def of_tree(pid, root, tmp_path, *mounts, captured=(), **origin):
    empty = tmp_path / "upper"
    empty.mkdir(exist_ok=True)
    upper = os.open(empty, os.O_PATH)
    try:
        return filefacts.of_tree(
            *(pid, root, [ROOT_MOUNT, *mounts], compatibility.Origin(**origin), SALT),
            upper=upper,
            captured=captured,
        )
    finally:
        os.close(upper)


def names(files):
    return {os.path.basename(file.path): file for file in files}


def test_files_on_a_volume_that_all_nodes_share(held, root, tmp_path):
    pid, directory = held
    image, found = of_tree(
        pid, root, tmp_path, mount(directory), volumes={str(directory): "shared"}
    )
    files = names(found)
    # Nothing that is deleted, and nothing that only grows.
    assert set(files) == {"read", "written", "mapped"}
    assert files["read"].mtimeSeconds == int((directory / "read").stat().st_mtime)
    assert files["written"].mtimeSeconds is None
    assert {file.digest for file in found} == {""}
    assert os.path.realpath(sys.executable) in {file.path for file in image}


def test_files_on_the_node_itself(held, root, tmp_path):
    pid, directory = held
    for origin in ({str(directory): "node"}, {}):
        _, found = of_tree(pid, root, tmp_path, mount(directory), volumes=origin)
        files = names(found)
        assert set(files) == {"read", "written", "mapped"}
        assert files["read"].mtimeSeconds is None
        assert files["read"].digest == filefacts.digest(b"read", SALT)
        assert files["written"].digest == ""


def test_what_is_captured_or_changes_by_nature_is_left_out(held, root, tmp_path):
    pid, directory = held
    _, found = of_tree(pid, root, tmp_path, mount(directory), captured=[str(directory)])
    assert found == []
    for kind in ("changing", "secret", "configMap"):
        _, found = of_tree(pid, root, tmp_path, mount(directory), volumes={str(directory): kind})
        assert found == []
    for fs_type in ("tmpfs", "proc", "mqueue"):
        _, found = of_tree(pid, root, tmp_path, mount(directory, fs_type))
        assert found == []


def test_files_of_the_root_that_were_changed_are_in_the_artifact(held, root, tmp_path):
    pid, directory = held
    image, _ = of_tree(pid, root, tmp_path)
    assert {"read", "written", "mapped"} <= set(names(image))
    changed = tmp_path / "upper" / str(directory).lstrip("/")
    changed.mkdir(parents=True)
    (changed / "read").touch()
    image, _ = of_tree(pid, root, tmp_path)
    assert "read" not in names(image)
    assert "mapped" in names(image)


def test_the_same_files_again(held, root, tmp_path):
    pid, directory = held
    volumes = {str(directory): "node"}
    _, before = of_tree(pid, root, tmp_path, mount(directory), volumes=volumes)
    assert filefacts.again(root, before, SALT) == before
    (directory / "read").write_text("READ")
    (directory / "mapped").unlink()
    now = names(filefacts.again(root, before, SALT))
    assert set(now) == {"read", "written"}
    assert now["read"].digest != names(before)["read"].digest


@pytest.mark.parametrize("where", [0, PIECE * PIECES // 2, -1])
def test_pieces_of_a_large_file(tmp_path, root, where):
    path = tmp_path / "large"
    data = bytearray(os.urandom(PIECE * PIECES + 12345))
    path.write_bytes(data)
    before = [compatibility.File(path=str(path), size=len(data), digest="x")]
    (first,) = filefacts.again(root, before, SALT)
    assert filefacts.again(root, before, SALT) == [first]
    data[where] ^= 1
    path.write_bytes(data)
    (second,) = filefacts.again(root, before, SALT)
    assert second.size == first.size
    assert (second.digest != first.digest) == (where != PIECE * PIECES // 2 or sampled(where))


def sampled(at):
    step = (PIECE * PIECES + 12345 - PIECE) // (PIECES - 1)
    return any(n * step <= at < n * step + PIECE for n in range(PIECES))


def test_nothing_but_regular_files_is_opened(tmp_path, root):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("/proc/self/root/etc/passwd")
    for name in ("pipe", "directory", "link", "absent"):
        for digest in ("", "x"):
            file = compatibility.File(path=str(tmp_path / name), size=1, digest=digest)
            assert filefacts.again(root, [file], SALT) == []


def test_a_hostile_manifest_cannot_have_the_agent_read_without_end(root):
    file = compatibility.File(path="/etc/passwd", size=1, digest="x")
    with pytest.raises(errors.ArtifactError, match="64 files"):
        filefacts.again(root, [file] * (filefacts.MOST_DIGESTED + 1), SALT)


def kubelet_volume(path, **files):
    """A volume as the kubelet's atomic writer makes it."""
    data = path / "..2026_01_01"
    for name, text in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
        top = name.split("/")[0]
        if not (path / top).is_symlink():
            (path / top).symlink_to(f"..data/{top}")
    (path / "..data").symlink_to("..2026_01_01")
    return mount(path, "tmpfs", "ro")


def of_mounts(root, *mounts, **origin):
    found = filefacts.of_mounts(root, mounts, compatibility.Origin(**origin), SALT)
    return {(kind, path): digest for kind, path, digest in found}


def test_files_of_mounted_secrets_and_config_maps(tmp_path, root):
    secret, config, token = (tmp_path / name for name in ("secret", "config", "token"))
    mounts = [
        kubelet_volume(secret, **{"tls.key": "KEY", "inner/deep": "DEEP"}),
        kubelet_volume(config, **{"a.yaml": "A"}),
        kubelet_volume(token, token="T", ca="CA"),
    ]
    volumes = {str(secret): "secret", str(config): "configMap", str(token): "configMap"}
    found = of_mounts(root, *mounts, volumes=volumes, changing={str(token): ["token"]})
    assert found == {
        ("secret", f"{secret}/tls.key"): filefacts.digest(b"KEY", SALT),
        ("secret", f"{secret}/inner/deep"): filefacts.digest(b"DEEP", SALT),
        ("configMap", f"{config}/a.yaml"): filefacts.digest(b"A", SALT),
        ("configMap", f"{token}/ca"): filefacts.digest(b"CA", SALT),
    }
    assert of_mounts(root, *mounts, volumes={str(secret): "changing"}) == {}
    assert of_mounts(root, volumes=volumes) == {}


def test_one_file_of_a_secret(tmp_path, root):
    path = tmp_path / "key"
    path.write_text("KEY")
    found = of_mounts(root, mount(path), volumes={str(path): "secret"})
    assert found == {("secret", str(path)): filefacts.digest(b"KEY", SALT)}


def test_what_a_volume_claims_to_be_is_bounded(tmp_path, root, monkeypatch):
    monkeypatch.setattr(filefacts, "MOST_MOUNTED_FILES", 5)
    monkeypatch.setattr(filefacts, "MOST_MOUNTED_BYTES", 10)
    for number in range(20):
        (tmp_path / f"f{number:02}").write_text("12345678")
    found = of_mounts(root, mount(tmp_path), volumes={str(tmp_path): "secret"})
    assert [os.path.basename(path) for _, path in found] == ["f00", "f01"]


@pytest.mark.parametrize(
    ("fs_type", "kind"),
    [
        *((name, "memory") for name in ("tmpfs", "ramfs", "hugetlbfs")),
        *((name, "disk") for name in ("ext4", "xfs", "btrfs", "overlay", "nfs4", "fuse.x")),
        *((name, name) for name in ("mqueue", "devpts", "cgroup2")),
    ],
)
def test_kinds_of_mounts(fs_type, kind):
    assert filefacts.kind(mount("/x", fs_type)) == kind
