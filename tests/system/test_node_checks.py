"""An agent's checks of its node against real kernels, mounts, namespaces and CRIU."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence

import pytest

from chrek import cgroups, facts
from chrek.agent import selfcheck
from chrek.checks import directories, node, report
from store import places

pytestmark = pytest.mark.system
OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED

PRIVILEGE = "node.privilege(procfs.status(os.getpid()), procfs.status(1))"
SECCOMP = """
import ctypes
libc = ctypes.CDLL(None)
code = (ctypes.c_uint16 * 4)(0x06, 0, 0, 0x7FFF)  # BPF_RET: SECCOMP_RET_ALLOW
program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0  # PR_SET_SECCOMP
"""


def elsewhere(expression: str, *prefix: str, before: str = "") -> report.Outcome:
    """The outcome of a check in another process, such as one with fewer privileges."""
    code = (
        "import dataclasses, json, os, pathlib\n"
        "from chrek import procfs\n"
        "from chrek.checks import directories, node\n"
        f"{before}\n"
        f"print(json.dumps(dataclasses.asdict({expression})))"
    )
    argv = [*prefix, sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return report.Outcome(**{**found, "status": report.Status(found["status"])})


def mount(*argv: str | pathlib.Path) -> None:
    subprocess.run(["mount", *argv], check=True)


@contextlib.contextmanager
def tmpfs(path: pathlib.Path, *options: str) -> Iterator[pathlib.Path]:
    path.mkdir(exist_ok=True)
    mount("-t", "tmpfs", *options, "check", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextlib.contextmanager
def read_only(path: pathlib.Path) -> Iterator[pathlib.Path]:
    mount("--bind", path, path)
    try:
        mount("-o", "remount,bind,ro", path)
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def scratch(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    with tmpfs(tmp_path / "scratch") as path:
        yield path


@pytest.mark.usefixtures("libexec")
def test_criu_finds_what_it_needs(scratch: pathlib.Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    found = node.criu(scratch)
    assert (found.status, found.detail) == (OK, f"CRIU {facts.criu_version()} has what it needs")
    assert facts.criu_version().startswith("4.")
    assert [*scratch.iterdir()] == []
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("libexec")
@pytest.mark.parametrize(
    ("capability", "words"),
    [
        ("net_admin", "Error (criu/libnetlink.c"),
        ("sys_admin", "chrek-enter: setns: Operation not permitted"),
    ],
)
def test_criu_says_what_it_lacks(scratch: pathlib.Path, capability: str, words: str) -> None:
    check = f"node.criu(pathlib.Path({str(scratch)!r}))"
    found = elsewhere(check, "setpriv", f"--bounding-set=-{capability}")
    assert found.status is FAILED
    assert found.detail.startswith(f"CRIU {facts.criu_version()}: criu check ")
    assert words in found.detail
    assert [*scratch.iterdir()] == []


def test_a_volume_that_is_mounted_read_only(tmp_path: pathlib.Path) -> None:
    assert directories.volume(tmp_path, "n1").status is OK
    with read_only(tmp_path):
        found = directories.volume(tmp_path, "n1")
    assert found.status is FAILED
    assert found.detail.startswith(f"mkdir {tmp_path}/.preflight-n1-")
    assert found.detail.endswith(": EROFS: Read-only file system")
    assert "mounted for writing" in found.hint


def test_a_volume_that_is_full(tmp_path: pathlib.Path) -> None:
    with tmpfs(tmp_path / "volume", "-o", "size=64k") as path:
        assert directories.volume(path, "n1").status is OK
        assert directories.space("store-space", path).status is WARNING
        with contextlib.suppress(OSError), open(path / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        found = directories.volume(path, "n1")
        assert found.status is FAILED
        assert found.detail.startswith(f"write to {path}/.preflight-n1-")
        assert found.detail.endswith(": ENOSPC: No space left on device")
        assert "larger" in found.hint
        assert [one.name for one in path.iterdir()] == ["filler"]
        full = directories.space("store-space", path)
        assert (full.status, full.detail) == (FAILED, f"{path}: 0.0 of 0.0 GiB free")


def test_a_volume_without_inodes(tmp_path: pathlib.Path) -> None:
    with tmpfs(tmp_path / "volume", "-o", "nr_inodes=1") as path:
        assert directories.space("store-space", path).detail == f"{path}: no inode of 1 is free"
        found = directories.volume(path, "n1")
        assert found.detail.startswith(f"mkdir {path}/.preflight-n1-")
        assert "ENOSPC" in found.detail


@pytest.fixture
def client() -> Iterator[places.Client]:
    """A mount that behaves as NFS: no ownership, no fsync of directories."""
    if not pathlib.Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse: modprobe fuse")
    # Everything is done as nobody, who must get there.
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        (folder / "served").mkdir()
        shutil.chown(folder / "served", places.NOBODY, places.NOBODY)
        yield stack.enter_context(places.Client(folder / "served", folder / "mounted"))


def test_a_volume_of_a_server(client: places.Client) -> None:
    found = directories.volume(client.path, "n1")
    assert found.status is OK, found
    assert f"{client.path} (fuse" in found.detail
    client.tell("read-only")
    found = directories.volume(client.path, "n1")
    assert (found.status, "EROFS" in found.detail) == (FAILED, True), found
    client.tell("gone")
    found = directories.volume(client.path, "n1")
    assert found.status is FAILED
    assert "the server of the volume" in found.hint
    client.tell("well")
    assert directories.volume(client.path, "n1").status is OK


async def test_a_server_that_hangs(client: places.Client) -> None:
    """The agent goes on, says so, and takes the answer when it comes."""
    store = selfcheck.Check(
        "store", lambda: directories.volume(client.path, "n1"), limit_seconds=0.3, hanging="wait"
    )
    kernel = selfcheck.Check("kernel", lambda: node.kernel(os.uname().release))
    made = selfcheck.Selfcheck([store, kernel])
    await asyncio.to_thread(client.tell, "slow 0.5")
    await asyncio.gather(made.look(store), made.look(kernel))
    assert made.problems() == ["store: did not answer for 0 s (wait)"]
    assert (await made.look(store)).detail.startswith("did not answer for ")
    await asyncio.to_thread(client.tell, "well")
    async with asyncio.timeout(30):
        while made.problems():
            await made.look(store)
            await asyncio.sleep(0.05)


def test_a_signal_path(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "signals"
    path.mkdir(mode=0o755)
    found = directories.signal_path(path)
    kind = directories.file_system(path)
    assert (found.status, found.detail) == (OK, f"{path} ({kind}), writable by root alone")
    with read_only(path):
        assert directories.signal_path(path).detail == f"{path}: EROFS: Read-only file system"
    os.chown(path, 65534, 65534)
    assert directories.signal_path(path).detail == f"{path} belongs to user 65534"
    path.rmdir()
    path.touch()
    assert directories.signal_path(path).detail == f"{path} is no directory"


def test_a_signal_path_on_a_server(client: places.Client) -> None:
    assert directories.signal_path(client.path).status is FAILED
    found = directories.signal_path(client.path, owner=places.NOBODY)
    kind = directories.file_system(client.path)
    assert (found.status, found.detail) == (
        *(WARNING, f"{client.path} ({kind}) may be shared with other nodes"),
    )


def test_staging(tmp_path: pathlib.Path, scratch: pathlib.Path) -> None:
    found = directories.staging(scratch)
    assert (found.status, found.detail) == (OK, f"{scratch} (tmpfs)")
    kind = directories.file_system(tmp_path)
    assert kind != "tmpfs", "pytest's --basetemp must be on a disk"
    assert directories.staging(tmp_path).detail == f"{tmp_path} is on {kind}, and no tmpfs"


def test_this_kernel() -> None:
    found = node.kernel(os.uname().release)
    assert (found.status, found.detail) == (OK, os.uname().release)


def test_privilege() -> None:
    found = elsewhere(PRIVILEGE)
    assert found.status is OK, found


@pytest.mark.parametrize(
    ("prefix", "before", "status", "words"),
    [
        (["setpriv", "--bounding-set=-sys_ptrace"], "", FAILED, "without SYS_PTRACE"),
        (["setpriv", "--bounding-set=-lease"], "", WARNING, "without LEASE: workers with it"),
        (["unshare", "--pid", "--fork", "--mount-proc"], "", FAILED, "not the node's PID name"),
        ([], SECCOMP, FAILED, "seccomp is in force (mode 2)"),
    ],
)
def test_less_privilege(
    prefix: Sequence[str], before: str, status: report.Status, words: str
) -> None:
    found = elsewhere(PRIVILEGE, *prefix, before=before)
    assert found.status is status
    assert words in found.detail


@pytest.fixture
def pod() -> Iterator[None]:
    """The cgroup of a pod, as there is always one where an agent runs."""
    _, hierarchies = node._hierarchies(cgroups.ROOT)
    own = hierarchies[0] / f"chrek-check-{uuid.uuid4().hex[:8]}"
    inner = own / f"pod{uuid.uuid4()}"
    inner.mkdir(parents=True)
    yield
    inner.rmdir()
    own.rmdir()


@pytest.mark.usefixtures("pod")
def test_cgroups() -> None:
    found = node.cgroups()
    assert found.status is OK, found
    assert found.detail in ("version 1", "version 2", "version 1 and 2")


@pytest.mark.usefixtures("pod")
def test_cgroups_that_are_mounted_read_only() -> None:
    # As a container has them that is not privileged.
    script = (
        f"for m in $(awk '$2 ~ \"^{cgroups.ROOT}\" {{print $2}}' /proc/self/mounts); do "
        'mount -o remount,bind,ro "$m"; done; exec "$0" "$@"'
    )
    found = elsewhere("node.cgroups()", "unshare", "--mount", "sh", "-ec", script)
    assert found.status is FAILED
    assert "cannot be written" in found.detail
