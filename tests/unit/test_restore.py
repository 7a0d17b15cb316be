"""The steps of a restore that need no container; the whole is in tests/system."""

import contextlib
import os

import blake3
import msgspec
import pytest

from chrek import digest, errors, log, manifest, names, restore
from chrek import store as stores
from fakes import projected

LOG = log.get(__name__)


@pytest.fixture
def artifact(tmp_path):
    contents = {
        "criu/pages-1.img": os.urandom(5000),
        "criu/core-1.img": b"core",
        "files.index": b"index",
        "files.data": b"",
    }
    files = []
    path = tmp_path / "artifact"
    for name, data in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        chunks = [blake3.blake3(data).hexdigest()] if data else []
        files.append(manifest.File(name=name, size=len(data), chunks=chunks))
    described = msgspec.structs.replace(projected.described(), files=files)
    return stores.Artifact(path=path, manifest=described)


def test_small_files_are_verified_into_private_memory(artifact, tmp_path):
    rest = restore._stage(artifact, tmp_path / "staging")
    assert rest == {"files.index": b"index", "files.data": b""}
    assert os.listdir(tmp_path / "staging") == ["core-1.img"]
    assert (tmp_path / "staging").stat().st_mode & 0o777 == 0o700


def plant_link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved").name)


DAMAGE = {
    "changed": (lambda p: p.write_bytes(bytes(p.stat().st_size)), "not those", "ArtifactCorrupt"),
    "shorter": (lambda p: os.truncate(p, 1), "1 bytes instead of", "ArtifactCorrupt"),
    "longer": (lambda p: os.truncate(p, 9000), "9000 bytes instead of", "ArtifactCorrupt"),
    "missing": (lambda p: p.unlink(), "missing", "ArtifactMissing"),
    "a link": (plant_link, "Too many levels", "ArtifactCorrupt"),
}


@pytest.mark.parametrize("name", ["criu/pages-1.img", "criu/core-1.img", "files.index"])
@pytest.mark.parametrize(("damage", "message", "reason"), DAMAGE.values(), ids=list(DAMAGE))
def test_damage_is_named(artifact, tmp_path, name, damage, message, reason):
    damage(artifact.path / name)

    def verify():
        with contextlib.ExitStack() as stack, digest.Pool() as pool:
            for future in restore._verify_pages(artifact, pool, stack):
                future.result()
            restore._stage(artifact, tmp_path / "staging")

    with pytest.raises(errors.ArtifactError, match=message) as caught:
        verify()
    assert name in str(caught.value)
    assert caught.value.reason == names.Reason(reason)


def test_what_an_earlier_attempt_left_is_not_used(artifact, tmp_path):
    """CRIU must never read a file there that this restore did not verify."""
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging/core-1.img").write_bytes(b"planted")
    (tmp_path / "staging/core-2.img").write_bytes(b"planted")
    restore._stage(artifact, tmp_path / "staging")
    assert os.listdir(tmp_path / "staging") == ["core-1.img"]
    assert (tmp_path / "staging/core-1.img").read_bytes() == b"core"
