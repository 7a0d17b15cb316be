"""Where the NVIDIA driver's libraries and device files are, for a container without any of them.

The agent asks for no GPU, so its container has what its runtime gives to all: often nothing. The
node has the driver, as packages of its own or below the root of a container that installs it. The
helper process gets a directory of symbolic links to the libraries found, and the device files that
are missing here.
Source: the NVIDIA Container Toolkit's search paths (internal/lookup), the GPU operator's
/run/nvidia/driver, GKE's /home/kubernetes/bin/nvidia.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import platform
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence

from chrek import errors

HOST = pathlib.Path("/proc/1/root")
"""The node's root directory: the agent shares its PID namespace."""
DRIVER_ROOTS = ("/run/nvidia/driver", "/", "/home/kubernetes/bin/nvidia")
"""On the node, roots below which a driver can be."""
REQUIRED = ("libcuda.so.1", "libnvidia-ml.so.1")

_DIRECTORIES = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib64",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
    "lib",
    "",
)
"""Below a root, where libraries are."""
_OWN = (*(f"/{name}" for name in _DIRECTORIES if name), "/usr/local/nvidia/lib64")
"""In a container that a runtime or a device plugin gave the driver to."""
_FAMILY = re.compile(r"lib(cuda|cudadebugger|nvidia-[a-z0-9-]+)\.so(\.[0-9.]+)?")
"""The two, and what they load by name when they need it."""
_MACHINES = {"x86_64": 62, "aarch64": 183}
"""e_machine of an ELF header (elf.h)."""
_MOST_LINKS = 40


@dataclasses.dataclass(frozen=True)
class Libraries:
    """The driver's libraries, all of one directory."""

    directory: pathlib.Path
    """As this process sees it."""
    files: dict[str, pathlib.Path]
    """Name by which a library is loaded -> the file, no link on its way."""

    def link(self, into: pathlib.Path) -> None:
        """Fill a directory, made if need be, with links to these libraries and nothing else.

        Raises:
            OSError: it cannot be written.
        """
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in into.iterdir():
            old.unlink()
        for name, file in self.files.items():
            (into / name).symlink_to(file)


def find(
    roots: Sequence[str] = DRIVER_ROOTS,
    host: pathlib.Path = HOST,
    *,
    own: Sequence[str] = _OWN,
) -> Libraries | None:
    """The libraries of the driver; None where there is no driver.

    Nothing is loaded, only looked for.

    Args:
        roots: on the node, in the order in which they are tried.
        host: the node's root directory.
        own: this container's directories, which come last; before all comes LD_LIBRARY_PATH.
    """
    own_root = pathlib.Path("/")
    wished = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    places = [(own_root, name) for name in wished if name.startswith("/")]
    for root in roots:
        below = host / root.strip("/")
        places += [(below, name) for name in _DIRECTORIES]
        # Where the root is no root of its own, its links start at the node's.
        places += [(host, posixpath.join("/", root, name)) for name in _DIRECTORIES]
    places += [(own_root, name) for name in own]
    for root_directory, name in places:
        found = _family(root_directory, name)
        if found is not None:
            return found
    return None


def describe(roots: Sequence[str]) -> str:
    """Where `find` looks, for a person."""
    return f"on the node below {', '.join(roots)}, and in the agent's container"


def _family(root: pathlib.Path, name: str) -> Libraries | None:
    if not all(_usable(resolve(root, posixpath.join(name, library))) for library in REQUIRED):
        return None
    directory = resolve(root, name)
    if directory is None:
        return None
    files = {}
    for entry in sorted(os.listdir(directory)):
        file = resolve(root, posixpath.join(name, entry)) if _FAMILY.fullmatch(entry) else None
        if file is not None and file.is_file():
            files[entry] = file
    return Libraries(directory, files)


def _usable(file: pathlib.Path | None) -> bool:
    """A library for this machine's programs: distributions have 32-bit ones beside them."""
    if file is None:
        return False
    try:
        with file.open("rb") as opened:
            header = opened.read(20)
    except OSError:
        return False
    wide = header[:5] == b"\x7fELF\x02"
    return wide and int.from_bytes(header[18:20], "little") == _MACHINES.get(platform.machine())


def resolve(root: pathlib.Path, path: str) -> pathlib.Path | None:
    """A path below a root directory with its links followed as if that were `/`.

    Returns:
        The path as this process sees it; None where there is nothing.
    """
    left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            del done[-1:]
            continue
        here = root.joinpath(*done, part)
        try:
            if stat.S_ISLNK(here.lstat().st_mode):
                links += 1
                if links > _MOST_LINKS:
                    return None
                target = os.readlink(here)
                if target.startswith("/"):
                    done.clear()
                left += [each for each in reversed(target.split("/")) if each not in ("", ".")]
                continue
        except OSError:
            return None
        done.append(part)
    return root.joinpath(*done)


def make_device_files(
    host: pathlib.Path = HOST,
    roots: Sequence[str] = DRIVER_ROOTS,
    own: pathlib.Path = pathlib.Path("/dev"),
) -> list[str]:
    """Make the device files of GPUs that the node has and this container lacks.

    A privileged container gets the node's devices once, at its start: not those of a driver that
    was loaded since, or loaded again with other numbers.

    Returns:
        Names of those that were made.

    Raises:
        GpuError: this process may not make them.
    """
    made = []
    for name, device in _devices(host, roots):
        path = own / name
        try:
            if path.is_char_device():
                if path.stat().st_rdev == device:
                    continue
                path.unlink()
            os.mknod(path, stat.S_IFCHR | 0o666, device)
            path.chmod(0o666)
        except FileExistsError:
            continue
        except OSError as err:
            raise errors.GpuError(
                f"{path}: cannot be made: {err.strerror}",
                hint="the agent's container must be privileged",
            ) from err
        made.append(name)
    return made


def _devices(host: pathlib.Path, roots: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Name and number of each; the node's own before those of a driver's container."""
    seen = set()
    for root in ("/", *roots):
        directory = resolve(host, posixpath.join(root, "dev"))
        for path in sorted(directory.glob("nvidia*")) if directory else []:
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISCHR(status.st_mode) and path.name not in seen:
                seen.add(path.name)
                yield path.name, status.st_rdev
