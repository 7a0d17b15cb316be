"""Connections that lead out of the tree: whoever waits for them gets an error, however it waits.

Each is one that its server has not accepted yet: nobody in the tree has its other end.
"""

import asyncio
import errno
import select
import socket
import threading
import time

REASON = "who waited for what is lost goes on"
OPTIONS = {
    "differs": {"/fds/": REASON, "/maps": REASON, "/threads": REASON, "/status/Threads": REASON}
}
WAYS = ("blocked", "poll", "edge", "select", "asyncio", "write")


def note(ended, name, call):
    try:
        ended[name] = f"{call()}"
    except OSError as error:
        ended[name] = errno.errorcode.get(error.errno, "?")
    except BaseException as error:
        ended[name] = repr(error)


def polled(one):
    poller = select.poll()
    poller.register(one, select.POLLIN)
    return "HUP" if poller.poll(60_000)[0][1] & select.POLLHUP else "?"


def edge(one):
    poller = select.epoll()
    poller.register(one, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
    return "HUP" if poller.poll(60)[0][1] & select.EPOLLHUP else "?"


def selected(one):
    return "readable" if select.select([one], [], [], 60)[0] else "?"


def through_asyncio(one):
    async def read():
        reader, _ = await asyncio.open_connection(sock=one)
        return await reader.read(10)

    return asyncio.run(read())


def setup():
    server = socket.create_server(("127.0.0.1", 9120), backlog=32)
    made = {name: socket.create_connection(("127.0.0.1", 9120)) for name in WAYS}
    for one in made.values():
        one.settimeout(None)
    ended = {}
    calls = {
        "blocked": lambda: made["blocked"].recv(10),
        "poll": lambda: polled(made["poll"]),
        "edge": lambda: edge(made["edge"]),
        "select": lambda: selected(made["select"]),
        "asyncio": lambda: through_asyncio(made["asyncio"]),
    }
    for name, call in calls.items():
        threading.Thread(target=note, args=(ended, name, call), daemon=True).start()
    return server, made, ended, [True]


def check(state):
    server, made, ended, first = state
    if first.pop() if first else False:
        return {"ended": dict(ended)}
    deadline = time.monotonic() + 20
    while len(ended) < len(WAYS) - 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    note(ended, "write", lambda: made["write"].send(b"x"))
    with socket.create_connection(("127.0.0.1", 9120), 5) as fresh:
        taken, _ = server.accept()
        with taken:
            taken.sendall(b"fresh")
            ended["server"] = fresh.recv(10).decode()
    return {"ended": dict(ended)}


def compare(before, after):
    assert before["ended"] == {}
    assert after["ended"] == {
        "blocked": "ENOTCONN",
        "poll": "HUP",
        "edge": "HUP",
        "select": "readable",
        "asyncio": "ENOTCONN",
        "write": "EPIPE",
        "server": "fresh",
    }
