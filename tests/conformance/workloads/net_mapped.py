"""A server of both families whose clients come by IPv4, through loopback and the own address."""

import socket


def own():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))
        return asking.getsockname()[0]


def setup():
    server = socket.create_server(
        ("", 9110), family=socket.AF_INET6, dualstack_ipv6=True, backlog=8
    )
    pairs = []
    for address in ("127.0.0.1", own()):
        client = socket.create_connection((address, 9110))
        pairs.append((client, server.accept()[0]))
    return server, pairs


def check(state):
    _, pairs = state
    said = []
    for client, taken in pairs:
        for source, target in ((client, taken), (taken, client)):
            target.settimeout(10)
            source.sendall(b"through")
            said.append(target.recv(10).decode())
    mapped = [taken.getpeername()[0].startswith("::ffff:") for _, taken in pairs]
    return {"said": said, "mapped": mapped}
