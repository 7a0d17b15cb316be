"""Artifacts that move: the same bytes everywhere, as a whole or not at all."""

import dataclasses
import io
import itertools
import os
import pathlib
import random
import re
import stat
import tarfile
import tracemalloc

import blake3
import msgspec
import pytest
import zstandard

from chrek import errors, manifest, names, tarball, transfer
from chrek import store as stores
from fakes import backend as fake_backend
from fakes import node as nodes

HASH, VARIANT = nodes.HASH, nodes.VARIANT
OTHER = "fedcba9876543210"
CHUNK = manifest.CHUNK_BYTES


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


FILES = {
    "criu/empty.img": b"",
    "criu/inventory.img": b"inventory" * 100,
    "criu/pages-1.img": noise(CHUNK) + bytes(CHUNK) + noise(300_000, 1),
    "files.data": b"text that can be compressed " * 4_000,
}
SMALL = {"criu/a.img": noise(700), "criu/b.img": bytes(1500), "files.index": b"index"}


@pytest.fixture
def source(tmp_path):
    return stores.Store(tmp_path / "source")


@pytest.fixture
def target(tmp_path):
    return empty(tmp_path / "target")


def empty(path):
    """A store on a volume that is mounted there."""
    path.mkdir()
    return stores.Store(path)


def make(store, files=FILES, *, change=lambda text: text, **where):
    """Store an artifact; its path."""
    identity_hash, variant = where.get("identity_hash", HASH), where.get("variant", VARIANT)
    stage = store.stage(identity_hash, variant)
    nodes.fill(stage, files)
    store.commit_text(stage, change(manifest.encode(nodes.described(stage, **where))))
    return identity_hash, variant, stage.uuid


def exported(store, path, *, compressed=False):
    out = io.BytesIO()
    transfer.export_to(out, store, path, compressed=compressed)
    return out.getvalue()


def take(data, store, **options):
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    return transfer.import_from(stream, store, where="x.tar", **options)


def files_of(store, path):
    artifact = store.open(*path, store.stored_digest(*path))
    with store.fetched(artifact) as found:
        return nodes.contents(found.path)


def text_of(store, path):
    return store.open(*path, store.stored_digest(*path)).text


def tree(path):
    return sorted(str(one) for one in pathlib.Path(path).rglob("*"))


def older(text):
    """A manifest as another version may write it: the same, in other words."""
    return msgspec.json.encode(msgspec.json.decode(text), order="sorted") + b"\n\n"


def test_a_copy_has_the_same_bytes(source, target, tmp_path):
    path = make(source)
    moved = transfer.copy(source, target, path)
    assert moved == transfer.Moved(path, source.stored_digest(*path), sum(map(len, FILES.values())))
    assert str(moved) == f"{HASH}/{VARIANT}/{path[2]} {moved.digest} {moved.bytes}"
    assert files_of(target, path) == FILES
    below = [one for one in (tmp_path / "target").rglob("*")]
    assert {stat.S_IMODE(one.stat().st_mode) for one in below if one.is_dir()} == {0o700}
    assert {stat.S_IMODE(one.stat().st_mode) for one in below if one.is_file()} == {0o600}


class Watch(transfer.Watch):
    def __init__(self):
        self.totals, self.told = [], []

    def begins(self, total):
        self.totals.append(total)

    def moved(self, step, count):
        self.told.append((step, count))

    @property
    def sums(self):
        steps = dict.fromkeys(step for step, _ in self.told)
        return {step: sum(n for one, n in self.told if one == step) for step in steps}


def test_who_watches_is_told_of_every_byte(source, target, tmp_path):
    path = make(source)
    size = sum(map(len, FILES.values()))
    data = exported(source, path)
    for move in (
        lambda watch: transfer.copy(source, target, path, watch=watch),
        lambda watch: transfer.export_to(io.BytesIO(), source, path, compressed=True, watch=watch),
        lambda watch: take(data, empty(tmp_path / "other"), watch=watch),
    ):
        watch = Watch()
        move(watch)
        assert (watch.totals, watch.sums) == ([size], {transfer.FILES: size})
        assert max(count for _, count in watch.told) == CHUNK
        assert len(watch.told) == 5, "a chunk at a time"


def test_who_watches_is_told_nothing_of_what_is_there(source, target):
    path, watch = make(source), Watch()
    data = exported(source, path)
    transfer.copy(source, target, path)
    transfer.copy(source, target, path, watch=watch)
    take(data, target, watch=watch)
    assert (watch.totals, watch.told) == ([], [])


def test_what_is_damaged_is_not_told_of(source, target, tmp_path):
    path, watch = make(source), Watch()
    tmp_path.joinpath("source", *path, "criu/inventory.img").write_bytes(b"inventorz" * 100)
    with pytest.raises(errors.ArtifactError, match=r"criu/inventory\.img"):
        transfer.copy(source, target, path, watch=watch)
    assert sum(watch.sums.values()) == 0


def test_zeros_become_holes(source, target, tmp_path):
    data = bytes(CHUNK + 100_000) + b"x" + bytes(2 * CHUNK)
    path = make(source, {"criu/pages-1.img": data})
    transfer.copy(source, target, path)
    assert files_of(target, path) == {"criu/pages-1.img": data}
    copied = tmp_path.joinpath("target", *path, "criu/pages-1.img")
    assert copied.stat().st_blocks * 512 <= transfer.BLOCK_BYTES


def test_what_is_there_is_left_as_it_is(source, target, tmp_path):
    path = make(source)
    transfer.copy(source, target, path)
    data = exported(source, path)
    tmp_path.joinpath("target", *path, "files.data").write_bytes(b"seen")
    before = tree(tmp_path)
    for moved in (transfer.copy(source, target, path), take(data, target)):
        assert moved.already
        assert str(moved).endswith(f" {sum(map(len, FILES.values()))} already there")
    assert tmp_path.joinpath("target", *path, "files.data").read_bytes() == b"seen"
    assert tree(tmp_path) == before


def test_another_artifact_of_the_same_name_is_refused(source, target, tmp_path):
    path = make(source)
    data = exported(source, path)
    transfer.copy(source, target, path)
    found = tmp_path.joinpath("target", *path, manifest.NAME)
    found.write_bytes(older(found.read_bytes()))
    for move in (lambda: transfer.copy(source, target, path), lambda: take(data, target)):
        with pytest.raises(errors.ArtifactError, match="already, with another manifest") as caught:
            move()
        assert caught.value.reason == names.Reason.DIGEST_MISMATCH


def test_namespaces_do_not_meet(source, tmp_path):
    path = make(source)
    other = stores.Store(tmp_path / "source", "team-a")
    assert not transfer.copy(source, other, path).already
    assert files_of(other, path) == FILES
    assert source.artifacts() == other.artifacts() == [path]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
            "the bytes from 0 on are not",
        ),
        (lambda path: flip(path, CHUNK + 5), rf"the bytes from {CHUNK} on are not those"),
        (lambda path: os.truncate(path, CHUNK), "no regular file of"),
        (lambda path: os.truncate(path, 3 * CHUNK), "no regular file of"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "no regular file of"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file of"),
        (lambda path: path.symlink_to(path.rename(path.with_name("x"))), "symbolic links"),
        (lambda path: path.parent.rename(path.parent.with_name("x")), "No such file"),
    ],
)
def test_what_is_damaged_does_not_move(source, target, tmp_path, damage, message):
    path = make(source)
    file = tmp_path.joinpath("source", *path, "criu/pages-1.img")
    damage(file)
    with pytest.raises(errors.ArtifactError, match=message) as caught:
        transfer.copy(source, target, path)
    assert re.search(r"criu/(pages-1|empty)\.img", caught.value.message)
    assert tree(tmp_path / "target") == []
    with pytest.raises(errors.ArtifactError, match=message):
        exported(source, path)


def flip(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_what_is_missing_says_so(source, target):
    path = make(source)
    for wanted in ((OTHER, VARIANT, path[2]), (HASH, VARIANT, "abc")):
        with pytest.raises(errors.ArtifactError) as caught:
            transfer.copy(source, target, wanted)
        assert caught.value.reason == names.Reason.ARTIFACT_MISSING


def test_a_full_disk_leaves_nothing(source, target, tmp_path, monkeypatch):
    path = make(source)
    data = exported(source, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for move in (lambda: transfer.copy(source, target, path), lambda: take(data, target)):
        with pytest.raises(errors.StoreError, match=r"inventory\.img: No space left"):
            move()
        assert tree(tmp_path / "target") == []


def test_a_volume_that_is_not_mounted_is_not_written(source, tmp_path):
    path = make(source)
    absent = stores.Store(tmp_path / "absent")
    for move in (
        lambda: transfer.copy(source, absent, path),
        lambda: take(exported(source, path), absent),
    ):
        with pytest.raises(errors.StoreError, match=r"absent/.*: No such file or directory"):
            move()
    assert not (tmp_path / "absent").exists()


def test_two_at_once_do_not_mix(source, target, tmp_path):
    path = make(source)
    stage = target.stage(*path)
    before = tree(tmp_path)
    for move in (
        lambda: transfer.copy(source, target, path),
        lambda: take(exported(source, path), target),
    ):
        with pytest.raises(errors.StoreError, match="is on its way already") as caught:
            move()
        assert "swept" in caught.value.hint
    assert tree(tmp_path) == before
    target.discard(stage)
    assert not transfer.copy(source, target, path).already


def test_a_long_way_is_not_taken_for_an_abandoned_stage(source, target, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "TOUCHED_CHUNKS", 2)
    path = make(source, {"criu/pages-1.img": bytes(4 * CHUNK)})
    stage = tmp_path.joinpath("target", *path)
    swept = []

    class Slow(io.BytesIO):
        def read(self, size=-1):
            if stage.exists() and self.tell() > 3 * CHUNK:
                swept.append(target.sweep(older_than_seconds=3600))
            elif stage.exists():
                for one in (stage, stage / "criu"):
                    os.utime(one, (1, 1))
            return super().read(size)

    take(Slow(exported(source, path)), target)
    assert swept
    assert not any(swept)
    assert target.artifacts() == [path]


@pytest.mark.parametrize("compressed", [False, True])
def test_out_and_in_again(source, target, compressed):
    path = make(source)
    data = exported(source, path, compressed=compressed)
    assert data == exported(source, path, compressed=compressed), "the same each time"
    moved = take(data, target, digest=source.stored_digest(*path))
    assert moved == transfer.Moved(path, source.stored_digest(*path), sum(map(len, FILES.values())))
    assert files_of(target, path) == FILES
    assert exported(target, path, compressed=compressed) == data, "wherever it is written"


def test_what_is_in_a_tar(source):
    path = make(source, SMALL)
    with tarfile.open(fileobj=io.BytesIO(exported(source, path))) as tar:
        assert tar.getnames() == [manifest.NAME, *SMALL]
        assert {name: tar.extractfile(name).read() for name in SMALL} == SMALL
        assert tar.extractfile(manifest.NAME).read() == text_of(source, path)


def test_a_manifest_of_another_version_stays_as_it_was_written(source, target, tmp_path):
    path = make(source, change=older)
    text = text_of(source, path)
    assert text != manifest.encode(manifest.decode(text))
    transfer.copy(source, target, path)
    third = empty(tmp_path / "third")
    take(exported(target, path), third)
    assert text_of(third, path) == text


def test_memory_stays_small(source, target):
    """A tar of 192 MiB that zstd makes small: it is never in memory as a whole."""
    size = 192 << 20
    stage = source.stage(HASH, VARIANT)
    digests = [blake3.blake3(bytes(CHUNK)).hexdigest()] * (size // CHUNK)
    with (stage.path / "criu/pages-1.img").open("wb") as file:
        file.truncate(size)
    files = [manifest.File(name="criu/pages-1.img", size=size, chunks=digests)]
    described = msgspec.structs.replace(nodes.described(source.stage(HASH, "b")), files=files)
    described = msgspec.structs.replace(described, uuid=stage.uuid)
    source.commit(stage, described)
    tracemalloc.start()
    try:
        data = exported(source, (HASH, VARIANT, stage.uuid), compressed=True)
        _, out = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        take(data, target)
        _, back = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out < manifest.MAX_BYTES + 8 * CHUNK, "room for any manifest is asked for at once"
    assert back < 8 * CHUNK
    assert len(data) < 50_000


# What stores hold.


def test_selection(source):
    one, two = make(source, SMALL), make(source, SMALL)
    three = make(source, SMALL, variant="bbbb")
    make(source, SMALL, identity_hash=OTHER)

    def select(text):
        return transfer.select(source, transfer.parse(text))

    assert select(HASH) == [*sorted([one, two]), three]
    assert select(f"{HASH}/{VARIANT}") == sorted([one, two])
    assert select("/".join(two)) == [two]
    for absent in ("0" * 16, f"{HASH}/cccc"):
        with pytest.raises(errors.ArtifactError, match=f"no artifact {absent} in /") as caught:
            select(absent)
        assert caught.value.reason == names.Reason.ARTIFACT_MISSING


@pytest.mark.parametrize("bad", ["", "/", "a/b/c/d", "x", f"{HASH}/", f"{HASH}/../x", f"{HASH}//u"])
def test_paths_that_are_none(bad):
    with pytest.raises(errors.InputError, match=r"is not a (path|name) in the store"):
        transfer.parse(bad)


# Servers.


@pytest.fixture
def backend():
    return fake_backend.Memory()


@pytest.fixture
def node(backend, tmp_path):
    with nodes.Node(backend, tmp_path / "cache", size_bytes=0) as made:
        yield made


def test_to_a_server_and_back(source, target, backend, node, tmp_path):
    path = make(source, change=older)
    moved = transfer.copy(source, node.store(), path)
    assert not moved.already
    assert node.store().artifacts() == [path]
    assert transfer.copy(source, node.store(), path).already
    with nodes.Node(backend, tmp_path / "other", size_bytes=0) as other:
        assert transfer.copy(other.store(), target, path).digest == moved.digest
        assert exported(other.store(), path) == exported(source, path)
    assert files_of(target, path) == FILES
    assert text_of(target, path) == text_of(source, path)


def test_what_goes_to_a_server_and_comes_from_it_is_counted(source, target, backend, tmp_path):
    """Zeros, what is there twice and what the store has already, too."""
    path, size = make(source), sum(map(len, FILES.values()))
    twin = make(source, {**FILES, "criu/twin.img": FILES["criu/pages-1.img"]})
    more = size + len(FILES["criu/pages-1.img"])
    for one, total in ((path, size), (twin, more)):
        with nodes.Node(backend, tmp_path / f"to-{one[2]}") as to:
            transfer.copy(source, to.store(), one)
            assert {way for way, _ in to.told} == {"up"}
            assert sum(count for _, count in to.told) == total
            assert all(count >= 0 for _, count in to.told)
        with nodes.Node(backend, tmp_path / f"from-{one[2]}") as back:
            transfer.copy(back.store(), target, one)
            assert {way for way, _ in back.told} == {"down"}
            assert sum(count for _, count in back.told) == total
            assert all(count >= 0 for _, count in back.told)


def test_from_a_tar_to_a_server(source, backend, node, tmp_path):
    path = make(source)
    data = exported(source, path, compressed=True)
    assert take(data, node.store("team")).path == path
    assert node.store().artifacts() == []
    assert take(data, node.store("team")).already
    with nodes.Node(backend, tmp_path / "other") as other:
        assert files_of(other.store("team"), path) == FILES


def test_on_the_way_only_one_artifact_takes_room(source, node):
    paths = [make(source, {"criu/pages-1.img": noise(100_000, seed)}) for seed in range(3)]
    for path in paths:
        transfer.copy(source, node.store(), path)
        assert len(node.cache.kept()) == 1


def test_a_server_that_sends_other_bytes_is_found_out(source, target, backend, node, tmp_path):
    """Tables of another artifact: chunks as they should be, and not those of this one."""
    one, two = (make(source, {"criu/a.img": noise(5000, seed)}) for seed in (1, 2))
    for path in (one, two):
        transfer.copy(source, node.store(), path)
    parts = {(key.uuid, str(part)): stored for (key, part), stored in backend.parts.items()}
    for part in ("chunks.table", "places.table"):
        parts[one[2], part].data = parts[two[2], part].data
    with (
        nodes.Node(backend, tmp_path / "other") as other,
        pytest.raises(errors.ArtifactError, match=r"criu/a\.img: the bytes from 0 on"),
    ):
        transfer.copy(other.store(), target, one)
    assert tree(tmp_path / "target") == []


def test_a_server_that_goes_leaves_all_or_nothing(source, target, tmp_path):
    path = make(source, SMALL)
    backend = fake_backend.Memory()
    for number in itertools.count():
        backend.calls.clear()
        backend.fails_at = number
        cache = tmp_path / f"to-{number}"
        with nodes.Node(backend, cache) as node:
            try:
                transfer.copy(source, node.store(), path)
                break
            except errors.StoreError:
                assert not any("manifest" in part for _, part in backend.parts)
                assert tree(cache) == []
    for number in itertools.count():
        backend.calls.clear()
        backend.fails_at = number
        with nodes.Node(backend, tmp_path / f"from-{number}") as node:
            try:
                transfer.copy(node.store(), target, path)
                break
            except errors.StoreError:
                assert tree(tmp_path / "target") == []
    assert files_of(target, path) == SMALL


# Hostile tars.


def described(**changed):
    """A manifest of `SMALL`, as text."""
    files = [
        {"name": name, "size": len(data), "chunks": [blake3.blake3(data).hexdigest()]}
        for name, data in SMALL.items()
    ]
    fields = {
        "version": 1,
        "uuid": "0-1-2",
        "identityHash": HASH,
        "variant": VARIANT,
        "createdAt": "2026-01-01T00:00:00Z",
        "chrekVersion": "0.1.0",
        "rootPid": 10001,
        "stdio": ["/dev/null"] * 3,
        "volumes": [],
        "source": nodes.SOURCE,
        "files": files,
        "steps": {},
    }
    return msgspec.json.encode({**fields, **changed})


@dataclasses.dataclass
class Entry:
    """One entry of a tar, of which everything can be wrong."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    size: int | None = None
    link: str = ""
    raw: tuple[int, bytes] | None = None
    """Offset and bytes that stand in the header instead."""

    def bytes(self):
        info = tarfile.TarInfo(self.name)
        info.type, info.linkname = self.type, self.link
        info.size = len(self.data) if self.size is None else self.size
        block = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-512:])
        if self.raw:
            offset, raw = self.raw
            block[offset : offset + len(raw)] = raw
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + self.data + bytes(-len(self.data) % 512)


MANIFEST = Entry(manifest.NAME, described())
GOOD = [Entry(name, data) for name, data in SMALL.items()]
END = bytes(1024)


def tar(*entries, end=END):
    return b"".join(one if isinstance(one, bytes) else one.bytes() for one in entries) + end


def other_file(**changed):
    """A tar whose second file is as the manifest says, but for some of it."""
    second = dataclasses.replace(GOOD[1], **changed)
    return tar(MANIFEST, GOOD[0], second, GOOD[2])


def with_file(name, *, data=b"x", **changed):
    """A tar of one file that the manifest names, whatever its name is."""
    digests = [blake3.blake3(data).hexdigest()] if data else []
    file = {"name": name, "size": len(data), "chunks": digests, **changed}
    return tar(Entry(manifest.NAME, described(files=[file])), Entry(name, data))


def with_text(text):
    return tar(Entry(manifest.NAME, text), *GOOD)


ALL = tar(MANIFEST, *GOOD)
SECOND = "criu/b.img"
HOSTILE = {
    # No tar at all.
    "empty": (b"", r"ends in the middle of the header of manifest\.json"),
    "text": (b"hello\n" * 1000, "a header is damaged: .*"),
    "noise": (noise(20_000), "a header is damaged"),
    "zeros": (bytes(20_000), r"ends where manifest\.json should come"),
    "gzip": (b"\x1f\x8b\x08\0" + noise(2000), "a header is damaged"),
    "zstd of nothing": (zstandard.compress(b""), "ends in the middle of the header"),
    "zstd, damaged": (
        (lambda data: data[:60] + b"\xff" * 40 + data[100:])(zstandard.compress(ALL)),
        "cannot be decompressed",
    ),
    "zstd, then something else": (zstandard.compress(ALL) + noise(99), "cannot be decompressed"),
    "zstd, cut": (zstandard.compress(ALL)[:-800], "ends in the middle of"),
    "zstd of zstd": (zstandard.compress(zstandard.compress(ALL)), "damaged|middle of the header"),
    # Entries that are no files.
    "symbolic link": (
        other_file(type=tarfile.SYMTYPE, data=b"", link="/etc/passwd"),
        "'criu/b.img' is a symbolic link",
    ),
    "hard link": (
        other_file(type=tarfile.LNKTYPE, data=b"", link="criu/a.img"),
        "'criu/b.img' is a hard link",
    ),
    "character device": (other_file(type=tarfile.CHRTYPE), "is a character device"),
    "block device": (other_file(type=tarfile.BLKTYPE), "is a block device"),
    "named pipe": (other_file(type=tarfile.FIFOTYPE), "is a named pipe"),
    "directory": (other_file(type=tarfile.DIRTYPE), "is a directory, where criu/b"),
    "directory of old": (other_file(type=tarfile.AREGTYPE, name="criu/"), "is a directory"),
    "sparse file": (other_file(type=tarfile.GNUTYPE_SPARSE), "is a sparse file"),
    "long name": (other_file(type=tarfile.GNUTYPE_LONGNAME), "is a long name"),
    "long link": (other_file(type=tarfile.GNUTYPE_LONGLINK), "is a long name"),
    "extended header": (other_file(type=tarfile.XHDTYPE, size=8 << 30), "is an extended header"),
    "global header": (tar(Entry("x", type=tarfile.XGLTYPE), MANIFEST), "is an extended header"),
    "unknown kind": (other_file(type=b"Z"), "is an entry of type b'Z'"),
    "manifest as a link": (
        tar(Entry(manifest.NAME, type=tarfile.SYMTYPE, link="/etc/shadow")),
        "is a symbolic link",
    ),
    # Other names and another order.
    "absolute": (other_file(name="/etc/cron.d/x"), "'/etc/cron.d/x' comes where criu/b.img should"),
    "upwards": (other_file(name="../../../x"), "'../../../x' comes where criu/b.img should"),
    "same name by another way": (other_file(name="criu/./b.img"), "comes where criu/b.img should"),
    "dot slash": (other_file(name="./criu/b.img"), "comes where criu/b.img should"),
    "escape sequence": (other_file(name="\x1b[2J"), r"'\\x1b\[2J' comes where"),
    "not ASCII": (other_file(name="criu/ä.img"), "a header is damaged: .*ascii"),
    "another order": (tar(MANIFEST, GOOD[1], GOOD[0], GOOD[2]), "comes where criu/a.img should"),
    "twice": (tar(MANIFEST, GOOD[0], *GOOD), "'criu/a.img' comes where criu/b.img should"),
    "one is missing": (tar(MANIFEST, *GOOD[:2]), "it ends where files.index should come"),
    "one more": (tar(MANIFEST, *GOOD, Entry("criu/x", b"x")), "'criu/x' comes after the last file"),
    "manifest again": (tar(MANIFEST, *GOOD, MANIFEST), "'manifest.json' comes after the last file"),
    "manifest last": (tar(*GOOD, MANIFEST), "'criu/a.img' comes where manifest.json should"),
    "two artifacts": (tar(MANIFEST, *GOOD, MANIFEST, *GOOD), "comes after the last file"),
    # Sizes.
    "too short": (other_file(data=bytes(1499)), "has 1499 bytes, manifest.json says 1500"),
    "too long": (other_file(data=bytes(1501)), "has 1501 bytes, manifest.json says 1500"),
    "longer than it says": (
        other_file(data=bytes(1500) + bytes(36) + noise(512), size=1500),
        "a header is damaged",
    ),
    "negative size": (
        other_file(raw=(124, b"\xff" * 12)),
        "has -1 bytes, manifest.json says 1500|damaged",
    ),
    "endless size": (other_file(raw=(124, b"\x80" + b"\xff" * 11)), "bytes, manifest.json says"),
    "no size": (other_file(raw=(124, b"nonsense    ")), "a header is damaged"),
    "huge manifest": (
        tar(Entry(manifest.NAME, size=manifest.MAX_BYTES + 1)),
        f"has {manifest.MAX_BYTES + 1} bytes, not 0 to {manifest.MAX_BYTES}",
    ),
    "negative manifest": (
        tar(Entry(manifest.NAME, raw=(124, b"\xff" * 12))),
        "manifest.json has -1 bytes, not 0|damaged",
    ),
    "wrong checksum": (ALL[:512] + b"", "in the middle of manifest.json"),
    "checksum of another header": (
        ALL.replace(b"criu/b.img\0", b"criu/c.img\0", 1),
        "a header is damaged: bad checksum",
    ),
    "hidden behind a file": (
        other_file(data=bytes(1500) + b"hidden", size=1500),
        "something is hidden behind criu/b.img",
    ),
    # Ends.
    "no end": (tar(MANIFEST, *GOOD, end=b""), "ends in the middle of its end"),
    "half an end": (tar(MANIFEST, *GOOD, end=bytes(512)), "ends in the middle of its end"),
    "one zero block, then more": (
        tar(MANIFEST, *GOOD, bytes(512), Entry("x")),
        "something comes after the last file",
    ),
    "something after the end": (ALL + bytes(2000) + b"x", "something comes after its end"),
    "zeros without end": (
        zstandard.compress(ALL + bytes(8 << 20)),
        "something comes after its end",
    ),
    # Other bytes.
    "another byte": (
        other_file(data=bytes(1000) + b"x" + bytes(499)),
        "criu/b.img: the bytes from",
    ),
    "nothing but zeros": (
        tar(MANIFEST, Entry("criu/a.img", bytes(700)), *GOOD[1:]),
        "criu/a.img: the bytes from 0 on are not those",
    ),
    # Manifests.
    "manifest, empty": (with_text(b""), "manifest.json: "),
    "manifest, no JSON": (with_text(b"{" * 1000), "manifest.json: "),
    "manifest, deep": (with_text(b"[" * 100_000), "manifest.json: "),
    "manifest, too new": (with_text(described(version=2)), "has version 2, this chrek reads"),
    "manifest, more fields": (with_text(described(extra=1)), "unknown field"),
    "manifest, escape sequence": (
        with_text(described(**{"\x1b[2J\x07": 1})),
        r"x\.tar: manifest\.json: .*\\x1b\[2J\\x07",
    ),
    "manifest, hash upwards": (with_text(described(identityHash="../../x")), "is not a name in"),
    "manifest, variant upwards": (with_text(described(variant="../x")), "is not a name in"),
    "manifest, uuid upwards": (with_text(described(uuid="../../x")), "is not a name in"),
    "manifest, no uuid": (
        with_text(described(uuid="")),
        "a part of its path in the store is empty",
    ),
    "manifest, no variant": (with_text(described(variant="")), "a part of its path in the store"),
    "file upwards": (with_file("../x"), "'../x' is no name of an artifact's file"),
    "file far upwards": (with_file("../../../etc/x"), "is no name of an artifact's file"),
    "file absolute": (with_file("/etc/x"), "'/etc/x' is no name of an artifact's file"),
    "file is the manifest": (with_file(manifest.NAME), "'manifest.json' is no name of an"),
    "file is the manifest being written": (with_file(".manifest.json"), "is no name of an"),
    "file is the mark of a deletion": (with_file(".deleted", data=b""), "is no name of an"),
    "file in another directory": (with_file("x/y"), "'x/y' is no name of an artifact's file"),
    "file instead of the directory": (with_file("criu"), "'criu' is no name of an"),
    "file deep below": (with_file("criu/x/y"), "is no name of an artifact's file"),
    "file with a line break": (with_file("criu/a\nb"), r"'criu/a\\nb' is no name"),
    "file with a NUL": (
        with_text(described(files=[{"name": "a\0b", "size": 0, "chunks": []}])),
        "is no name of an artifact",
    ),
    "file with a long name": (with_file("a" * 91), "is no name of an artifact's file"),
    "file of less than nothing": (with_file("x", size=-5), "has 1 chunk digests"),
    "file with too few digests": (with_file("x", chunks=[]), "has 0 chunk digests"),
    "file with nonsense for a digest": (with_file("x", chunks=["../x"]), "the bytes from 0 on"),
    "file named twice": (
        with_text(described(files=[{"name": "x", "size": 0, "chunks": []}] * 2)),
        "a file is named twice",
    ),
}


def test_the_one_that_is_not_hostile(target):
    assert take(ALL, target).path == (HASH, VARIANT, "0-1-2")
    assert files_of(target, (HASH, VARIANT, "0-1-2")) == SMALL


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_is_refused(target, tmp_path, name):
    data, message = HOSTILE[name]
    make(target, SMALL, identity_hash=OTHER)
    before = tree(tmp_path)
    with pytest.raises(errors.ArtifactError, match=message) as caught:
        take(data, target)
    assert not re.search(r"[^\x20-\x7e]", str(caught.value)), "nothing for a terminal to obey"
    assert tree(tmp_path) == before


def test_a_manifest_that_was_not_asked_for(source, target, tmp_path):
    path = make(source)
    data = exported(source, path)
    wrong = "sha256:" + "0" * 64
    with pytest.raises(errors.ArtifactError, match=f"{wrong} was asked for") as caught:
        take(data, target, digest=wrong)
    assert caught.value.reason == names.Reason.DIGEST_MISMATCH
    assert tree(tmp_path / "target") == []


@pytest.mark.parametrize("compressed", [False, True])
def test_a_tar_that_is_cut_anywhere_leaves_nothing(source, target, tmp_path, compressed):
    path = make(source, SMALL)
    data = exported(source, path, compressed=compressed)
    whole = len(data) if not compressed else len(data) - 8
    for size in range(0, whole, max(1, whole // 150)):
        with pytest.raises(errors.ArtifactError):
            take(data[:size], target)
        assert tree(tmp_path / "target") == [], size


@pytest.mark.parametrize("compressed", [False, True])
def test_a_byte_that_differs_anywhere_is_found(source, target, tmp_path, compressed):
    path = make(source, SMALL)
    data = exported(source, path, compressed=compressed)
    digest = source.stored_digest(*path)
    chance = random.Random(1)
    for _ in range(150):
        at = chance.randrange(len(data))
        changed = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        try:
            take(changed, target, digest=digest)
        except errors.ArtifactError:
            assert tree(tmp_path / "target") == [], at
        else:
            # A few bits of zstd's own headers mean nothing.
            assert compressed
            assert files_of(target, path) == SMALL
            target.delete(*path, stage_seconds=0)


def test_nonsense_is_refused_with_words(target, tmp_path):
    """Parts of tars, put together by chance: never an error without a message."""
    chance = random.Random(2)
    parts = [MANIFEST.bytes(), *(one.bytes() for one in GOOD), END, noise(512), bytes(512)]
    parts += [data for data, _ in HOSTILE.values() if len(data) < 10_000]
    for _ in range(300):
        data = b"".join(chance.choices(parts, k=chance.randrange(1, 6)))
        if chance.random() < 0.3:
            data = zstandard.compress(data)
        try:
            take(data, target)
        except errors.ArtifactError:
            assert tree(tmp_path / "target") == []
        else:
            target.delete(HASH, stage_seconds=0)


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_an_import_that_is_interrupted_leaves_nothing(source, target, tmp_path, signal):
    path = make(source, SMALL)
    data = exported(source, path)

    class Interrupted(io.BytesIO):
        left = 0

        def read(self, size=-1):
            self.left -= 1
            if self.left < 0:
                raise signal
            return super().read(size)

    for count in itertools.count():
        stream = Interrupted(data)
        stream.left = count
        try:
            take(stream, target)
            break
        except signal:
            assert tree(tmp_path / "target") == [], count
    assert count > 10
    assert files_of(target, path) == SMALL


def test_an_import_that_is_interrupted_while_it_writes_leaves_nothing(
    source, target, tmp_path, monkeypatch
):
    """At each call that changes something."""
    data = exported(source, make(source, SMALL))
    for name in ("open", "ftruncate", "pwrite", "utime", "fsync"):
        real, seen = getattr(os, name), itertools.count()

        def interrupted(*args, name=name, real=real, seen=seen, **options):
            result = real(*args, **options)
            if next(seen) == 1:
                if name == "open":
                    os.close(result)
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(os, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            take(data, target)
        monkeypatch.undo()
        assert tree(tmp_path / "target") == [], name


def test_a_tar_is_written_as_it_is_verified(source, tmp_path):
    """What was damaged ends before its end, and nobody takes it."""
    path = make(source)
    flip(tmp_path.joinpath("source", *path, "files.data"), 0)
    out = io.BytesIO()
    with pytest.raises(errors.ArtifactError, match=r"files\.data"):
        transfer.export_to(out, source, path, compressed=False)
    with pytest.raises(errors.ArtifactError, match=r"in the middle of files\.data"):
        take(out.getvalue(), empty(tmp_path / "target"))
    assert tarball.SUFFIX == ".zst"
