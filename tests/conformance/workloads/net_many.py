"""Two hundred connections within the tree, in one epoll."""

import select
import socket

COUNT = 200


def setup():
    server = socket.create_server(("127.0.0.1", 0), backlog=COUNT)
    poller, pairs = select.epoll(), {}
    for _ in range(COUNT):
        client = socket.create_connection(server.getsockname())
        taken, _ = server.accept()
        poller.register(taken, select.EPOLLIN)
        pairs[taken.fileno()] = (client, taken)
    return server, poller, pairs


def check(state):
    _, poller, pairs = state
    for client, _ in pairs.values():
        client.sendall(b"x")
    heard = set()
    while len(heard) < COUNT:
        ready = poller.poll(10)
        assert ready, len(heard)
        for number, _ in ready:
            heard.add(number)
            pairs[number][1].recv(1)
    return {"heard": len(heard)}
