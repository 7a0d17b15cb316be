"""A Unix connection through a path between two processes, and a datagram socket with a name."""

import os
import socket


def setup():
    server = socket.socket(socket.AF_UNIX)
    server.bind("/tmp/peer.sock")
    server.listen()
    if os.fork() == 0:
        client = socket.socket(socket.AF_UNIX)
        client.connect("/tmp/peer.sock")
        while data := client.recv(100):
            client.sendall(data[::-1])
        os._exit(0)
    taken = server.accept()[0]
    named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    named.bind("/tmp/named.sock")
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect("/tmp/named.sock")
    return taken, named, sender


def check(state):
    taken, named, sender = state
    taken.sendall(b"abc")
    sender.send(b"datagram")
    return {"back": taken.recv(10).decode(), "datagram": named.recv(10).decode()}
