"""Pairs of Unix sockets of every type, with data on the way."""

import socket


def setup():
    pairs = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        one, two = socket.socketpair(socket.AF_UNIX, kind)
        one.send(b"first")
        one.send(b"second")
        pairs.append((one, two))
    return pairs


def check(state):
    found = []
    for one, two in state:
        said = two.recv(5), two.recv(6)
        for part in said:
            one.send(part)
        found.append([part.decode() for part in said])
    return {"found": found}
