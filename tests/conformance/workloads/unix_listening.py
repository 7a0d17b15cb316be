"""Listening Unix sockets: with a path, and abstract; connections not accepted yet."""

import os
import socket


def setup():
    servers = []
    for name in ("/tmp/listens.sock", "\0abstract"):
        server = socket.socket(socket.AF_UNIX)
        server.bind(name)
        server.listen()
        servers.append((server, name))
    os.chmod("/tmp/listens.sock", 0o660)
    return servers


def check(state):
    found = []
    for server, name in state:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
            server.accept()[0].sendall(b"hello")
            found.append(client.recv(10).decode())
    return {"found": found, "mode": oct(os.stat("/tmp/listens.sock").st_mode)}
