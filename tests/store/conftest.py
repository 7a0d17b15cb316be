"""The stores that the suite runs against, one after the other."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import pathlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest

from chrek.remote import bucket
from fakes import bad_s3
from store import places, registry_server, remote_places, s3_server

KINDS: dict[str, type[places.Place]] = {
    "ext4": places.Ext4,
    "nfs": places.NfsLike,
    "s3": remote_places.S3,
    "oci": remote_places.Oci,
}
"""Each has a fixture of its own, `KIND_place`."""
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    line = "needs(name, ...): what a kind of store must be able to do for this test: `Place.can`"
    config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" not in metafunc.fixturenames:
        return
    needed = _needed(metafunc.definition)
    kinds = [kind for kind, place in KINDS.items() if needed <= place.can]
    assert kinds, f"no kind of store can {needed}"
    metafunc.parametrize("place", kinds, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> places.Place:
    """An empty store of one kind; the test runs once for each kind that can what it needs.

    To add a kind: write a class of `places.Place`, whose docstrings say what the suite asks of it,
    give it a fixture `KIND_place` and a line in `KINDS`. A test that asks for something that not
    every kind has is marked `needs("...")`; a server is the test's own then. The nodes `a`, `b` and
    `c` share nothing but the store itself: a cache or a client is each node's own, also from test
    to test.
    """
    found = request.getfixturevalue(f"{request.param}_place")
    assert isinstance(found, places.Place)
    return found


@pytest.fixture
def ext4_place(volume: places.Volume) -> Iterator[places.Ext4]:
    with _directory(volume.path / "ext4", owner=0) as tree:
        yield places.Ext4(tree, volume)


@pytest.fixture
def nfs_place(volume: places.Volume, clients: dict[str, places.Client]) -> Iterator[places.NfsLike]:
    with _directory(volume.path / "nfs", owner=places.NOBODY) as tree:
        yield places.NfsLike(tree, volume, clients)


@pytest.fixture
def s3_place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[remote_places.S3]:
    server = request.getfixturevalue("own_s3" if _needed(request.node) else "s3")
    volume = request.getfixturevalue("servers") if _needed(request.node) else None
    place = remote_places.S3(tmp_path, server, f"bucket-{next(_numbers)}", volume)
    with contextlib.closing(place):
        yield place


@pytest.fixture
def oci_place(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> Iterator[remote_places.Oci]:
    server = request.getfixturevalue("own_registry" if _needed(request.node) else "registry")
    volume = request.getfixturevalue("servers") if _needed(request.node) else None
    place = remote_places.Oci(tmp_path, server, f"store-{next(_numbers)}", volume)
    with contextlib.closing(place):
        yield place


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.Server]:
    with s3_server.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def home(s3: s3_server.Server) -> str:
    """The name of an empty bucket."""
    name = f"bucket-{next(_numbers)}"
    s3.make_bucket(name)
    return name


@pytest.fixture
def one(s3: s3_server.Server, home: str) -> bucket.Bucket:
    """What the product makes of it."""
    return bucket.Bucket(s3.settings(f"{home}/pre/fix"), limits=s3_server.QUICK)


@pytest.fixture
async def bad(s3: s3_server.Server) -> AsyncIterator[bad_s3.Proxy]:
    """A proxy in front of the server."""
    async with bad_s3.Proxy(s3.host) as proxy:
        yield proxy


@pytest.fixture
def behind(s3: s3_server.Server, home: str, bad: bad_s3.Proxy) -> bucket.Bucket:
    """The bucket as it is seen through the proxy."""
    settings = s3.settings(f"{home}/pre/fix", host=bad.host)
    return bucket.Bucket(settings, limits=s3_server.QUICK)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registry_server.Server]:
    with registry_server.running(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def own_s3(
    tmp_path: pathlib.Path, servers: places.Volume, hasty: None
) -> Iterator[s3_server.Server]:
    """One that may have troubles: no other test uses it."""
    with (
        _directory(servers.path, owner=0) as data,
        s3_server.running(tmp_path / "server", data=data) as server,
    ):
        yield server


@pytest.fixture
def own_registry(
    tmp_path: pathlib.Path, servers: places.Volume, hasty: None
) -> Iterator[registry_server.Server]:
    """As `own_s3`."""
    with (
        _directory(servers.path, owner=0) as data,
        registry_server.running(tmp_path / "server", data=data) as server,
    ):
        yield server


@pytest.fixture
def hasty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    remote_places.hasten(monkeypatch, silence="silent" in _needed(request.node))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[places.Volume]:
    """Where servers that may have troubles keep their data."""
    if problem := places.missing():
        pytest.skip(problem)
    with places.Volume(tmp_path_factory.mktemp("servers")) as found:
        yield found


@pytest.fixture(scope="session")
def folder() -> Iterator[pathlib.Path]:
    """Where everything is mounted."""
    with tempfile.TemporaryDirectory(prefix="chrek-store-") as name:
        # The NFS-like volume is served by nobody, who cannot enter what is root's alone.
        pathlib.Path(name).chmod(0o711)
        yield pathlib.Path(name)


@pytest.fixture(scope="session")
def volume(folder: pathlib.Path) -> Iterator[places.Volume]:
    if problem := places.missing():
        pytest.skip(problem)
    with places.Volume(folder) as found:
        (found.path / "ext4").mkdir()
        (found.path / "nfs").mkdir()
        yield found


@pytest.fixture(scope="session")
def clients(volume: places.Volume, folder: pathlib.Path) -> Iterator[dict[str, places.Client]]:
    if not importlib.util.find_spec("mfusepy"):
        pytest.skip("no mfusepy: install the development lock")
    if not pathlib.Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse: modprobe fuse")
    with contextlib.ExitStack() as stack:
        yield {
            node: stack.enter_context(places.Client(volume.path / "nfs", folder / node))
            for node in ("a", "b", "c")
        }


def _needed(test: pytest.Item) -> set[str]:
    return {name for mark in test.iter_markers("needs") for name in mark.args}


@contextlib.contextmanager
def _directory(parent: pathlib.Path, *, owner: int) -> Iterator[pathlib.Path]:
    """An empty one, alone in a directory that no client has ever looked for."""
    place = parent / f"place-{next(_numbers)}"
    place.mkdir(mode=0o700)
    path = place / "base"
    path.mkdir(mode=0o700)
    shutil.chown(place, owner, owner)
    shutil.chown(path, owner, owner)
    try:
        yield path
    finally:
        shutil.rmtree(place)
