"""The worker of the system tests: a counter in memory, files, a thread, TCP to itself."""

import os
import pathlib
import secrets
import socket
import sys
import threading
import time

nonce = secrets.token_hex(16)
ballast = secrets.token_bytes(int(sys.argv[1]) if len(sys.argv) > 1 else 1 << 20)
counter = 0
pathlib.Path("/var/tmp/state").write_text(nonce)
pathlib.Path("/dev/shm/state").write_text(nonce)
if os.access("/etc", os.W_OK):
    os.unlink("/etc/debian_version")
opened = open("/var/tmp/log", "a+")  # noqa: SIM115
server = socket.create_server(("127.0.0.1", 8000))
inner_client = socket.create_connection(("127.0.0.1", 8000))
inner_server, _ = server.accept()
ticks = 0


def tick() -> None:
    global ticks
    while True:
        time.sleep(0.01)
        ticks += 1


threading.Thread(target=tick, daemon=True).start()


def answer(words: list[str]) -> str:
    global counter
    match words:
        case ["count"]:
            counter += 1
            return f"{nonce} {counter}"
        case ["inner"]:
            inner_client.sendall(b"through\n")
            return inner_server.recv(100).decode().strip()
        case ["file"]:
            opened.write("x")
            opened.flush()
            return f"{pathlib.Path('/var/tmp/state').read_text()} {opened.tell()}"
        case ["link"]:
            os.link("/var/tmp/log", "/var/tmp/kept")
            os.unlink("/var/tmp/log")
            return "linked"
        case ["shm"]:
            return pathlib.Path("/dev/shm/state").read_text()
        case ["whiteout"]:
            return str(os.path.exists("/etc/debian_version"))
        case ["ticks"]:
            before = ticks
            time.sleep(0.1)
            return str(ticks > before)
        case ["print", text]:
            print(text, flush=True)
            return "printed"
        case ["exit", code]:
            os._exit(int(code))
    return "?"


print("worker ready", flush=True)
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rw") as stream:
        stream.write(answer(stream.readline().split()) + "\n")
