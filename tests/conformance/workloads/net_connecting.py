"""A connection that is being made to a server whose queue is full."""

import errno
import select
import socket


def setup():
    server = socket.create_server(("127.0.0.1", 9130), backlog=0)
    held = []
    for _ in range(8):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", 9130))
        held.append(one)
    waiting = [one for one in held if not select.select([], [one], [], 0.3)[1]]
    assert waiting, "some wait for an answer to SYN"
    return server, held, waiting


def outcome(one):
    """What a program that waits for the connection sees."""
    poller = select.poll()
    poller.register(one, select.POLLOUT)
    if not poller.poll(0):
        return "waits"
    try:
        one.send(b"x")
    except OSError as error:
        return errno.errorcode[error.errno]
    return "sent"


def check(state):
    _, _, waiting = state
    return {"outcomes": sorted({outcome(one) for one in waiting})}


def compare(before, after):
    assert before["outcomes"] == ["waits"]
    assert after["outcomes"] == ["EPIPE"]
