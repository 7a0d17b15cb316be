"""Connections within the tree, IPv4 and IPv6, between two processes, with data on the way."""

import os
import socket


def setup():
    held = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        server = socket.create_server((address, 0), family=family)
        if os.fork() == 0:
            client = socket.create_connection(server.getsockname()[:2])
            server.close()
            client.sendall(b"early")
            while data := client.recv(100):
                client.sendall(data[::-1])
            os._exit(0)
        taken, _ = server.accept()
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while len(taken.recv(10, socket.MSG_PEEK)) < 5:
            pass
        held.append((server, taken))
    return held, [True]


def check(state):
    held, first = state
    found = []
    for _, taken in held:
        taken.settimeout(10)
        if first[0]:
            # Left in the queue for whoever is restored.
            found.append(taken.recv(5, socket.MSG_PEEK).decode())
            continue
        early = taken.recv(5).decode()
        taken.sendall(b"abc")
        found.append(
            early
            + taken.recv(10).decode()
            + str(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        )
    first[0] = False
    return {"found": found}


def compare(before, after):
    assert before["found"] == ["early"] * 2
    assert after["found"] == ["earlycba1"] * 2
