"""The program of test_standalone.py: a counter, a file, a connection to itself."""

import os
import pathlib
import secrets
import socket
import sys

nonce = secrets.token_hex(8)
ballast = secrets.token_bytes(1 << 20)
count = 0
path = pathlib.Path(sys.argv[2], "file")
kept = []
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
inner_client = socket.create_connection(server.getsockname())
inner_server, _ = server.accept()
print("server ready", flush=True)
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rw") as stream:
        verb, _, rest = stream.readline().strip().partition(" ")
        answer = "ok"
        if verb == "count":
            count += 1
            inner_client.sendall(b"%d\n" % count)
            answer = f"{nonce} {inner_server.recv(100).decode().strip()}"
        elif verb == "write":
            path.write_text(rest)
        elif verb == "read":
            answer = path.read_text()
        elif verb == "print":
            print(rest, flush=True)
        elif verb == "semaphore":
            kept.append(os.eventfd(0, os.EFD_SEMAPHORE))
        elif verb == "exit":
            os._exit(int(rest))
        stream.write(f"{answer}\n")
