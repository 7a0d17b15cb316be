"""TCP sockets that are not connected: fresh, bound, reset, in TIME_WAIT."""

import errno
import socket
import struct


def pair(server):
    client = socket.create_connection(server.getsockname())
    return client, server.accept()[0]


def setup():
    server = socket.create_server(("127.0.0.1", 9180))
    fresh = socket.socket()
    bound = socket.socket()
    bound.bind(("127.0.0.1", 9181))
    reset, other = pair(server)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    waited, last = pair(server)
    waited.shutdown(socket.SHUT_RDWR)
    last.recv(1)
    last.close()
    return server, fresh, bound, reset, waited


def check(state):
    server, fresh, bound, *ended = state
    with socket.create_connection(server.getsockname(), 5):
        server.accept()[0].close()
    found = [fresh.getsockname()[1], bound.getsockname()[1]]
    for one in ended:
        try:
            one.send(b"x")
            found.append("sent")
        except OSError as error:
            found.append(errno.errorcode[error.errno])
    return {"found": found, "received": [one.recv(1).decode() for one in ended]}


def compare(before, after):
    assert before["found"][:2] == after["found"][:2] == [0, 9181]
    assert set(before["found"][2:]) <= {"EPIPE", "ECONNRESET"}
    # Nothing was found out after the restore: they were closed sockets from its first moment on.
    assert after["found"][2:] == ["EPIPE", "EPIPE"]
    assert before["received"] == after["received"] == ["", ""]
