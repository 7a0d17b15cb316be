"""Listening TCP sockets: IPv4, IPv6 alone, both at once, with options, on one port twice."""

import socket


def server(family, port, *options):
    made = socket.socket(family)
    for level, name, value in options:
        made.setsockopt(level, name, value)
    made.bind(("", port))
    made.listen(7)
    return made


def setup():
    only = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    both = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    again = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return [
        server(socket.AF_INET, 9001),
        server(socket.AF_INET6, 9002, only),
        server(socket.AF_INET6, 9003, both),
        server(socket.AF_INET, 9004, again),
        server(socket.AF_INET, 9004, again),
    ]


def check(state):
    found = []
    for one, address in zip(state, ("127.0.0.1", "::1", "127.0.0.1", None, None), strict=True):
        if address is None:
            found.append(one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
            continue
        with socket.create_connection((address, one.getsockname()[1]), 5) as client:
            taken, _ = one.accept()
            with taken:
                taken.sendall(b"hello")
                found.append(client.recv(10).decode())
    return {"found": found}
