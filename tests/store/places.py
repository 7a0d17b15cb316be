"""Where the suite keeps artifacts: every kind of store, as several nodes see it."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import errno
import fcntl
import functools
import os
import pathlib
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from chrek import manifest, storage
from chrek import store as stores
from store import samples

DELAY_SECONDS = 0.5
"""So long a client of the NFS-like volume believes what it has looked up."""
NOBODY = 65534
SHUTDOWN = 0x8004587D
"""Ends an ext4 with I/O errors. Source: EXT4_IOC_SHUTDOWN of the kernel's ext4.h."""
LEFT_BYTES = 1 << 20
WRITES = os.O_CREAT | os.O_WRONLY | os.O_RDWR | os.O_TRUNC
CHANGES = frozenset(
    {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link"}
)
"""Audit events of what changes a file system, beside open. Source: the audit events table."""
Step = Callable[[str], None]


class Place(abc.ABC):
    """What the tests need to know of a kind of store; an empty one for each test.

    Names are what `listing` returns: of files below the base of a volume, of keys in a bucket, of
    whatever a registry has.
    """

    kind: ClassVar[str]
    can: ClassVar[frozenset[str]]
    """What tests may ask for with `pytest.mark.needs`: names of `trouble`; `tree`; `cache`: what a
    node has once made or read it keeps for itself; `frees`: what there was of a commit that failed
    takes no room."""
    settle_seconds: ClassVar[float] = 0.0
    """After so long, everybody sees what somebody has done."""
    unseen: ClassVar[frozenset[str]] = frozenset()
    """Damage, by its name in `test_damage`, of the largest of `contents` that does no harm: nobody
    asks for the bytes that it adds."""

    @abc.abstractmethod
    def store(self, node: str = "a", namespace: str = "") -> storage.AnyStore:
        """A store as the agent of node `a`, `b` or `c` makes it, with that node's caches."""

    @abc.abstractmethod
    def restart(self, node: str) -> None:
        """Start a node's agent anew: it forgets what is not on its disk."""

    @abc.abstractmethod
    def recipe(self, node: str = "a") -> dict[str, Any]:
        """How another process makes the same, as JSON.

        `function` is `MODULE:NAME`; it is called with what is to be told of each step that changes
        the store, before it is done, and with `arguments` by their names. Returns the store.
        """

    @abc.abstractmethod
    def manifest(self, sample: samples.Sample, namespace: str = "") -> str:
        """The name under which its manifest is stored."""

    @abc.abstractmethod
    def contents(self, sample: samples.Sample, namespace: str = "") -> list[str]:
        """Names of all else of an artifact that is not empty, the largest first."""

    @abc.abstractmethod
    def listing(self) -> set[str]:
        """Names of all that is stored, by the server itself; empty when nothing is left."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes under a name."""

    @abc.abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Put other bytes under a name, behind everybody's back; a new name is a stranger's."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Lose what is under a name."""

    @abc.abstractmethod
    def strangers(self) -> list[str]:
        """Names that could stand in the store and are none of its own; nothing has them yet."""

    @abc.abstractmethod
    def trouble(self, name: str) -> contextlib.AbstractContextManager[None]:
        """While inside, the store has a trouble, for all nodes.

        Args:
            name: `full`: no byte more; `filling`: `LEFT_BYTES` more; `read-only`; `gone`: does not
                answer, or with errors only; `silent`: takes requests and answers none; `slow`;
                `lag`: what a node makes others find after `settle_seconds`. Each kind knows those
                that are in `can`.
        """

    def plant(self, sample: samples.Sample, text: bytes) -> samples.Sample:
        """Replace the manifest; returns what its digest is told of."""
        self.write(self.manifest(sample), text)
        return dataclasses.replace(sample, digest=manifest.digest(text))

    def settle(self) -> None:
        """Wait until everybody sees what was done."""
        time.sleep(self.settle_seconds)


class Files(Place):
    """A volume: names are paths below its base."""

    def __init__(self, tree: pathlib.Path, volume: Volume) -> None:
        """Take an empty directory.

        Args:
            tree: where the server has the base.
        """
        self.tree = tree
        self._volume = volume

    @abc.abstractmethod
    def base(self, node: str) -> pathlib.Path:
        """The base as a node sees it."""

    def store(self, node: str = "a", namespace: str = "") -> stores.Store:
        return stores.Store(self.base(node), namespace)

    def restart(self, node: str) -> None:
        """There is nothing that it remembers."""

    def recipe(self, node: str = "a") -> dict[str, Any]:
        return {"function": f"{__name__}:stepping", "arguments": {"base": str(self.base(node))}}

    def manifest(self, sample: samples.Sample, namespace: str = "") -> str:
        return f"{_root(namespace)}{sample.path}/{manifest.NAME}"

    def contents(self, sample: samples.Sample, namespace: str = "") -> list[str]:
        names = sorted(sample.files, key=lambda name: (-len(sample.files[name]), name))
        return [f"{_root(namespace)}{sample.path}/{name}" for name in names if sample.files[name]]

    def listing(self) -> set[str]:
        found = {str(path.relative_to(self.tree)) for path in self.tree.rglob("*")}
        return {name for name in found if name != "ns" and pathlib.Path(name).parent.name != "ns"}

    def read(self, name: str) -> bytes:
        return (self.tree / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.own(path)

    def remove(self, name: str) -> None:
        (self.tree / name).unlink()

    def strangers(self) -> list[str]:
        a, b = samples.HASH, samples.VARIANT
        return ["lost+found/a/b", f"{a}/notes.txt", f"{a}/{b}/notes.txt", f"{a}/Tools/{b}/x"]

    def own(self, path: pathlib.Path) -> None:
        """Give a file, and the directories that were made for it, to whom the volume is."""
        owner = self.tree.stat()
        for one in (path, *path.parents):
            if one == self.tree:
                break
            os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def modes(self) -> set[tuple[bool, int]]:
        """Of all that is stored: whether it is a directory, and its permissions."""
        found = [path.lstat().st_mode for path in self.tree.rglob("*")]
        return {(stat.S_ISDIR(mode), stat.S_IMODE(mode)) for mode in found}


class Ext4(Files):
    """A volume of one machine, or of a network block device."""

    kind = "ext4"
    can = frozenset({"tree", "frees", "full", "filling", "read-only", "gone", "slow"})

    def base(self, node: str) -> pathlib.Path:
        return self.tree

    def trouble(self, name: str) -> contextlib.AbstractContextManager[None]:
        return {
            "full": self._volume.full,
            "filling": functools.partial(self._volume.full, LEFT_BYTES),
            "read-only": self._volume.read_only,
            "gone": self._volume.gone,
            "slow": self._volume.frozen,
        }[name]()


class NfsLike(Files):
    """The same directory through a client for each node."""

    kind = "nfs"
    can = frozenset({"tree", "frees", "full", "filling", "read-only", "gone", "slow", "lag", "nfs"})
    # A listing or an absence that was seen at the last moment, and then the lag of the name.
    settle_seconds = 2 * DELAY_SECONDS + 0.1

    def __init__(self, tree: pathlib.Path, volume: Volume, clients: dict[str, Client]) -> None:
        super().__init__(tree, volume)
        self._clients = clients

    def base(self, node: str) -> pathlib.Path:
        return self._clients[node].path / self.tree.parent.name / self.tree.name

    def trouble(self, name: str) -> contextlib.AbstractContextManager[None]:
        on_volume = {"full": 0, "filling": LEFT_BYTES}
        if name in on_volume:
            return self._volume.full(on_volume[name])
        return self._told(name)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        for client in self._clients.values():
            client.tell("slow 0.02" if name == "slow" else name)
        try:
            yield
        finally:
            for client in self._clients.values():
                client.tell("well")


class Volume:
    """An ext4 of its own, in a file; unmounted when its user ends, however that is."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / "volume"
        self._image = folder / "image"

    def __enter__(self) -> Volume:
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(512 << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", self._image)
        self._mount()
        script = 'cat; umount -l "$0"; rm "$1"'
        argv = ["sh", "-c", script, str(self.path), str(self._image)]
        self._keeper = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._keeper.communicate()
        assert self._keeper.returncode == 0
        assert not _mounted(self.path)

    def _mount(self) -> None:
        _run("mount", "-o", "loop", self._image, self.path)

    @contextlib.contextmanager
    def full(self, left_bytes: int = 0) -> Iterator[None]:
        filler, size, at = self.path / "filler", 64 << 20, 0
        with filler.open("wb") as file:
            while size >= 512:
                try:
                    os.posix_fallocate(file.fileno(), at, size)
                    at += size
                except OSError as err:
                    if err.errno != errno.ENOSPC:
                        raise
                    size //= 2
            file.truncate(at - left_bytes)
        try:
            yield
        finally:
            filler.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        _run("mount", "-o", "remount,ro", self.path)
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw", self.path)

    @contextlib.contextmanager
    def gone(self) -> Iterator[None]:
        """Every access fails, as when the device has vanished."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", 0))
        finally:
            os.close(fd)
        try:
            yield
        finally:
            _run("umount", self.path)
            self._mount()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Writes hang for a while; whatever happens here, it ends."""
        script = 'fsfreeze -f "$0"; echo frozen; sleep 0.7; fsfreeze -u "$0"'
        argv = ["sh", "-c", script, str(self.path)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert process.stdout
            process.stdout.readline()
            yield
        assert process.returncode == 0


class Client:
    """A mount of `nfs_like.py`; it ends with its user, however that ends."""

    def __init__(self, served: pathlib.Path, path: pathlib.Path) -> None:
        self.path = path
        self._served = served

    def __enter__(self) -> Client:
        self.path.mkdir()
        program = pathlib.Path(__file__).with_name("nfs_like.py")
        argv = [sys.executable, program, self._served, self.path, str(DELAY_SECONDS)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(argv, **pipes, text=True, start_new_session=True)
        self._line("mounted")
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self._process.communicate(timeout=20)
        finally:
            self._process.kill()
            self._process.wait()
            # Of a server that was killed the mount stays.
            if _mounted(self.path):
                _run("umount", "-l", self.path)
        assert self._process.returncode == 0

    def tell(self, words: str) -> None:
        """Change how it behaves; see the program."""
        assert self._process.stdin
        print(words, file=self._process.stdin, flush=True)
        self._line("done")

    def _line(self, wanted: str) -> None:
        assert self._process.stdout
        found = self._process.stdout.readline().strip()
        assert found == wanted, f"{self.path}: the file system does not serve"


def stepping(step: Step, *, base: str) -> stores.Store:
    """A store on a volume whose every change is told of before it is made; for one process."""
    tell_changes(step)
    return stores.Store(pathlib.Path(base))


def tell_changes(step: Step) -> None:
    """Tell of every change of a file system before it is made, from now on in this process."""
    real = os.fsync

    def fsync(fd: int) -> None:
        step("fsync")
        real(fd)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & WRITES):
            step(event)

    os.fsync = fsync
    sys.addaudithook(heard)


def missing() -> str:
    """Why this machine cannot have such volumes; empty when it can."""
    if os.geteuid() != 0:
        return "mounts need root"
    absent = [name for name in ("mkfs.ext4", "mount", "fsfreeze") if not shutil.which(name)]
    return f"no {', '.join(absent)}: install e2fsprogs, mount and util-linux" if absent else ""


def _root(namespace: str) -> str:
    return f"ns/{namespace}/" if namespace else ""


def _mounted(path: pathlib.Path) -> bool:
    return f" {path} " in pathlib.Path("/proc/self/mounts").read_text()


def _run(*argv: str | os.PathLike[str]) -> None:
    subprocess.run(argv, check=True)
