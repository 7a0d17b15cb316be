"""UDP sockets: bound to all addresses, connected within the tree, with datagrams waiting."""

import socket


def setup():
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("", 9011))
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    one.bind(("::1", 9012))
    sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.connect(("::1", 9012))
    return bound, one, sender


def check(state):
    bound, one, sender = state
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"all", ("127.0.0.1", 9011))
    sender.send(b"six")
    for taken in (bound, one):
        taken.settimeout(10)
    return {"all": bound.recv(10).decode(), "six": one.recv(10).decode()}
