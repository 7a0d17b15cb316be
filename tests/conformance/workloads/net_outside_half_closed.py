"""A connection that leads out of the tree, closed by its peer: what is lost is no end of file.

The peer was a process of the tree that ended; it left data that nobody has read yet.
"""

import errno
import socket


def setup():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    taken, _ = server.accept()
    taken.sendall(b"unread")
    taken.close()
    while client.recv(10, socket.MSG_PEEK) != b"unread":
        pass
    return server, client, [True]


def check(state):
    _, client, first = state
    if first.pop() if first else False:
        return {"read": client.recv(3, socket.MSG_PEEK).decode()}
    try:
        return {"read": client.recv(10).decode()}
    except OSError as error:
        return {"read": errno.errorcode[error.errno]}


def compare(before, after):
    assert before["read"] == "unr"
    assert after["read"] == "ENOTCONN", "neither the end of the file nor a part of the data"
