"""`chrek verify` and `chrek copy` on a real server: damage is named, and nothing stays behind."""

from __future__ import annotations

import asyncio
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
from click import testing

from chrek import cli, config, errors
from chrek import store as stores
from chrek.remote import ocikeys
from fakes import bad_s3
from store import remote_places, s3_server, samples
from store.samples import HASH, PAGES
from store.test_damage import flip

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from chrek.cli import main; main()"
)
"""What runs the tests may ignore Ctrl-C, and its children would then, too."""
PATIENCE_SECONDS = 20


@pytest.fixture(params=["s3", "oci"])
def server(request: pytest.FixtureRequest) -> remote_places.Remote:
    found = request.getfixturevalue(f"{request.param}_place")
    assert isinstance(found, remote_places.Remote)
    return found


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def settings(
    request: pytest.FixtureRequest, server: remote_places.Remote, tmp_path: pathlib.Path
) -> config.Storage:
    """How the server is reached, with a key or without."""
    if not request.param:
        return server.settings("a")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text(bytes(range(32)).hex())
    encryption = config.Encryption(keyPath=str(secret))
    return msgspec.structs.replace(server.settings("a"), encryption=encryption)


def arguments(settings: config.Storage, prefix: str = "--") -> list[str]:
    """How a command line names a store on a server."""
    one = settings.s3 if settings.type == "s3" else settings.oci
    found = [f"{prefix}plain-http"] if one.plainHttp else []
    if one.credentialsPath:
        found += [f"{prefix}credentials", one.credentialsPath]
    if settings.encryption.keyPath:
        found += [f"{prefix}key", settings.encryption.keyPath]
    return found


def uri(settings: config.Storage) -> str:
    return settings.s3.uri if settings.type == "s3" else settings.oci.uri


def largest(server: remote_places.Remote, sample: samples.Sample) -> str:
    """The pack with most of the artifact; whether it is sealed or not."""
    if isinstance(server, remote_places.Oci):
        return server.contents(sample)[0]
    return max(server.listing(), key=lambda name: len(server.read(name)))


def test_what_verify_finds(
    server: remote_places.Remote,
    settings: config.Storage,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ocikeys, "SETTLE_SECONDS", 0.5)
    one = remote_places._storage(settings)
    sample = samples.commit(one.of(remote_places.OWN), samples.few())
    one.close()
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def verify() -> tuple[int, str]:
        command = ["verify", uri(settings), HASH, "--scratch", str(scratch)]
        result = testing.CliRunner().invoke(cli.main, [*command, *arguments(settings)])
        assert list(scratch.iterdir()) == []
        return result.exit_code, result.stdout

    def bad(told: str) -> str:
        code, said = verify()
        assert code == errors.ArtifactError.exit_code, said
        assert said.startswith(f"{sample.path} {told} BAD "), said
        return said

    read = f"{sample.digest} {sample.manifest.bytes}"
    code, said = verify()
    assert code == 0, said
    assert said.startswith(f"{sample.path} {read} ok ")
    pack = largest(server, sample)
    data = server.read(pack)
    server.write(pack, flip(data, len(data) // 2))
    name = pack.rpartition("/")[2]
    found = re.search(rf"BAD {PAGES}: the bytes from (\d+) on.* at \d+ of pack {name}", bad(read))
    assert found
    # The pack has little more than this file.
    assert abs(int(found[1]) - len(data) // 2) < 1 << 20
    server.remove(pack)
    assert name in bad(read)
    server.write(pack, data)
    assert verify()[0] == 0


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `chrek ...` with an empty scratch directory."""
    started: list[subprocess.Popen[bytes]] = []
    (tmp_path / "scratch").mkdir()

    def call(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, *words, "--scratch", str(tmp_path / "scratch")]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["verify", "copy from", "copy to"])
async def test_who_is_told_to_end_leaves_nothing(
    s3: s3_server.Server,
    home: str,
    bad: bad_s3.Proxy,
    start: Callable[..., subprocess.Popen[bytes]],
    tmp_path: pathlib.Path,
    command: str,
    number: int,
) -> None:
    """While the server keeps it waiting for a pack, or for the answer to one."""
    (tmp_path / "here").mkdir()
    here = stores.Store(tmp_path / "here")
    sending = command == "copy to"
    bad.fail(method="PUT" if sending else "GET", part="packs/", mute=True)
    settings = config.Storage(type="s3", s3=s3.settings(f"{home}/prefix", host=bad.host))
    if sending:
        samples.commit(here, samples.few())
        words = ["copy", "./here", uri(settings), HASH, *arguments(settings, "--to-")]
    else:
        direct = config.Storage(
            type="s3",
            s3=s3.settings(f"{home}/prefix"),
            cache=config.Cache(path=str(tmp_path / "cache")),
        )
        one = remote_places._storage(direct)
        await asyncio.to_thread(samples.commit, one.of(remote_places.OWN), samples.few())
        await asyncio.to_thread(one.close)
        words = ["verify", uri(settings), HASH, *arguments(settings)]
        if command == "copy from":
            words = ["copy", uri(settings), "./here", HASH, *arguments(settings, "--from-")]
    before, stored = here.artifacts(), s3.objects(home)
    process = start(*words)
    begin = time.monotonic()
    while not bad.count("PUT" if sending else "GET", "packs/"):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() - begin < PATIENCE_SECONDS
        await asyncio.sleep(0.01)
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()], "it is half done"
    process.send_signal(number)
    _, said = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number
    assert b"Traceback" not in said
    assert list((tmp_path / "scratch").iterdir()) == []
    assert here.artifacts() == before
    assert s3.objects(home) == stored
