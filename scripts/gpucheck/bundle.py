"""Makes the one file that runs the check on a machine with nothing but an NVIDIA driver.

A shell script with a compressed archive behind it:

  python/bin/python3      starts bin/python3.N by the loader and the C library that came with it
  python/loader/          the loader, and every library that is needed
  python/lib/python3.N/   the standard library; sitecustomize adds packages and chrek's own code
  packages/               what capture and restore import
  libexec/                CRIU, chrek-enter, chrek-init: `scripts/build bundle`
  tree/                   this repository's src/chrek and scripts, for the check alone

Python and packages are those of the chrek image (its stage `dependencies`), so nothing of the
machine's own Python is used, of whatever version that is, and no network is needed there.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import importlib.machinery
import importlib.util
import platform
import shutil
import sys
import tarfile
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

from gpucheck import elf
from showcase import commands, errors, rootfs

MOST_BYTES = 64 << 20
"""More does not travel everywhere."""
PACKAGES = (
    *("blake3", "cuda-bindings", "cuda-pathfinder"),
    *("msgspec", "nvidia-ml-py", "protobuf", "pyyaml"),
)
"""Distributions that checkpoint, restore and the driver's helper import."""
_ALWAYS = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"),
    *("libresolv.so.2", "libgcc_s.so.1", "libstdc++.so.6"),
)
"""Also what the driver's own libraries ask for: those of another C library would not fit ours."""
_LIBRARY_FOLDERS = ("usr/lib/{machine}-linux-gnu", "lib/{machine}-linux-gnu", "usr/lib", "lib64")
_NOT_NEEDED = frozenset(
    {
        *(
            "__pycache__",
            "test",
            "tests",
            "testdata",
            "idlelib",
            "tkinter",
            "turtledemo",
            "lib2to3",
        ),
        *("ensurepip", "pydoc_data", "sitecustomize.py", "EXTERNALLY-MANAGED", "_sysconfigdata"),
        *("curses", "sqlite3", "dbm", "venv"),
    }
)
_NOT_NEEDED_SUFFIXES = (".pxd", ".pxi", ".pyx", ".pyi", ".h", ".a", ".pyc")
_NOT_NEEDED_MODULES = ("_curses", "_sqlite3", "_dbm", "_gdbm", "readline", "_tkinter", "_test")
HEADER = Path(__file__).resolve().parent / "header.sh"
_PYTHON = """#!/bin/sh
root=${0%/bin/*}
exec "$root/loader/ld.so" --argv0 "$0" \\
    --library-path "$root/loader${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \\
    "$root/bin/VERSION" -E -s -B -X utf8 "$@"
"""
_CUSTOMIZE = '''"""Nothing of the machine's own Python: this one's packages, and chrek's code."""
import sys
from pathlib import Path

root = Path(sys.prefix).parent
tree = Path((root / "where").read_text().strip())
sys.path[:] = [str(tree / "src"), str(tree / "scripts"), str(root / "packages")] + [
    path for path in sys.path if path.startswith(sys.prefix + "/")
]
'''


def main(description: str | None, arguments: list[str], default: Path) -> int:
    parser = argparse.ArgumentParser(
        prog="gpu-check bundle",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=default, help=f"default: {default}")
    options = parser.parse_args(arguments)
    try:
        make(options.output)
    except errors.ShowError as err:
        sys.stderr.write(f"error: {err}\n")
        return 1
    return 0


def make(output: Path) -> None:
    """Build what is missing, and the file of it.

    Raises:
        ShowError: something is missing, or it became too large.
    """
    if platform.machine() != "x86_64":
        raise errors.ShowError(
            f"this is {platform.machine()}, and the bundle is for x86_64",
            hint="build it on such a machine",
        )
    commands.stream([commands.ROOT / "scripts" / "build", "bundle"])
    archive = _dependencies()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=commands.cache()) as temporary:
        root, made = Path(temporary, "image"), Path(temporary, "bundle")
        commands.say("unpacking the image")
        rootfs.unpack(archive, root)
        commands.say("collecting")
        fill(root, made)
        self_check(made)
        fresh = Path(temporary, "fresh")
        write(made, fresh)
        size = fresh.stat().st_size
        if size > MOST_BYTES:
            raise errors.ShowError(f"the bundle has {size} bytes, {MOST_BYTES} are allowed")
        fresh.chmod(0o755)
        shutil.move(fresh, output)
    commands.say(f"{output} ({size / 1e6:.1f} MB)")


def _dependencies() -> Path:
    """The image's stage with Python and its packages, as Docker's archive; built if need be."""
    build = _build_script()
    image = build.Image(
        name="chrek-dependencies",
        target="dependencies",
        inputs=("Dockerfile", "requirements.lock", "requirements-build.lock"),
    )
    build.CACHE.mkdir(parents=True, exist_ok=True)
    with (build.CACHE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build.make(build.engine(), image, force=False)
    path: Path = build.CACHE / "images" / f"{image.name}.tar"
    return path


def _build_script() -> types.ModuleType:
    """scripts/build, which has no name that could be imported."""
    path = commands.ROOT / "scripts" / "build"
    loader = importlib.machinery.SourceFileLoader("chrek_build", str(path))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(loader.name, loader)  # type: ignore[arg-type]
    )
    sys.modules[loader.name] = module  # Its dataclasses look themselves up.
    loader.exec_module(module)
    return module


def fill(root: Path, made: Path) -> None:
    """Collect what the bundle holds.

    Args:
        root: the unpacked image.
        made: a new folder.

    Raises:
        ShowError: the image lacks something.
    """
    python = next((root / "usr/bin").glob("python3.[0-9]*"), None)
    if python is None:
        raise errors.ShowError("the image has no Python")
    version = python.name
    target = made / "python"
    for folder in ("bin", "loader"):
        (target / folder).mkdir(parents=True)
    shutil.copy(python, target / "bin")
    wrapper = target / "bin" / "python3"
    wrapper.write_text(_PYTHON.replace("VERSION", version))
    wrapper.chmod(0o755)
    _copy(root / "usr/lib" / version, target / "lib" / version)
    (target / "lib" / version / "sitecustomize.py").write_text(_CUSTOMIZE)
    _packages(root / "opt/venv/lib" / version / "site-packages", made / "packages")
    programs = [target / "bin" / version, *made.rglob("*.so")]
    folders = [root / name.format(machine=platform.machine()) for name in _LIBRARY_FOLDERS]
    always = [next((f / name for f in folders if (f / name).exists()), None) for name in _ALWAYS]
    programs += [path for path in always if path is not None]
    libraries = elf.closure(programs, folders)
    libraries |= {path.name: path for path in always if path is not None}
    for name, path in libraries.items():
        if not name.startswith("ld-linux"):
            shutil.copy(path, target / "loader" / name)
    loader = next(path for folder in folders for path in folder.glob("ld-linux*.so.*"))
    shutil.copy(loader, target / "loader" / "ld.so")
    (target / "loader" / "ld.so").chmod(0o755)
    shutil.copytree(commands.cache() / "libexec", made / "libexec", symlinks=True)
    for name in ("src/chrek", "scripts/gpucheck", "scripts/showcase"):
        _copy(commands.ROOT / name, made / "tree" / name)
    shutil.copy(commands.ROOT / "scripts/gpu-check", made / "tree/scripts")


def _copy(source: Path, target: Path) -> None:
    """A folder without what nobody imports; links are followed, for some lead out of it."""

    def ignored(_folder: str, names: list[str]) -> list[str]:
        return [
            name
            for name in names
            if name in _NOT_NEEDED
            or name.endswith(_NOT_NEEDED_SUFFIXES)
            or name.startswith((*_NOT_NEEDED_MODULES, "config-3"))
        ]

    shutil.copytree(source, target, ignore=ignored, ignore_dangling_symlinks=True)


def _packages(site: Path, target: Path) -> None:
    """Files of the distributions, by their own records.

    Raises:
        ShowError: one is not there.
    """
    target.mkdir(parents=True)
    for name in PACKAGES:
        pattern = f"{name.replace('-', '_')}-*.dist-info"
        described = next(site.glob(pattern), None)
        if described is None:
            raise errors.ShowError(
                f"the image lacks the package {name}", hint="look at requirements.lock"
            )
        for path in _recorded(described / "RECORD"):
            parts = set(path.parts)
            if path.is_absolute() or ".." in parts or parts & _NOT_NEEDED:
                continue
            if path.suffix not in _NOT_NEEDED_SUFFIXES:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(site / path, target / path)


def _recorded(record: Path) -> Iterator[Path]:
    for line in record.read_text().splitlines():
        yield Path(line.rsplit(",", 2)[0].strip('"'))


def self_check(made: Path) -> None:
    """Run the bundle's Python here, so that what it lacks is found now.

    Raises:
        ShowError: it does not work.
    """
    (made / "where").write_text(f"{made / 'tree'}\n")
    code = (
        "import chrek.checkpoint, chrek.restore, chrek.cuda.helper, gpucheck.main, sys\n"
        "from cuda.bindings import driver\n"
        "outside = [m.__file__ for m in list(sys.modules.values())"
        f" if getattr(m, '__file__', None) and not m.__file__.startswith({str(made)!r})]\n"
        "sys.exit(f'from elsewhere: {outside}' if outside else 0)"
    )
    try:
        commands.run([made / "python/bin/python3", "-c", code], timeout=120)
    finally:
        (made / "where").unlink()


def write(made: Path, output: Path) -> None:
    """The shell script, and behind it the archive: the same bytes for the same contents."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    head = HEADER.read_text()
    with output.open("wb") as file:
        file.write(head.replace("lines=0", f"lines={len(head.splitlines())}").encode())
        with (
            gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in sorted(made.iterdir()):
                tar.add(path, arcname=path.name, filter=plain)
