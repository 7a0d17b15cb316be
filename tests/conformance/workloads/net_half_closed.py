"""A connection within the tree of which one side has said that it sends no more."""

import socket


def setup():
    server = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(server.getsockname())
    two, _ = server.accept()
    one.sendall(b"tail")
    one.shutdown(socket.SHUT_WR)
    return one, two


def check(state):
    one, two = state
    for side in state:
        side.settimeout(10)
    said = two.recv(4, socket.MSG_PEEK)
    two.sendall(b"x")
    return {"said": said.decode(), "back": one.recv(1).decode()}
