"""What `scripts/bench store` measures: artifacts to and from stores, beside the best client there.

A real S3 server of this machine; the peer is rclone, from Debian, against the same server with the
same files, in turns. No cluster is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import msgspec

from chrek import config, digest, manifest, verification
from chrek import store as stores
from devcluster import cache, prerequisites, tools
from showcase import commands, errors, restores, wire

Object = dict[str, Any]
MEBIBYTE = 1 << 20
BUCKET = "bench"
KEY = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}
READ_AIM = 0.95
READ_PAIRS = 9
"""A disk that is a service of others takes once this long and once that long."""
TRANSFER_AIM = 0.85
MEMORY_AIM_BYTES = 512 * MEBIBYTE
SEALED_AIM = 1.05


def measure(sizes: Sequence[float], repeat: int) -> Object:
    """All figures, by size."""
    prerequisites.PACKAGES.update({"rclone": "rclone"})
    prerequisites.ensure(["rclone"])
    found = []
    base = commands.cache() / "bench"
    base.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        host = stack.enter_context(server(folder))
        inside = stack.enter_context(wire.wire())
        far = stack.enter_context(_serving(folder, f"{wire.THERE}:17070", inside))
        for gibibytes in sizes:
            commands.say(f"{gibibytes:g} GiB")
            size = int(gibibytes * restores.GIBIBYTE)
            found.append(_of_size(folder, host, far, size, repeat))
    base.rmdir()
    return {
        "load_average": os.getloadavg(),
        "peer": _version(),
        "server": "versitygw, posix, on this machine",
        "line": f"{wire.RATE}, of sealed_line",
        "sizes": found,
        "figures": [_headline(one) for one in found],
    }


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """An S3 server whose bucket is in a folder; its host and port."""
    (folder / "s3" / BUCKET).mkdir(parents=True)
    secret = folder / "secret"
    secret.mkdir()
    for name, value in {**KEY, "AWS_REGION": "us-east-1"}.items():
        (secret / name).write_text(value)
    with _serving(folder, "127.0.0.1:17070") as host:
        yield host


@contextlib.contextmanager
def _serving(folder: Path, host: str, before: Sequence[str] = ()) -> Iterator[str]:
    """A server of the bucket at an address.

    Args:
        before: what it is started behind.
    """
    program = tools.s3_server(cache.Cache.from_environment())
    env = {
        "ROOT_ACCESS_KEY_ID": KEY["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_ACCESS_KEY": KEY["AWS_SECRET_ACCESS_KEY"],
    }
    argv: list[str | Path] = [*before, program, f"--port={host}", "--quiet", "posix", folder / "s3"]
    child = subprocess.Popen(
        argv,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(1)
    try:
        yield host
    finally:
        child.terminate()
        child.wait()


def empty_bucket(folder: Path) -> None:
    """Have a server's bucket as it was at first."""
    shutil.rmtree(folder / "s3" / BUCKET)
    (folder / "s3" / BUCKET).mkdir()


def _of_size(folder: Path, host: str, far: str, size: int, repeat: int) -> Object:
    """Of one artifact.

    Args:
        host: of the server.
        far: of the same one at the end of a line, where nothing waits for a core.
    """
    volume = stores.Store(folder / "volume")
    artifact = _artifact(volume, size)
    kinds = ("up", "down", "sealed_down", "sealed_line", "read")
    pairs: dict[str, list[Object]] = {kind: [] for kind in kinds}
    for number in range(READ_PAIRS):
        pairs["read"].append(_read_pair(artifact, flip=bool(number % 2)))
    for number in range(repeat):
        for kind in ("up", "down"):
            settings = storage_at(folder, host, "plain")
            pairs[kind].append(_pair(kind, folder, artifact, settings, host))
        if not number:
            child("up", folder, artifact, storage_at(folder, host, "sealed", sealed=True))
        for kind, where in (("sealed_down", host), ("sealed_line", far)):
            sealed = storage_at(folder, where, "sealed", sealed=True)
            plain = storage_at(folder, where, "plain")
            pairs[kind].append(
                {
                    "ours": child("down", folder, artifact, sealed),
                    "peer": child("down", folder, artifact, plain),
                }
            )
    shutil.rmtree(artifact.path)
    empty_bucket(folder)
    return {"gibibytes": round(size / restores.GIBIBYTE, 3), "bytes": size, "pairs": pairs}


def _artifact(volume: stores.Store, size: int) -> stores.Artifact:
    """Memory of which nothing can be compressed, an eighth of it zero."""
    stage = volume.stage(restores.HASH, restores.VARIANT)
    chance = random.Random(size)  # noqa: S311 - only to be incompressible
    with (stage.images / "pages-1.img").open("wb") as file:
        for number in range(size // MEBIBYTE):
            file.write(bytes(MEBIBYTE) if number % 8 == 7 else chance.randbytes(MEBIBYTE))
    files = []
    with digest.Pool() as pool:
        for path in sorted(stage.images.iterdir()):
            with path.open("rb") as file:
                chunks = pool.chunks(file.fileno(), path.stat().st_size)
            name = f"{stores.IMAGES}/{path.name}"
            files.append(manifest.File(name=name, size=path.stat().st_size, chunks=chunks))
    described = manifest.Manifest(
        version=manifest.VERSION,
        uuid=stage.uuid,
        identityHash=restores.HASH,
        variant=restores.VARIANT,
        createdAt="2026-01-01T00:00:00Z",
        chrekVersion="0.1.0",
        rootPid=restores.ROOT_PID,
        stdio=["/dev/null"] * 3,
        volumes=[],
        source=manifest.Source(architecture="x", kernel="6", hostname="h", addresses=[]),
        files=files,
        steps={},
    )
    return volume.open(restores.HASH, restores.VARIANT, stage.uuid, volume.commit(stage, described))


def storage_at(folder: Path, host: str, prefix: str, *, sealed: bool = False) -> config.Storage:
    """What the chart's values would say of a prefix of the bucket."""
    key = folder / "key"
    if sealed and not key.exists():
        key.mkdir()
        (key / "key").write_bytes(os.urandom(32).hex().encode())
    return config.Storage(
        type="s3",
        s3=config.S3(
            uri=f"s3://{host}/{BUCKET}/{prefix}",
            plainHttp=True,
            credentialsPath=str(folder / "secret"),
        ),
        cache=config.Cache(path=str(folder / f"cache-{prefix}")),
        encryption=config.Encryption(keyPath=str(key) if sealed else ""),
    )


def _pair(
    kind: str, folder: Path, artifact: stores.Artifact, settings: config.Storage, host: str
) -> Object:
    """One transfer of ours and one of the peer's, each after the same preparation."""
    peer = _peer(kind, folder, artifact, host)
    return {"ours": child(kind, folder, artifact, settings), "peer": peer}


def child(
    kind: str, folder: Path, artifact: stores.Artifact, settings: config.Storage, *, name: str = ""
) -> Object:
    """A transfer by chrek in a process of its own, whose memory is seen.

    Args:
        kind: `up`, which replaces what went up under this name, or `down`.
        name: tells artifacts of one prefix apart.

    Raises:
        ShowError: the transfer failed.
    """
    os.sync()
    restores.prepare(artifact, cold=False)
    request = {
        "kind": kind,
        "storage": msgspec.to_builtins(settings),
        "path": str(artifact.path),
        "uuid": artifact.manifest.uuid,
        "handle": str(folder / f"{settings.s3.uri.rpartition('/')[2]}{name}.handle"),
    }
    argv = [sys.executable, "-m", "showcase.transfer_child", json.dumps(request)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise errors.ShowError(f"transfer {kind} failed:\n{done.stderr[-4000:]}")
    found: Object = json.loads(done.stdout.splitlines()[-1])
    return found


def _peer(kind: str, folder: Path, artifact: stores.Artifact, host: str) -> Object:
    """The same files by rclone: parts of 32 MiB, eight at once, both ways."""
    os.sync()
    restores.prepare(artifact, cold=False)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "RCLONE_CONFIG_X_TYPE": "s3",
        "RCLONE_CONFIG_X_PROVIDER": "Other",
        "RCLONE_CONFIG_X_ENDPOINT": f"http://{host}",
        "RCLONE_CONFIG_X_ACCESS_KEY_ID": KEY["AWS_ACCESS_KEY_ID"],
        "RCLONE_CONFIG_X_SECRET_ACCESS_KEY": KEY["AWS_SECRET_ACCESS_KEY"],
        "RCLONE_CONFIG": "/dev/null",
    }
    options = [
        "--transfers=8", "--s3-chunk-size=32M", "--s3-upload-concurrency=8",
        "--multi-thread-streams=8", "--s3-no-check-bucket", "--ignore-times",
    ]  # fmt: skip
    here, there = str(artifact.path), f"x:{BUCKET}/peer"
    back = folder / "peer-back"
    shutil.rmtree(back, ignore_errors=True)
    argv = ["rclone", "copy", *options, *((here, there) if kind == "up" else (there, str(back)))]
    began = time.monotonic()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    shutil.rmtree(back, ignore_errors=True)
    if done.returncode:
        raise errors.ShowError(f"rclone {kind} failed:\n{done.stderr[-4000:]}")
    return {"seconds": seconds}


def _read_pair(artifact: stores.Artifact, *, flip: bool) -> Object:
    """Reading all of a volume's artifact from the disk, with and without verification."""

    def once(*, verify: bool) -> float:
        restores.prepare(artifact, cold=True)
        began = time.monotonic()
        if verify:
            verification.whole(artifact)
        else:
            _read(artifact)
        return time.monotonic() - began

    order = (False, True) if flip else (True, False)
    seconds = {verify: once(verify=verify) for verify in order}
    return {"ours": {"seconds": seconds[True]}, "peer": {"seconds": seconds[False]}}


def _read(artifact: stores.Artifact) -> None:
    """As many threads and as large pieces as verification has, and nothing done with them."""
    with futures.ThreadPoolExecutor(digest.THREADS) as pool, contextlib.ExitStack() as stack:
        waiting = []
        for file in artifact.manifest.files:
            fd = os.open(artifact.path / file.name, os.O_RDONLY)
            stack.callback(os.close, fd)
            starts = range(0, file.size, manifest.CHUNK_BYTES)
            waiting += [pool.submit(_read_piece, fd, at) for at in starts]
        for one in waiting:
            one.result()


def _read_piece(fd: int, at: int) -> None:
    os.pread(fd, manifest.CHUNK_BYTES, at)


def _headline(one: Object) -> Object:
    pairs = one["pairs"]

    def seconds(kind: str, side: str) -> float:
        return statistics.median(float(pair[side]["seconds"]) for pair in pairs[kind])

    def rate(kind: str) -> float:
        return round(seconds(kind, "peer") / seconds(kind, "ours"), 3)

    peak = max(pair["ours"]["peak_bytes"] for kind in ("up", "down") for pair in pairs[kind])

    def sealed(kind: str) -> float:
        return round(seconds(kind, "ours") / seconds(kind, "peer"), 3)

    return {
        "gibibytes": one["gibibytes"],
        "read_verified_of_read": rate("read"),
        "read_aim_met": rate("read") >= READ_AIM,
        "up_of_peer": rate("up"),
        "down_of_peer": rate("down"),
        "transfer_aim_met": min(rate("up"), rate("down")) >= TRANSFER_AIM,
        "up_bytes_per_second": round(one["bytes"] / seconds("up", "ours")),
        "down_bytes_per_second": round(one["bytes"] / seconds("down", "ours")),
        "peak_bytes": peak,
        "memory_aim_met": peak <= MEMORY_AIM_BYTES,
        "sealed_of_plain_seconds": sealed("sealed_down"),
        "sealed_of_plain_seconds_on_the_line": sealed("sealed_line"),
        "sealed_aim_met": sealed("sealed_line") <= SEALED_AIM,
    }


def _version() -> str:
    done = subprocess.run(["rclone", "version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
