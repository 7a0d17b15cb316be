"""Options of TCP and UDP sockets, of those that listen and of those that are connected."""

import socket

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
OPTIONS_SET = (
    (SOL, socket.SO_KEEPALIVE, 1),
    (SOL, socket.SO_RCVBUF, 32768),
    (SOL, socket.SO_SNDBUF, 65536),
    (SOL, socket.SO_REUSEADDR, 1),
    (SOL, socket.SO_OOBINLINE, 1),
    (SOL, socket.SO_PRIORITY, 3),
    (TCP, socket.TCP_NODELAY, 1),
    (TCP, socket.TCP_KEEPIDLE, 17),
    (TCP, socket.TCP_KEEPINTVL, 7),
    (TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
    (socket.IPPROTO_IP, socket.IP_TTL, 33),
)


def setup():
    server = socket.socket()
    for option in OPTIONS_SET:
        server.setsockopt(*option)
    server.bind(("127.0.0.1", 0))
    server.listen()
    client = socket.create_connection(server.getsockname())
    for option in OPTIONS_SET:
        client.setsockopt(*option)
    client.settimeout(None)
    client.setsockopt(SOL, socket.SO_RCVTIMEO, b"\x05" + b"\0" * 15)
    taken, _ = server.accept()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.setsockopt(SOL, socket.SO_BROADCAST, 1)
    datagrams.setsockopt(SOL, socket.SO_REUSEPORT, 1)
    datagrams.bind(("", 9140))
    return server, client, taken, datagrams


def check(state):
    server, client, _, datagrams = state
    found = {}
    for name, one in (("server", server), ("client", client)):
        found[name] = [one.getsockopt(level, option) for level, option, _ in OPTIONS_SET]
    found["timeout"] = client.getsockopt(SOL, socket.SO_RCVTIMEO, 16)[0]
    found["datagrams"] = [
        datagrams.getsockopt(SOL, option) for option in (socket.SO_BROADCAST, socket.SO_REUSEPORT)
    ]
    return found
