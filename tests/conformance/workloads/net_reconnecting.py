"""A client that connects again when its connection breaks, as message queues do, in asyncio."""

import asyncio
import socket
import threading
import time

REASON = "who waited for what is lost goes on"
OPTIONS = {"differs": {"/fds/": REASON, "/10003/maps": REASON}}


def setup():
    counts = {"connected": 0, "broken": 0, "heard": 0}
    # The first connection stays in the queue of a server that accepts nobody: it leads nowhere.
    silent = socket.create_server(("127.0.0.1", 9160))
    target = [9160]

    async def serve(reader, writer):
        while data := await reader.read(10):
            counts["heard"] += len(data)

    async def send():
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", target[0])
                counts["connected"] += 1
                while target[0] != 9160:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.05)
                target[0] = 9161
                await reader.readexactly(1)
            except (OSError, EOFError):
                counts["broken"] += 1
                await asyncio.sleep(0.05)

    async def both():
        server = await asyncio.start_server(serve, "127.0.0.1", 9161)
        await asyncio.gather(server.serve_forever(), send())

    threading.Thread(target=asyncio.run, args=(both(),), daemon=True).start()
    while not counts["connected"]:
        time.sleep(0.01)
    return silent, counts, [True]


def check(state):
    _, counts, first = state
    if first.pop() if first else False:
        return dict(counts)
    deadline = time.monotonic() + 20
    while counts["heard"] < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    return dict(counts)


def compare(before, after):
    assert before == {"connected": 1, "broken": 0, "heard": 0}
    assert (after["connected"], after["broken"]) == (2, 1)
    assert after["heard"] >= 3
