"""The example worker without a container runtime: its image unpacked, and its model made in it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from devcluster import images
from showcase import commands, errors, setup

MODEL = "models/model.gguf"
_GONE, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclasses.dataclass(frozen=True)
class Image:
    """What a container of it begins with."""

    root: Path
    environment: tuple[str, ...]
    """NAME=value."""
    command: tuple[str, ...]
    user: int


def example() -> Image:
    """The example's image as it is in the cache, built, unpacked and given its model if need be.

    Raises:
        ShowError: a program that does this failed.
    """
    commands.stream([setup.SCRIPTS / "build", "example"])
    archive = setup.archive("llama")
    folder = commands.cache() / "example"
    folder.mkdir(exist_ok=True)
    stamp, digest = folder / "stamp", images.read(archive).digest
    if not stamp.exists() or stamp.read_text() != digest:
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder / "root", ignore_errors=True)
        commands.say(f"unpacking {archive}")
        config = unpack(archive, folder / "root")
        (folder / "config.json").write_text(json.dumps(config))
        image = _described(folder)
        commands.say(f"making the model in {image.root}")
        (image.root / MODEL).parent.mkdir()
        script = ["python3", "/opt/llama/make_model.py", f"/{MODEL}"]
        commands.run(["chroot", image.root, "env", *image.environment, *script])
        stamp.write_text(digest)
    return _described(folder)


def _described(folder: Path) -> Image:
    config = json.loads((folder / "config.json").read_text())
    return Image(
        root=folder / "root",
        environment=tuple(config["Env"]),
        command=tuple(config["Cmd"]),
        user=int(config["User"].partition(":")[0]),
    )


def unpack(archive: Path, root: Path) -> dict[str, object]:
    """Lay an image's layers, from Docker's archive, over each other in a new directory.

    Returns:
        The image's `config`: `Env`, `Cmd`, `User` and others.

    Raises:
        ShowError: the archive holds more than one image, or tar failed.

    Source: https://github.com/opencontainers/image-spec/blob/main/layer.md (`Whiteouts`).
    """
    with tempfile.TemporaryDirectory(dir=root.parent) as temporary:
        parts = Path(temporary)
        commands.run(["tar", "--extract", f"--file={archive}", f"--directory={parts}"])
        described = json.loads((parts / "manifest.json").read_text())
        if len(described) != 1:
            raise errors.ShowError(f"{archive} holds {len(described)} images")
        root.mkdir()
        for name in described[0]["Layers"]:
            _add(parts / name, root)
        config: dict[str, object] = json.loads((parts / described[0]["Config"]).read_text())[
            "config"
        ]
    return config


def _add(layer: Path, root: Path) -> None:
    names = commands.run(["tar", "--list", f"--file={layer}"]).stdout.splitlines()
    for path in _removed(names, root):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    commands.run(
        ["tar", "--extract", "--numeric-owner", "--same-permissions", f"--exclude={_GONE}*",
         f"--file={layer}", f"--directory={root}"]
    )  # fmt: skip


def _removed(names: Sequence[str], root: Path) -> list[Path]:
    """What a layer takes away from those below it."""
    found: list[Path] = []
    for name in names:
        folder, _, last = name.rpartition("/")
        if last == _OPAQUE:
            found += [Path(entry) for entry in os.scandir(root / folder)]
        elif last.startswith(_GONE):
            found.append(root / folder / last.removeprefix(_GONE))
    return found
