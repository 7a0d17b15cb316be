"""A worker that waits for its restore as published Dynamo workers do; `signals` or `files`.

The behaviour is that of ai-dynamo/dynamo's life cycles (dynamo/common: CheckpointConfig of the
older, SnapshotConfig of the newer): engine made, handlers or files looked for on the event loop,
ready file written, wait; captured -> exit 0, restored -> environment of restore-context.json,
serve.
"""

import asyncio
import json
import os
import pathlib
import signal
import sys

CONTROL = pathlib.Path("/chrek")


async def by_signal() -> str:
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[str] = asyncio.Queue()
    words = {
        signal.SIGUSR1: "captured",
        signal.SIGUSR2: "failed",
        signal.SIGCONT: "restored",
    }
    for number, word in words.items():
        loop.add_signal_handler(number, told.put_nowait, word)
    (CONTROL / "ready-for-checkpoint").write_text("ready")
    try:
        return await told.get()
    finally:
        for number in words:
            loop.remove_signal_handler(number)


async def by_file() -> str:
    (CONTROL / "ready-for-snapshot").write_text("ready")
    while True:
        if (CONTROL / "snapshot-complete").exists():
            return "captured"
        if (CONTROL / "restore-complete").exists():
            return "restored"
        await asyncio.sleep(0.1)


async def main() -> None:
    print("worker ready", flush=True)
    word = await (by_signal() if sys.argv[1] == "signals" else by_file())
    print("told", word, flush=True)
    if word == "captured":
        raise SystemExit(0)
    if word == "failed":
        raise SystemExit(1)
    told = json.loads((CONTROL / "restore-context.json").read_text(encoding="utf-8"))
    os.environ.update(told["env"])
    print("serves as", os.environ["POD_NAME"], flush=True)
    await asyncio.sleep(3600)


asyncio.run(main())
