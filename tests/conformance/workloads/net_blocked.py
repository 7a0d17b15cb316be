"""Threads that wait in accept and in recv on sockets of the tree."""

import socket
import threading
import time


def setup():
    server = socket.create_server(("127.0.0.1", 9150))
    client = socket.create_connection(("127.0.0.1", 9150))
    taken, _ = server.accept()
    heard = []

    def serve():
        while True:
            heard.append(server.accept()[0].recv(10).decode())

    def read():
        while data := taken.recv(10):
            heard.append(data.decode())

    for call in (serve, read):
        threading.Thread(target=call, daemon=True).start()
    return client, heard


def check(state):
    client, heard = state
    heard.clear()
    client.sendall(b"kept")
    with socket.create_connection(("127.0.0.1", 9150), 5) as fresh:
        fresh.sendall(b"fresh")
        deadline = time.monotonic() + 10
        while len(heard) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    return {"heard": sorted(heard)}
