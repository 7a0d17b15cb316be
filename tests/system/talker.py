"""A worker that talks on its pod's addresses: it echoes on port 7000 and keeps the first caller."""

import socket
import sys
import threading

held: list[socket.socket] = []
waited: list[str] = []


def wait_for_more(connection: socket.socket) -> None:
    """A thread that hangs in recv during the capture."""
    try:
        connection.recv(100)
    except OSError as err:
        print(f"recv: {err}", flush=True)
    waited.append("ended")


def echo(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        connection.sendall(connection.recv(100))
        if not held:
            held.append(connection)
            threading.Thread(target=wait_for_more, args=(connection,), daemon=True).start()


for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 7000), family=family)
    threading.Thread(target=echo, args=(listener,), daemon=True).start()


def state() -> str:
    try:
        held[0].send(b"more")
    except OSError:
        return "error"
    return "open"


server = socket.create_server(("127.0.0.1", 8000))
print("worker ready", flush=True)
while True:
    client, _ = server.accept()
    with client, client.makefile("rw") as stream:
        match stream.readline().strip():
            case "held":
                stream.write(state() + "\n")
            case "waited":
                stream.write((waited or ["hangs"])[0] + "\n")
