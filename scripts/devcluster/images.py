"""Container image archives: writing one without an engine, and knowing what one holds."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import platform
import shutil
import tarfile
import tempfile
from pathlib import Path

from devcluster import cache, commands, errors

PAUSE = "localhost/chrek-pause:1"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_REFERENCE_NAME = "io.containerd.image.name"
_OCI_REFERENCE_NAME = "org.opencontainers.image.ref.name"


@dataclasses.dataclass(frozen=True)
class Archive:
    """An image archive on disk."""

    path: Path
    references: tuple[str, ...]
    digest: str
    """The hash of the archive's indexes, which name every part by its own hash."""


def architecture() -> str:
    """This machine's architecture as images name it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def write(
    path: Path,
    reference: str,
    files: dict[str, tuple[bytes, int]],
    command: list[str],
    *,
    symlinks: dict[str, str] | None = None,
) -> None:
    """Write an image of one layer.

    Args:
        files: mapping of the path in the image to its content and mode.
        symlinks: mapping of the path in the image to where it points.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
        for name, target in sorted((symlinks or {}).items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    config = json.dumps(
        {
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()],
            },
        },
        sort_keys=True,
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [reference], "Layers": ["layer.tar"]}]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with tarfile.open(draft, "w") as tar:
        for name, content in (
            (config_name, config),
            ("layer.tar", layer.getvalue()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    draft.replace(path)


def write_pause(where: cache.Cache) -> Path:
    """The archive of the image that every pod's sandbox runs."""
    path = where.images / "pause.tar"
    write(path, PAUSE, {"pause": ((where.bin / "pause").read_bytes(), 0o755)}, ["/pause"])
    return path


def read(path: Path) -> Archive:
    """What an archive holds, in Docker's or in OCI's layout.

    Raises:
        ClusterError: the file is no image archive.
    """
    indexes: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if entry.name.removeprefix("./") in ("manifest.json", "index.json"):
                    content = tar.extractfile(entry)
                    if content is not None:
                        indexes[entry.name.removeprefix("./")] = content.read()
    except (OSError, tarfile.TarError) as err:
        raise errors.ClusterError(f"cannot read {path} as a tar: {err}") from err
    references = _references(indexes)
    if not references:
        raise errors.ClusterError(
            f"{path} holds no named image",
            hint="give the archive that 'docker save', 'podman save', or 'scripts/build' writes",
        )
    hasher = hashlib.sha256()
    for name, text in sorted(indexes.items()):
        hasher.update(f"{name}\0".encode() + text + b"\0")
    return Archive(path, references, hasher.hexdigest())


def locate(wanted: str, scratch: Path) -> Path:
    """The archive that a path or an image reference names.

    A reference is exported from the first of podman, buildah, and docker that has it.
    """
    if Path(wanted).exists():
        return Path(wanted).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(dir=scratch)) / "image.tar"
    exports = {
        "podman": ["podman", "save", "--output", f"{target}", wanted],
        "buildah": ["buildah", "push", wanted, f"docker-archive:{target}:{wanted}"],
        "docker": ["docker", "save", "--output", f"{target}", wanted],
    }
    tried = [name for name in exports if shutil.which(name)]
    for name in tried:
        if commands.succeeds(exports[name]):
            return target
    raise errors.ClusterError(
        f"'{wanted}' is neither a file nor an image of {', '.join(tried) or 'any local engine'}",
        hint="give the path of an image archive",
    )


def _references(indexes: dict[str, bytes]) -> tuple[str, ...]:
    found: set[str] = set()
    try:
        for image in json.loads(indexes.get("manifest.json", b"[]")):
            found.update(image.get("RepoTags") or [])
        for image in json.loads(indexes.get("index.json", b"{}")).get("manifests", []):
            notes = image.get("annotations") or {}
            name = notes.get(_REFERENCE_NAME) or notes.get(_OCI_REFERENCE_NAME)
            # OCI's own annotation may hold a bare tag, which names no image.
            if name and ("/" in name or _REFERENCE_NAME in notes):
                found.add(name)
    except (ValueError, AttributeError, TypeError) as err:
        raise errors.ClusterError(f"the archive's index is not valid: {err}") from err
    return tuple(sorted(found))
