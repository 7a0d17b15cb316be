"""One upload or download of `scripts/bench store`, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from chrek import config, manifest, storage

TRANSFER_SECONDS = 3600


def main(request: dict[str, Any]) -> None:
    """Prints seconds, the most memory and what went over the network as JSON."""
    settings = msgspec.convert(request["storage"], config.Storage)
    handle, source = Path(request["handle"]), Path(request["path"])
    described = manifest.decode((source / manifest.NAME).read_bytes())
    moved: list[int] = []
    store = storage.Storage(
        settings,
        "bench",
        transfer_seconds=TRANSFER_SECONDS,
        on_transfer=lambda _, size, __: moved.append(size),
    )
    mine = store.of("bench")
    shutil.rmtree(mine.base, ignore_errors=True)
    if request["kind"] == "up":
        if handle.exists():
            mine.delete(described.identityHash, stage_seconds=0)
        stage = mine.stage(described.identityHash, described.variant)
        shutil.rmtree(stage.path)
        # Its own files, not copies: what is measured is the upload.
        shutil.copytree(source, stage.path, copy_function=os.link)
        (stage.path / manifest.NAME).unlink()
        described = msgspec.structs.replace(described, uuid=stage.uuid)
        began = time.monotonic()
        handle.write_text(f"{stage.uuid} {mine.commit(stage, described)}")
    else:
        uuid, digest = handle.read_text().split()
        began = time.monotonic()
        artifact = mine.open(described.identityHash, described.variant, uuid, digest)
        with mine.fetched(artifact):
            pass
    seconds = time.monotonic() - began
    store.close()
    shutil.rmtree(mine.base, ignore_errors=True)
    # Not getrusage: that counts what the parent had when it started this process.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "moved_bytes": sum(moved)}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
