"""Compiles the stand-ins for NVIDIA's libraries and lays out the directory that is a node.

The libraries need gcc and the C library only, and no header of CUDA. They are cached by the
content of their sources below the system's temporary directory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Sequence

HERE = pathlib.Path(__file__).resolve().parent
LIBRARIES = {
    "libcuda.so.1": ("libcuda.c", "checkpoint.c", "worker.c"),
    "libnvidia-ml.so.1": ("libnvidia-ml.c",),
}
# fmt: off
COMPILE = [
    "gcc", "-std=gnu11", "-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden",
    "-Wall", "-Wextra", "-Werror",
]
# fmt: on


def content_hash() -> str:
    digest = hashlib.sha256(repr((COMPILE, LIBRARIES)).encode())
    for path in sorted(HERE.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


def build(directory: pathlib.Path | None = None) -> pathlib.Path:
    """Returns the directory with both libraries, for LD_LIBRARY_PATH.

    Args:
        directory: what is built is kept below it; default: the system's temporary directory.

    Raises:
        subprocess.CalledProcessError: gcc refuses the sources.
        FileNotFoundError: there is no gcc.
    """
    base = directory or pathlib.Path(tempfile.gettempdir()) / f"chrek-standin-{os.geteuid()}"
    done = base / content_hash()
    if done.is_dir():
        return done
    base.mkdir(parents=True, exist_ok=True)
    made = pathlib.Path(tempfile.mkdtemp(dir=base))
    made.chmod(0o755)
    for name, sources in LIBRARIES.items():
        command = [*COMPILE, f"-Wl,-soname,{name}", "-o", str(made / name), *sources]
        subprocess.run(command, cwd=HERE, check=True)
    try:
        made.rename(done)
    except OSError:  # somebody else was quicker
        shutil.rmtree(made)
    return done


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU of a node."""

    minor: int
    uuid: str
    bytes: int = 1 << 20
    capability: str = "9.0"
    mig: str = "0"
    """0, 1, or - for a chip that knows none."""
    model: str = "NVIDIA H100 80GB HBM3"

    def line(self) -> str:
        words = (self.minor, self.uuid, self.bytes, self.capability, self.mig, self.model)
        return "gpu " + " ".join(str(word) for word in words)


def gpu_uuid(seed: str) -> str:
    """A UUID as the driver spells it, always the same of the same seed."""
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, seed)}"


class Node:
    """The directory that stands for a node's driver and GPUs."""

    def __init__(
        self,
        path: pathlib.Path,
        gpus: int | Sequence[Gpu] = 1,
        *,
        driver: str = "580.65.06",
        api: int = 13000,
        persistence: bool = True,
    ) -> None:
        """Writes node.conf.

        Args:
            path: of the directory; its name seeds the UUIDs of GPUs that are given by number.
            gpus: the GPUs, or how many.
            driver: version of the kernel driver.
            api: version of the driver's API, such as 13000.
            persistence: whether NVML answers that persistence mode is on.
        """
        self.path = path
        self.driver = driver
        self.api = api
        self.persistence = persistence
        if isinstance(gpus, int):
            gpus = [Gpu(minor=n, uuid=gpu_uuid(f"{path.name}/{n}")) for n in range(gpus)]
        self.gpus = list(gpus)
        path.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self) -> None:
        """Writes node.conf anew, at once: processes read it at each call."""
        lines = [
            f"driver {self.driver}",
            f"api {self.api}",
            f"persistence {int(self.persistence)}",
            *(gpu.line() for gpu in self.gpus),
        ]
        for gpu in self.gpus:
            memory = self.path / "memory" / str(gpu.minor)
            memory.mkdir(parents=True, exist_ok=True)
            memory.chmod(0o777)  # workers run as any user
        self._replace("node.conf", lines)

    @property
    def uuids(self) -> list[str]:
        return [gpu.uuid for gpu in self.gpus]

    def fail(self, *lines: str) -> None:
        """Sets what goes wrong from now on: lines as device.h describes them; none: nothing."""
        if lines:
            self._replace("fail", lines)
        else:
            (self.path / "fail").unlink(missing_ok=True)

    def pending(self) -> list[str]:
        """Lines of `fail` that are not used up."""
        path = self.path / "fail"
        return path.read_text().splitlines() if path.exists() else []

    def files(self, minor: int) -> list[pathlib.Path]:
        """Device memory of one GPU, a file per allocation."""
        return sorted((self.path / "memory" / str(minor)).glob("allocation-*"))

    def used(self, minor: int) -> int:
        """Bytes in those files, also of processes that ended a moment ago."""
        return sum(path.stat().st_size for path in self.files(minor))

    def environment(self, libraries: pathlib.Path) -> dict[str, str]:
        """What a process needs to find both libraries and this node."""
        return {"LD_LIBRARY_PATH": str(libraries), "CHREK_STANDIN_NODE": str(self.path)}

    def device_files(
        self, directory: pathlib.Path, minors: Sequence[int] | None = None
    ) -> list[pathlib.Path]:
        """Makes nvidiactl, nvidia-uvm and nvidiaN of the GPUs in a /dev.

        They are null devices under these names: a file with the driver's own numbers cannot be
        opened where there is no driver. Only root may make devices; for others they are files.
        """
        numbers = [gpu.minor for gpu in self.gpus] if minors is None else minors
        made = []
        for name in ["nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in numbers)]:
            path = directory / name
            if os.geteuid() == 0:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
                path.chmod(0o666)
            else:
                path.touch()
            made.append(path)
        return made

    def _replace(self, name: str, lines: Sequence[str]) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.path, prefix=".new-", delete=False) as file:
            file.write("".join(f"{line}\n" for line in lines))
        pathlib.Path(file.name).chmod(0o666)
        os.replace(file.name, self.path / name)
