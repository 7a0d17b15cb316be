"""What is in a store is believed by nobody: what somebody made up does no harm."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Callable
from typing import Any

import pytest

from chrek import errors, manifest
from store import places, samples
from store.checks import CORRUPT, DIFFERENT, LOST, UNREADABLE, harmless, refused
from store.samples import CHUNK, CORE, HASH, PAGES, VARIANT

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]
DIGEST = "0" * 64


# Manifests that somebody made up, whose digest the status names.


def entry(name: str, size: int = 1, chunks: int = 1) -> dict[str, Any]:
    return {"name": name, "size": size, "chunks": [DIGEST] * chunks}


HOSTILE_ENTRIES: dict[str, list[dict[str, Any]]] = {
    "up": [entry("../x")],
    "up from below": [entry("criu/../../x")],
    "up at the end": [entry("criu/..")],
    "far up": [entry("../" * 20 + "tmp/chrek-planted")],
    "absolute": [entry("/tmp/chrek-planted")],
    "a device": [entry("/dev/zero", 1 << 20)],
    "a process": [entry("/proc/self/mem")],
    "empty": [entry("")],
    "a directory by a slash": [entry("criu/")],
    "itself": [entry(".")],
    "a dot between": [entry("./x")],
    "two slashes": [entry("criu//x")],
    "too deep": [entry("criu/a/b")],
    "NUL": [entry("criu/a\0b")],
    "half a character": [entry("criu/\ud800")],
    "twice": [entry("files.data"), entry("files.data")],
    "negative": [entry("criu/x", -1)],
    "huge, without chunks": [entry("criu/x", 1 << 62)],
    "huge, beyond 64 bits": [entry("criu/x", 1 << 70)],
    "chunks too many": [entry("criu/x", 1, 2)],
    "chunks too few": [entry("criu/x", CHUNK + 1)],
}
"""What no manifest can say."""

HOSTILE_FILES: dict[str, list[dict[str, Any]]] = {
    "a directory": [entry("criu", 4096)],
    "no file name can be so long": [entry("criu/" + "x" * 5000)],
    "the manifest": [entry("manifest.json")],
    "the mark of a deletion": [entry(".deleted")],
    "a file and a directory": [entry("files"), entry("files/data")],
    "huge": [entry("criu/x", 20_000 * CHUNK, 20_000)],
    "huge, of pages": [entry("criu/pages-9.img", 20_000 * CHUNK, 20_000)],
    "a digest of letters": [{"name": "criu/x", "size": 1, "chunks": ["../../x"]}],
    "no digest": [{"name": "criu/x", "size": 1, "chunks": [""]}],
}
"""What it can say, and nothing in the store is like it."""


def made_up(place: places.Place, files: list[dict[str, Any]]) -> samples.Sample:
    sample = samples.commit(place.store("a"), samples.tiny())
    text = json.loads(place.read(place.manifest(sample)))
    text["files"] += files
    return place.plant(sample, json.dumps(text).encode())


@pytest.mark.parametrize("case", HOSTILE_ENTRIES)
def test_a_manifest_with_impossible_files(place: places.Place, case: str) -> None:
    told = made_up(place, HOSTILE_ENTRIES[case])
    with harmless(place), refused(CORRUPT):
        samples.find(place.store("b"), told)


@pytest.mark.parametrize("case", HOSTILE_FILES)
def test_a_manifest_with_other_files(place: places.Place, case: str) -> None:
    told = made_up(place, HOSTILE_FILES[case])
    with harmless(place), refused(*LOST):
        samples.read(place.store("b"), told)


HOSTILE_TEXTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "nothing": (CORRUPT, lambda _: b""),
    "no JSON": (CORRUPT, lambda _: b"\x00\xff"),
    "half of it": (CORRUPT, lambda text: text[: len(text) // 2]),
    "a list": (CORRUPT, lambda _: b"[]"),
    "deep": (CORRUPT, lambda _: b"[" * 100_000),
    "deep in a field": (CORRUPT, lambda _: b'{"version": 1, "files": ' + b"[" * 100_000),
    "newer": (UNREADABLE, lambda text: text.replace(b'"version": 1', b'"version": 2', 1)),
    "older": (UNREADABLE, lambda text: text.replace(b'"version": 1', b'"version": 0', 1)),
    "unknown field": (CORRUPT, lambda text: text.replace(b"{", b'{"more": 1,', 1)),
    "not UTF-8": (CORRUPT, lambda text: text.replace(b'"h"', b'"\xff"', 1)),
    "pid of init": (CORRUPT, lambda text: text.replace(b"10001", b"1", 1)),
    "no stdio": (CORRUPT, lambda text: text.replace(b'"/dev/null",', b"", 1)),
}


@pytest.mark.parametrize("case", HOSTILE_TEXTS)
def test_a_manifest_that_is_none(place: places.Place, case: str) -> None:
    sample = samples.commit(place.store("a"), samples.tiny())
    reason, change = HOSTILE_TEXTS[case]
    text = place.read(place.manifest(sample))
    assert change(text) != text
    told = place.plant(sample, change(text))
    with harmless(place), refused(reason):
        samples.find(place.store("b"), told)


# Trees of a volume that somebody has rebuilt.


@pytest.fixture
def outside(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "outside"
    path.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    return path


def artifact_of(place: places.Files, sample: samples.Sample) -> pathlib.Path:
    return place.tree / sample.path


@pytest.mark.needs("tree")
@pytest.mark.parametrize("name", [manifest.NAME, PAGES, CORE, "criu", "", "..", "../.."])
def test_a_link_to_the_very_same_outside(
    place: places.Files, outside: pathlib.Path, name: str
) -> None:
    """The bytes are right; who follows it would follow it to anything."""
    sample = samples.commit(place.store("a"), samples.few())
    path = pathlib.Path(os.path.normpath(artifact_of(place, sample) / name))
    moved = outside / "moved"
    shutil.move(path, moved)
    path.symlink_to(moved)
    with harmless(place), refused(*LOST):
        samples.read(place.store("b"), sample)
    kept = sorted(outside.rglob("*"))
    with contextlib.suppress(errors.StoreError):
        place.store("c").delete(HASH, stage_seconds=0)
    place.store("c").sweep(older_than_seconds=0)
    assert sorted(outside.rglob("*")) == kept, "no deletion goes through it"


SPECIAL: dict[str, Callable[[pathlib.Path], object]] = {
    "FIFO": os.mkfifo,
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "zeros": lambda path: os.mknod(path, 0o20666, os.makedev(1, 5)),
    "terminal": lambda path: os.mknod(path, 0o20666, os.makedev(5, 0)),
    "disk": lambda path: os.mknod(path, 0o60666, os.makedev(7, 0)),
    "directory": os.mkdir,
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to("/absent"),
    "link to zeros": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.needs("tree")
@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", [manifest.NAME, PAGES, CORE])
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_no_file_where_one_should_be(place: places.Files, special: str, name: str) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    path = artifact_of(place, sample) / name
    path.unlink()
    with contextlib.chdir(path.parent):
        SPECIAL[special](pathlib.Path(path.name))
    place.own(path)
    with harmless(place), refused(*LOST):
        samples.read(place.store("b"), sample)
    place.store("c").delete(HASH, stage_seconds=0)
    assert place.listing() == set()


@pytest.mark.needs("tree")
@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", [PAGES, CORE])
def test_a_directory_of_the_right_size(place: places.Files, name: str) -> None:
    store = place.store("a")
    stage = store.stage(HASH, VARIANT)
    (stage.path / name).mkdir()
    files = [entry(name, (stage.path / name).stat().st_size)]
    described = samples.describe(stage, {}, files=files)
    digest = store.commit(stage, described)
    sample = samples.Sample(HASH, VARIANT, stage.uuid, digest, described, {})
    with refused(*LOST):
        samples.read(place.store("b"), sample)


@pytest.mark.needs("tree")
def test_a_hard_link_to_something_else(place: places.Files, outside: pathlib.Path) -> None:
    """Deleting the artifact leaves the other name, and its permissions, alone."""
    sample = samples.commit(place.store("a"), samples.tiny())
    other = place.tree / "kept"
    other.write_bytes(b"precious")
    path = artifact_of(place, sample) / PAGES
    path.unlink()
    os.link(other, path)
    with refused(CORRUPT):
        samples.read(place.store("b"), sample)
    place.store("c").delete(HASH, stage_seconds=0)
    assert other.read_bytes() == b"precious"


@pytest.mark.needs("tree")
def test_what_is_not_named_by_the_manifest_is_not_read(place: places.Files) -> None:
    sample = samples.commit(place.store("a"), samples.tiny())
    path = artifact_of(place, sample)
    os.mkfifo(path / "criu" / "pages-77.img")
    (path / "more").mkdir()
    (path / "more" / "x").write_bytes(b"x")
    for one in (path / "criu" / "pages-77.img", path / "more" / "x"):
        place.own(one)
    samples.check(place.store("b"), sample)
    place.store("a").delete(HASH, stage_seconds=0)
    assert place.listing() == set()


@pytest.mark.needs("tree")
def test_a_manifest_of_terabytes_is_not_read_to_its_end(place: places.Files) -> None:
    sample = samples.commit(place.store("a"), samples.tiny())
    os.truncate(artifact_of(place, sample) / manifest.NAME, 1 << 40)
    with refused(DIFFERENT):
        samples.find(place.store("b"), sample)
