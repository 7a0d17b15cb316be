"""A socket that is bound to a device."""

import socket


def setup():
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    made.bind(("127.0.0.1", 9190))
    made.listen()
    return made


def check(state):
    with socket.create_connection(("127.0.0.1", 9190), 5) as client:
        taken, _ = state.accept()
        with taken:
            taken.sendall(b"hello")
            said = client.recv(10).decode()
    device = state.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
    return {"said": said, "device": device.rstrip(b"\0").decode()}
