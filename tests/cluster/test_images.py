from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from devcluster import cache, errors, images, loading


def archive(path: Path, **members: Any) -> Path:
    """A tar of JSON files; `manifest` becomes manifest.json."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(f"{name}.json")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return path


def written(folder: Path, reference: str, content: bytes) -> Path:
    path = folder / "written" / f"{content.decode()}.tar"
    images.write(path, reference, {"bin/it": (content, 0o755)}, ["/bin/it"], symlinks={"it": "bin"})
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "localhost/it:1", b"one")
    assert images.read(path).references == ("localhost/it:1",)
    with tarfile.open(path) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(tar.extractfile(manifest[0]["Config"]))  # type: ignore[arg-type]
    assert config["config"]["Entrypoint"] == ["/bin/it"]
    assert len(config["rootfs"]["diff_ids"]) == 1


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    one = images.read(written(tmp_path, "localhost/it:1", b"one"))
    again = images.read(written(tmp_path, "localhost/it:1", b"one"))
    two = images.read(written(tmp_path, "localhost/it:1", b"two"))
    assert one.digest == again.digest != two.digest


def test_names_of_both_layouts(tmp_path: Path) -> None:
    docker = [{"Config": "c", "RepoTags": ["a/b:1", "a/b:2"], "Layers": []}, {"RepoTags": None}]
    oci = {
        "manifests": [
            {"annotations": {"org.opencontainers.image.ref.name": "localhost/c:1"}},
            {"annotations": {"org.opencontainers.image.ref.name": "latest"}},
            {"annotations": {"io.containerd.image.name": "docker.io/library/d:1"}},
            {},
        ]
    }
    path = archive(tmp_path / "both.tar", manifest=docker, index=oci)
    assert images.read(path).references == (
        "a/b:1",
        "a/b:2",
        "docker.io/library/d:1",
        "localhost/c:1",
    )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no named image"),
        ({"manifest": []}, "holds no named image"),
        ({"index": {"manifests": [{"annotations": {}}]}}, "holds no named image"),
        ({"manifest": b"{"}, "index is not valid"),
        ({"manifest": ["text"]}, "index is not valid"),
    ],
)
def test_archive_without_an_image(tmp_path: Path, members: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ClusterError, match=message):
        images.read(archive(tmp_path / "bad.tar", **members))


def test_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("no tar at all" * 100)
    with pytest.raises(errors.ClusterError, match=r"cannot read .*text as a tar"):
        images.read(path)


def test_reference_that_no_engine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}")
    with pytest.raises(errors.ClusterError, match="'localhost/it:1' is neither a file nor"):
        images.locate("localhost/it:1", tmp_path / "scratch")


def test_kept_archives_are_those_that_have_a_name_left(tmp_path: Path) -> None:
    where = cache.Cache(tmp_path)
    one = images.read(written(tmp_path, "localhost/it:1", b"one"))
    two = images.read(written(tmp_path, "localhost/it:1", b"two"))
    other = images.read(written(tmp_path, "localhost/other:1", b"other"))
    for kept in (one, other, two):
        loading.keep(where, kept)
    assert loading.catalog(where) == {
        "localhost/it:1": two.digest,
        "localhost/other:1": other.digest,
    }
    names = {path.stem for path in where.images.glob("*.tar")}
    assert names == {two.digest, other.digest}
    loading.keep(where, one)
    assert loading.catalog(where)["localhost/it:1"] == one.digest
