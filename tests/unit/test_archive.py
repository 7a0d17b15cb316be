"""What goes into an archive comes out of it, and a hostile one harms nothing."""

import contextlib
import io
import os
import pathlib
import stat
import subprocess
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrek import archive, errors, inode

ROOT = os.geteuid() == 0


@contextlib.contextmanager
def opened(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def pack(path, *, skip=frozenset()):
    """Capture a directory as volume 0: its entries and data."""
    data = io.BytesIO()
    writer = archive.Writer(data)
    with opened(path) as fd:
        writer.add(0, fd, skip=skip)
    return archive.decode(writer.index(), 1, len(data.getvalue())), data.getvalue()


def put(path, entries, data=b"", *, replace=True, mirror=False):
    with opened(path) as fd:
        volumes = {0: fd}
        return archive.apply(
            *(entries, io.BytesIO(data), volumes),
            replace={0} if replace else set(),
            mirror={0} if mirror else set(),
        )


def entry(path, kind="file", **fields):
    owner = {"uid": os.geteuid(), "gid": os.getegid()}
    return inode.Entry(volume=0, path=path, kind=kind, **{"mode": 0o644, **owner, **fields})


def look(top):
    """Everything that is visible of a tree, for comparison."""
    seen = {}
    for directory, names, files in os.walk(top, followlinks=False):
        for name in [".", *names, *files]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            facts = [stat.filemode(info.st_mode), info.st_uid, info.st_gid]
            if not stat.S_ISLNK(info.st_mode):
                facts.append(info.st_mtime_ns)
                facts.append(sorted((n, os.getxattr(path, n)) for n in os.listxattr(path)))
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    facts += [info.st_nlink, file.read()]
            elif stat.S_ISLNK(info.st_mode):
                facts.append(os.readlink(path))
            seen[os.path.relpath(path, top)] = facts
    return seen


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target"
    path.mkdir()
    return path


def test_a_tree_comes_back_as_it_was(source, target):
    (source / "plain").write_bytes(b"plain" * 1000)
    (source / "empty").touch()
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/file").write_text("x")
    (source / "deep/link").symlink_to("er/file")
    (source / "dangling").symlink_to("/nowhere/at all")
    os.link(source / "plain", source / "deep/again")
    os.link(source / "plain", source / "thrice")
    os.mkfifo(source / "fifo", 0o640)
    (source / "setgid").mkdir()
    (source / "setgid").chmod(0o2770)
    (source / "plain").chmod(0o4751)
    (source / "with\nnewline \\ é").write_text("odd")
    os.utime(source / "plain", ns=(1, 987_654_321_123_456_789))
    os.utime(source / "deep/er", ns=(1, 1_000_000_001))
    os.utime(source, ns=(1, 2_000_000_002))
    if ROOT:
        os.chown(source / "empty", 1234, 5678)
        os.chown(source / "dangling", 1234, 5678, follow_symlinks=False)
    put(target, *pack(source))
    assert look(target) == look(source)
    assert (target / "plain").stat().st_ino == (target / "deep/again").stat().st_ino


def test_extended_attributes_come_back(source, target):
    (source / "file").touch()
    (source / "directory").mkdir()
    try:
        os.setxattr(source / "file", "user.one", b"\0\xff")
        os.setxattr(source / "directory", "user.two", b"")
    except OSError as err:
        pytest.skip(f"optional: no user attributes on {source}: {err}")
    put(target, *pack(source))
    assert os.getxattr(target / "file", "user.one") == b"\0\xff"
    assert os.getxattr(target / "directory", "user.two") == b""


def test_holes_stay_holes(source, target):
    size = 1 << 30
    with open(source / "sparse", "wb") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"middle", size // 2)
        os.pwrite(file.fileno(), b"end", size - 3)
    with open(source / "hole", "wb") as file:
        file.truncate(size)
    entries, data = pack(source)
    assert len(data) < 1 << 20
    put(target, entries, data)
    for name in ("sparse", "hole"):
        assert (target / name).stat().st_size == size
        assert (target / name).stat().st_blocks * 512 < 1 << 20
    with open(target / "sparse", "rb") as file:
        assert os.pread(file.fileno(), 8, size // 2 - 1) == b"\0middle\0"
        assert os.pread(file.fileno(), 9, size - 4) == b"\0end"


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
NAMES = NAMES.filter(lambda n: n not in (".", "..") and len(n.encode()) < 200)
TREES = st.recursive(
    st.binary(max_size=20_000), lambda inner: st.dictionaries(NAMES, inner, max_size=4)
)


@settings(max_examples=40)
@given(tree=st.dictionaries(NAMES, TREES, max_size=4), mode=st.integers(0, 0o7777))
def test_any_tree_comes_back(tmp_path_factory, tree, mode):
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")

    def make(path, what):
        if isinstance(what, dict):
            path.mkdir(exist_ok=True)
            for name, inner in what.items():
                make(path / name, inner)
        else:
            path.write_bytes(what)
            path.chmod(mode | 0o600)

    make(source, tree)
    put(target, *pack(source))
    assert look(target) == look(source)


def test_sockets_are_left_out_and_skipped_paths_too(source):
    import socket

    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(source / "socket"))
    (source / "etc/inner").mkdir(parents=True)
    (source / "etc/hosts").touch()
    (source / "proc/1").mkdir(parents=True)
    entries, _ = pack(source, skip=frozenset({b"etc/hosts", b"proc"}))
    assert sorted(e.path for e in entries) == [b"", b"etc", b"etc/inner"]


needs_root = pytest.mark.system


@needs_root
def test_a_device_node_is_refused(source):
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with pytest.raises(errors.UnsupportedError, match="'null'"):
        pack(source)


@needs_root
def test_a_whiteout_removes_what_the_image_has(source, target):
    (source / "a").mkdir()
    for name in ("a/file", "directory", "absent"):
        os.mknod(source / name, stat.S_IFCHR, os.makedev(0, 0))
    (target / "a").mkdir()
    (target / "a/file").write_text("of the image")
    (target / "a/other").write_text("of the image")
    (target / "directory/below").mkdir(parents=True)
    put(target, *pack(source))
    assert os.listdir(target) == ["a"]
    assert os.listdir(target / "a") == ["other"]


@needs_root
def test_an_opaque_directory_hides_what_the_image_has(source, target):
    (source / "opaque").mkdir()
    (source / "opaque/new").touch()
    (source / "merged").mkdir()
    os.setxattr(source / "opaque", "trusted.overlay.opaque", b"y")
    for name in ("opaque", "merged"):
        (target / name).mkdir()
        (target / name / "old").touch()
    put(target, *pack(source))
    assert os.listdir(target / "opaque") == ["new"]
    assert os.listdir(target / "merged") == ["old"]
    assert os.listxattr(target / "opaque") == []


@pytest.fixture
def elsewhere(target):
    """The target as a container sees it, in which two paths are mounts."""
    for name in ("mounted", "empty", "from"):
        (target / name).mkdir()
    (target / "mounted file").write_text("below")
    (target / "from/file").write_text("mounted")
    script = (
        'cd "$0" && mount --bind from mounted && mount --bind from empty'
        ' && mount --bind from/file "mounted file" && echo && exec sleep 60'
    )
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(target)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as container:
        assert container.stdout.readline() == b"\n"
        yield pathlib.Path(f"/proc/{container.pid}/root{target}")
        container.kill()


@needs_root
@pytest.mark.parametrize("mirror", [False, True])
def test_mounts_of_the_container_stay_mounted(elsewhere, mirror):
    """The kernel unmounts what is mounted on a name that is removed from another namespace."""
    wanted = [
        entry(b"", "directory", mode=0o755),
        entry(b"empty", "whiteout"),
        entry(b"mounted", "directory", opaque=True),
        entry(b"mounted/inner"),
        entry(b"mounted file"),
    ]
    for entries in (wanted, [entry(b"mounted file", "whiteout")], wanted[:1]):
        put(elsewhere, entries, mirror=mirror)
        assert os.listdir(elsewhere / "mounted") == os.listdir(elsewhere / "empty")
        assert (elsewhere / "mounted file").read_text() == "mounted"
    assert (elsewhere / "from").exists() is not mirror


@needs_root
def test_mounts_in_a_volume_are_not_part_of_it(elsewhere):
    entries, _ = pack(elsewhere)
    assert sorted(e.path for e in entries) == [b"", b"from", b"from/file"]


def test_captured_files_replace_others_of_any_kind(source, target):
    (source / "file").write_text("captured")
    (source / "directory").mkdir()
    (source / "link").symlink_to("captured")
    (target / "file").mkdir()
    (target / "file/inner").touch()
    (target / "directory").symlink_to("/")
    (target / "link").write_text("old")
    (target / "kept").write_text("of the image")
    entries, data = pack(source)
    put(target, entries, data)
    assert (target / "file").read_text() == "captured"
    assert not (target / "directory").is_symlink()
    assert (target / "link").readlink().name == "captured"
    assert (target / "kept").exists()


def test_a_mirrored_volume_equals_the_capture(source, target):
    (source / "kept").write_text("new")
    (source / "directory").mkdir()
    (target / "directory/more/inner").mkdir(parents=True)
    (target / "directory/more/file").touch()
    (target / "kept").write_text("old")
    (target / "link").symlink_to("/etc")
    put(target, *pack(source), mirror=True)
    assert look(target) == look(source)


def test_a_shared_volume_is_only_added_to(source, target):
    (source / "both").write_text("captured")
    (source / "new").write_text("captured")
    (source / "directory/new").mkdir(parents=True)
    (source / "wrong").mkdir()
    (target / "both").write_text("theirs")
    (target / "directory").mkdir(mode=0o700)
    (target / "wrong").write_text("theirs")
    os.utime(target / "directory", ns=(0, 5))
    entries, data = pack(source)
    entries.append(entry(b"gone", "whiteout"))
    (target / "gone").touch()
    put(target, entries, data, replace=False)
    assert (target / "both").read_text() == (target / "wrong").read_text() == "theirs"
    assert (target / "new").read_text() == "captured"
    assert (target / "directory/new").is_dir()
    assert stat.S_IMODE((target / "directory").stat().st_mode) == 0o700
    assert (target / "gone").exists()


def test_volumes_that_are_not_there_are_passed_over(tmp_path, target):
    data = io.BytesIO()
    writer = archive.Writer(data)
    for volume in range(2):
        (tmp_path / str(volume)).mkdir()
        (tmp_path / str(volume) / "file").write_text(f"of {volume}" * 10)
        with opened(tmp_path / str(volume)) as fd:
            writer.add(volume, fd)
    with opened(target) as fd:
        data.seek(0)
        count = archive.apply(writer.entries, data, {1: fd}, replace=set(), mirror={0, 1})
    assert count == 1
    assert (target / "file").read_text() == "of 1" * 10


PLANTED = [
    ([entry(b"var/file", size=1, extents=[(0, 1)])], b"x"),
    ([entry(b"var/directory", "directory")], b""),
    ([entry(b"var/victim", "whiteout")], b""),
    ([entry(b"var/link", "symlink", target=b"x")], b""),
    ([entry(b"var/fifo", "fifo")], b""),
    ([entry(b"new", "hardlink", target=b"var/victim")], b""),
    ([entry(b"way", "symlink", target=b"../outside"), entry(b"way/file")], b""),
]


@pytest.mark.parametrize(("entries", "data"), PLANTED)
def test_a_link_planted_on_the_way_leads_nowhere(tmp_path, target, entries, data):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    (target / "var").symlink_to("../outside")
    before = look(outside)
    with pytest.raises(errors.ArtifactError, match="something else at this path"):
        put(target, entries, data)
    assert look(outside) == before


def test_a_link_planted_at_the_place_itself_is_replaced(tmp_path, target):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    before = look(outside)
    for name in ("file", "directory", "gone"):
        (target / name).symlink_to("../outside/victim")
    wanted = [entry(b"file"), entry(b"directory", "directory"), entry(b"gone", "whiteout")]
    put(target, wanted)
    assert look(outside) == before
    assert sorted(os.listdir(target)) == ["directory", "file"]
    assert not (target / "file").is_symlink()


def index(*entries):
    return msgspec.msgpack.encode(list(entries))


BAD = [
    (b"", "truncated"),
    (b"\xc1", "malformed"),
    (msgspec.msgpack.encode({}), "array"),
    (msgspec.msgpack.encode([{"volume": 0, "path": b"x"}]), "kind"),
    (msgspec.msgpack.encode([{"volume": 0, "path": b"x", "kind": "file", "odd": 1}]), "odd"),
    *(
        (index(entry(path)), "is not one")
        for path in (b"../x", b"/x", b"x/", b"a//b", b"a/../b", b".", b"..", b"a/./b", b"a\0b")
    ),
    (index(entry(b"a", "hardlink", target=b"../b")), "is not one"),
    (index(entry(b"a", "hardlink", target=b"/etc/passwd")), "is not one"),
    (index(entry(b"a", "hardlink", target=b"")), "is not one"),
    (index(entry(b"a", "symlink", target=b"b\0c")), "is not one"),
    (index(entry(b"a", "symlink", target=b"")), "is not one"),
    (index(entry(b"a", "device")), "kind 'device'"),
    (index(entry(b"", "file")), "is not one"),
    (index(entry(b"a"), entry(b"b"), entry(b"a")), "twice"),
    (index(inode.Entry(volume=2, path=b"a", kind="file")), "volume 2 of 1"),
    (index(inode.Entry(volume=-1, path=b"a", kind="file")), "volume -1 of 1"),
    (index(entry(b"a", size=4, extents=[(0, 5)])), "not in order"),
    (index(entry(b"a", size=4, extents=[(2, 1), (0, 1)])), "not in order"),
    (index(entry(b"a", size=4, extents=[(0, 2), (1, 2)])), "not in order"),
    (index(entry(b"a", size=4, extents=[(0, 0)])), "not in order"),
    (index(entry(b"a", size=4, extents=[(-1, 2)])), "not in order"),
    (index(entry(b"a", size=4, extents=[(0, 3)])), "names 3 bytes of 0"),
    (index(entry(b"a", size=-1)), "size -1"),
    (index(entry(b"a", size=1 << 63)), f"size {1 << 63}"),
    (index(entry(b"a", mode=0o10000)), "mode 0o10000"),
    (index(entry(b"a", uid=-1)), "owner -1"),
    (index(entry(b"a", gid=1 << 32)), f":{1 << 32}"),
    (index(entry(b"a", mtime_ns=1 << 63)), "time"),
    (index(entry(b"a", xattrs={"user.a\0": b""})), "attribute"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_index_is_refused(data, message):
    with pytest.raises(errors.ArtifactError) as caught:
        archive.decode(data, 1, 0)
    assert str(caught.value).startswith("files.index: ")
    assert message in str(caught.value)


@given(data=st.binary(max_size=400), used=st.integers(0, 50))
def test_any_bytes_are_an_index_or_an_error(data, used):
    with contextlib.suppress(errors.ArtifactError):
        archive.decode(data, 1, used)


INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1)
ANY_ENTRY = st.builds(
    inode.Entry,
    volume=st.integers(0, 1),
    path=st.binary(max_size=6) | st.sampled_from([b"a", b"a/b", b"b", b"c/a", b""]),
    kind=st.sampled_from(["file", "directory", "symlink", "fifo", "hardlink", "whiteout", "x"]),
    mode=st.integers(0, 0o7777) | INTEGERS,
    uid=st.integers(0, 70000) | INTEGERS,
    gid=st.integers(0, 70000) | INTEGERS,
    mtime_ns=INTEGERS,
    target=st.binary(max_size=6) | st.sampled_from([b"a", b"..", b"a/b"]),
    size=st.integers(0, 1 << 20) | INTEGERS,
    xattrs=st.dictionaries(st.text(max_size=5) | st.just("user.x"), st.binary(max_size=4)),
    opaque=st.booleans(),
)


@settings(max_examples=150)
@given(entries=st.lists(ANY_ENTRY, max_size=6), replace=st.booleans(), mirror=st.booleans())
def test_any_index_that_is_decoded_is_applied_or_refused(
    tmp_path_factory, entries, replace, mirror
):
    """Nothing but ArtifactError, and nothing outside of the volume."""
    top = tmp_path_factory.mktemp("any")
    (top / "volume/a").mkdir(parents=True)
    (top / "volume/a/b").symlink_to("../..")
    (top / "outside").write_text("untouched")
    with contextlib.suppress(errors.ArtifactError):
        decoded = archive.decode(msgspec.msgpack.encode(entries), 2, 0)
        put(top / "volume", decoded, replace=replace, mirror=mirror)
    assert sorted(os.listdir(top)) == ["outside", "volume"]
    assert (top / "outside").read_text() == "untouched"


def test_data_that_ends_early_is_an_error(target):
    with pytest.raises(errors.ArtifactError, match="ends too early"):
        put(target, [entry(b"a", size=8, extents=[(0, 8)])], b"1234")


def test_too_many_files_are_refused(source, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    for name in "abc":
        (source / name).touch()
    with pytest.raises(errors.UnsupportedError, match="more than 3"):
        pack(source)


def test_a_file_that_vanishes_while_it_is_captured_is_left_out(source, target, monkeypatch):
    """Other containers of the pod write into shared volumes at any time."""
    for name in ("gone", "stays"):
        (source / name).write_text(name)
        os.link(source / name, source / f"{name} too")
    walk = archive.walk

    def racing(*args):
        for path, info in list(walk(*args)):
            if path == b"gone":
                (source / "gone").unlink()
            yield path, info

    monkeypatch.setattr(archive, "walk", racing)
    put(target, *pack(source))
    assert (target / "stays").read_text() == (target / "stays too").read_text() == "stays"
    assert (target / "gone too").read_text() == "gone"


def test_two_thousand_files_take_no_time(source, target):
    for number in range(2000):
        (source / str(number)).write_text("x")
    begin = time.monotonic()
    put(target, *pack(source))
    assert len(os.listdir(target)) == 2000
    assert time.monotonic() - begin < 5


def test_an_index_that_is_not_utf_8_is_refused():
    """msgspec tells of it by another exception than of all else."""
    with pytest.raises(errors.ArtifactError, match=archive.INDEX):
        archive.decode(b"\x91\x81\xa1\xff\xc0", 1, 0)
